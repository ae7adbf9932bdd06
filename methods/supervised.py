"""Supervised adversarial training: no pre-training; the row that every pre-training method must beat."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from bench.method import MethodContext, MethodInfo, Stage
from bench.nn import Encoder
from bench.recipe import MethodConfig


class SupervisedConfig(MethodConfig):
    """No settings: all numbers are the protocol's."""


class Supervised:
    """Adversarial full finetuning (AFF) of a freshly initialised encoder: "Supervised" in DeACL's Table 8."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="Supervised",
        year=2019,
        paper="Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019",
        url="https://arxiv.org/abs/1901.08573",
        summary="adversarial training with labels from scratch; no pre-training",
        views="none",
        passes="none",
        outside="nothing; its protocol uses the labels",
        protocols=("aff",),
        bibtex="""@inproceedings{zhang2019trades,
  title = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent and
            Jordan, Michael I.},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}""",
    )
    config_type: ClassVar[type[MethodConfig]] = SupervisedConfig
    native_encoder: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: SupervisedConfig) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield nothing."""
        self._encoder = ctx.new_encoder("supervised")
        yield from ()

    def result(self) -> Encoder:
        """Return the encoder as it was initialised."""
        return self._encoder
