"""AP-DPE as a plug-in of the bench."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, ClassVar

from bench.method import MethodContext, MethodInfo, Stage
from bench.nn import Encoder
from bench.recipe import MethodConfig
from methods.ap_dpe.settings import APDPEConfig
from methods.ap_dpe.stage import PretextStage
from methods.ap_dpe.trunk import MeanOf, resnet_of, with_layer4, without_layer4


class APDPE:
    """One stage: joint adversarial training on Selfie, Jigsaw and Rotation with a diversity term.

    Under uniform fidelity the trunk is the common encoder up to layer 3: at width 64 of ResNet-18 its 256 channels
    are Selfie's, with 4 heads of 64. The paper's ResNet-50 has 1,024, with 16 heads.
    :class:`methods.ap_dpe.attention.AttentionPooling` derives both from the trunk. The ResNet-18 results that later
    papers report for AP-DPE come without such details, so this variant is the bench's own.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        title="AP-DPE",
        year=2020,
        paper="Adversarial Robustness: From Self-Supervised Pre-Training to Fine-Tuning, CVPR 2020",
        url="https://arxiv.org/abs/2003.12862",
        summary="adversarial pre-training on rotation, jigsaw and Selfie, their attacks made diverse",
        views="3",
        passes="36 fb",
        bibtex="""@inproceedings{chen2020adversarial,
  title = {Adversarial Robustness: From Self-Supervised Pre-Training to Fine-Tuning},
  author = {Chen, Tianlong and Liu, Sijia and Chang, Shiyu and Cheng, Yu and Amini, Lisa and Wang, Zhangyang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020}
}""",
    )
    config_type: ClassVar[type[MethodConfig]] = APDPEConfig
    native_encoder: ClassVar[Mapping[str, Any]] = {
        "arch": "preact-resnet50",
        "stem_init": "default",
        "normalisation": "imagenet",
    }

    def __init__(self, config: APDPEConfig) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield the one stage."""
        self._stage = PretextStage(self._config.stage1, ctx, self._config.task, self._config.exported)
        yield self._stage

    def result(self) -> Encoder:
        """Return the trunk with the layer 4 that the configuration exports."""
        return self._stage.encoder

    def form(self, plain: Encoder) -> Encoder:
        """Return ``plain`` with the exported end of the configuration: none, the mean of two, or its own."""
        if self._config.exported == "trunk":
            return without_layer4(plain)
        if self._config.exported == "mean":
            layer4 = resnet_of(plain).layer4
            return with_layer4(plain, MeanOf(layer4, deepcopy(layer4)))
        return plain
