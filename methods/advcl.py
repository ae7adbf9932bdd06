"""AdvCL: adversarial contrastive learning with pseudo-supervision (Fan et al., NeurIPS 2021).

Four views of each image are drawn together: two strong ones, an adversarial one and its high frequencies. A
second adversarial view learns pseudo-labels, clusters of another encoder's features, by cross-entropy. The
authors' clusters come from an encoder trained on ImageNet. Here an ordinary SSL encoder of the same data
replaces it by default. It is stage 1 and part of the cost, so results are not directly comparable with the paper's.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attack import PGD, attacking
from bench.data import ImageSource
from bench.data.views import StrongView, WeakView
from bench.files import file_digest
from bench.method import MethodContext, MethodInfo, Stage, StepLoss
from bench.nn import Encoder, branches, mlp
from bench.recipe import AttackSettings, MethodConfig, TrainPlan, WithoutFolders
from methods.high_frequency import high_frequency, high_pass
from methods.losses import in_float32
from methods.pseudo_labels import FileLabels, KMeansLabels, PseudoLabels, clusters_made
from methods.schedules import advcl_rate
from methods.simclr import SimCLRStage, SimCLRStageSettings

_BASE_TEMPERATURE = 0.07
"""AdvCL's contrastive loss carries the factor tau / 0.07 = 7.142857, inherited from supervised contrastive learning."""

_UNKNOWN = -1
"""Placeholder for labels that are not computed yet; the cross-entropy of a batch of them is NaN."""


class AdvCLSettings(TrainPlan, AttackSettings):
    """AdvCL as published.

    Source: LijieFan/AdvCL at 24cb7a6, ``pretraining_advCL.py``, ``utils.py``, ``losses.py``, ``fr_util.py``.
    """

    epochs: int = Field(default=1000, ge=1)
    """The checkpoint called epoch 1000 was trained for 1001, the last of them at a learning rate near the floor."""
    batch_size: int = Field(default=512, ge=2)
    drop_last: bool = False
    lr: float = Field(default=0.5, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    """On every parameter, batch-norm and biases included."""
    schedules = {**TrainPlan.schedules, "advcl": advcl_rate}
    shaped_by = {**TrainPlan.shaped_by, "advcl": {"warmup_epochs", "warmup_start", "lr_floor"}}
    schedule: str = "advcl"
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.01, ge=0)
    lr_floor: float = Field(default=5e-4, ge=0)

    temperature: float = Field(default=0.5, gt=0)
    lam: float = Field(default=0.2, ge=0)
    """lambda, the weight of the cross-entropy on pseudo-labels."""
    clusters: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=(2, 10, 50, 100, 500), min_length=1)
    """Numbers of clusters, each with its own labels and linear classifier."""
    projection_dim: int = Field(default=128, ge=1)
    """Outputs of the projector; its hidden layer is as wide as the features."""
    radius: float | None = Field(default=None, gt=0)
    """Frequencies below it, in periods per image, are left out of the high-frequency view; by default a quarter
    of the shorter side, 8 at 32 x 32."""
    view: WeakView = WeakView()
    """The view that is attacked, and from which the high frequencies are taken."""
    strong_view: StrongView = StrongView(
        order="crop_first",
        crop_scale=(0.2, 1.0),
        interpolation="bilinear",
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grayscale_prob=0.2,
        blur_prob=0.0,
    )


class AdvCLConfig(MethodConfig):
    """AdvCL's own stage, the source of its pseudo-labels, and the stage that makes them."""

    pseudo_labels: Annotated[str, WithoutFolders] = "kmeans"
    """``kmeans``: clusters of the features that stage 1 learns. ``none``: AdvCL w/o pseudo-supervision, the loss
    without its cross-entropy. ``file:PATH``: arrays ``k2``, ``k10``, ... of an .npz file, such as the authors'
    labels. Only ``kmeans`` trains stage 1."""
    pseudo_labels_sha256: str | None = None
    """SHA-256 of the label file. Filled in automatically, for the record; checked when the labels are read."""
    stage1: SimCLRStageSettings = SimCLRStageSettings()
    stage2: AdvCLSettings = AdvCLSettings()

    @field_validator("pseudo_labels", mode="before")
    @classmethod
    def _of_a_known_source(cls, given: object) -> object:
        if not (isinstance(given, str) and re.fullmatch("kmeans|none|file:.+", given)):
            raise ValueError("must be kmeans, none or file:PATH")
        return given

    @field_validator("pseudo_labels_sha256")
    @classmethod
    def _of_a_file(cls, given: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("pseudo_labels", "file:")  # absent: it has a fault of its own
        if given is not None and not source.startswith("file:"):
            raise ValueError(f"pseudo_labels {source!r} are in no file. Leave it out")
        return given

    @model_validator(mode="after")
    def _with_the_digest(self) -> Self:
        # A stored recipe has it: an encoder is read where its labels are not, and no path of a stranger's is opened.
        if self.pseudo_labels_sha256 is not None or not self.pseudo_labels.startswith("file:"):
            return self
        return self.model_copy(update={"pseudo_labels_sha256": _digest(_path(self.pseudo_labels))})

    @property
    def unread(self) -> dict[str, str]:
        """What only the clusters of stage 1's features, or only pseudo-labels, need."""
        clusters = () if self.pseudo_labels == "kmeans" else ("stage1", "stage2.clusters")
        labels = ("stage2.lam",) if self.pseudo_labels == "none" else ()
        return dict.fromkeys((*clusters, *labels), f"pseudo_labels={self.pseudo_labels}")

    def remarks(self, images: int) -> Iterator[str]:
        """Name the numbers of clusters that so few images cannot have."""
        wanted = self.stage2.clusters
        made = clusters_made(wanted, images)
        fewer = [k for k, number in zip(wanted, made, strict=True) if k > number]
        if self.pseudo_labels == "kmeans" and fewer:
            yield (
                f"stage2.clusters {', '.join(map(str, fewer))}: more than half of the {images} training images. "
                f"{images // 2} clusters are made instead of each, and the recipe does not say so. For each number "
                f"once, type --set stage2.clusters=[{','.join(map(str, dict.fromkeys(made)))}]"
            )


@in_float32
def multi_view_contrastive(views: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the contrastive loss of each image, averaged over its V views as anchors: V times [N, D] -> [N].

    For an anchor a, with P its V - 1 other views and s the cosine similarity, the loss is tau / 0.07 times the
    mean over p in P of -log(exp(s_ap / tau) / sum over b != a of exp(s_ab / tau)); b runs over all V N - 1
    other views, the positives included.

    Args:
        views: embeddings, not normalised, the same images in the same order in each.
        temperature: tau > 0.

    Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), equation 2 with one class an image.
    """
    z = F.normalize(torch.stack(list(views)), dim=2)
    flat = z.flatten(0, 1)
    similarity = flat @ flat.T / temperature
    eye = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    everyone = similarity.masked_fill(eye, -torch.inf).logsumexp(1).view(z.shape[:2])
    positive = (z * (z.sum(0) - z)).sum(2) / (len(z) - 1) / temperature
    loss: Tensor = everyone - positive
    return temperature / _BASE_TEMPERATURE * loss.mean(0)


class _Views(NamedTuple):
    strong: tuple[Tensor, ...]
    weak: Tensor
    high: Tensor
    labels: Tensor
    generator: torch.Generator


class AdvCLStage(Stage):
    """Minimises L_CL(x_cl, t1, t2, x_h) + lambda / 5 sum over k of CE_k(x_ce).

    t1 and t2 are strong views, x_h the high frequencies of the weak view w. x_cl and x_ce both start at w;
    x_cl ascends L_CL, x_ce the cross-entropy on pseudo-labels. The authors attack both at once, which is the same,
    as they share no path. As in their code:

    - the convolutions are shared, and batch-norm has three branches: ``normal`` for t1, t2 and x_h, in three
      forward passes; ``encoder`` for x_cl, the branch that is handed on; ``pgd_ce`` for x_ce;
    - the one projector serves every view and feeds L_CL alone; the classifiers take the raw features;
    - attacks use batch statistics and move the running ones: with 5 steps, ``encoder`` and ``pgd_ce`` see 6
      batches a step, most of them half attacked. Their statistics are what is evaluated.

    Deviations, none of which changes an encoder's gradient: t1, t2 and x_h are embedded once a step, not once
    more for each step of the attack, and x_ce is not projected, so that the running statistics of ``normal`` and
    of the projector, which are never read, move less often; heads that no loss reaches are left out. Two more
    deviations do change it: batch statistics are those of the whole batch, not of each GPU's share; and an encoder
    that normalises its input (theirs does not, nor ours under ``--fidelity native``) normalises x_h as well.

    Without pseudo-labels (None) L is L_CL, and ``pgd_ce`` stays as it was initialised.
    """

    name = "advcl"
    distributed = True
    labels: Tensor
    high_pass: Tensor

    def __init__(self, settings: AdvCLSettings, ctx: MethodContext, pseudo_labels: PseudoLabels | None) -> None:
        super().__init__()
        count = len(ctx.images)
        self.plan: AdvCLSettings = settings
        self.encoder, self.normal, self.pgd_ce = branches(ctx.new_encoder(self.name), 3)
        self._pseudo_labels, self._threat = pseudo_labels, ctx.threat
        classes = pseudo_labels.classes if pseudo_labels else ()
        if not classes:  # no loss reaches what the branch does not share
            for parameter in set(self.pgd_ce.parameters()) - set(self.encoder.parameters()):
                parameter.requires_grad_(False)
        width = self.encoder.feature_dim
        with ctx.scoped(self.name, "heads"):
            self.projector = mlp([width, width, settings.projection_dim], batch_norm=True)
            self.classifiers = nn.ModuleList(nn.Linear(width, k) for k in classes)
        self.register_buffer("labels", torch.full((len(classes), count), _UNKNOWN))
        height, width = ctx.images.shape[2:]
        radius = settings.radius or min(height, width) / 4
        self.register_buffer("high_pass", high_pass(height, width, radius), persistent=False)

    def before_training(self, images: ImageSource) -> None:
        """Compute the pseudo-labels and keep them as state."""
        if self._pseudo_labels:
            self.labels.copy_(self._pseudo_labels.compute(images))

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> _Views:
        """uint8 [B, C, H, W] -> all views as float [B, C, H, W], in [0, 1] except the high frequencies, and labels."""
        strong = self.plan.strong_view(torch.cat([images, images]), generator).chunk(2)
        weak = self.plan.view(images, generator)
        return _Views(strong, weak, high_frequency(weak, self.high_pass), self.labels[:, index], generator)

    def forward(self, views: _Views) -> StepLoss:
        """Return the loss, with its two terms as scalars."""
        clean = [self.projector(self.normal(x)) for x in (*views.strong, views.high)]
        fixed = [z.detach() for z in clean]
        x_cl = self._attack(lambda x: self._contrast(x, fixed), views)
        contrast = self._contrast(x_cl, clean).mean()
        if not self.classifiers:
            return StepLoss(contrast)
        x_ce = self._attack(lambda x: self._cross_entropy(x, views.labels, reduction="none"), views)
        cross_entropy = self._cross_entropy(x_ce, views.labels, reduction="mean")
        scalars = {"contrast": contrast.detach(), "cross_entropy": cross_entropy.detach()}
        return StepLoss(contrast + self.plan.lam * cross_entropy, scalars)

    def _contrast(self, x: Tensor, others: Sequence[Tensor]) -> Tensor:
        return multi_view_contrastive([self.projector(self.encoder(x)), *others], self.plan.temperature)

    def _cross_entropy(self, x: Tensor, labels: Tensor, *, reduction: str) -> Tensor:
        """Return the mean over the classifiers, of the batch or (``reduction="none"``) of each image."""
        features = self.pgd_ce(x)
        losses = [
            F.cross_entropy(classifier(features), y, ignore_index=_UNKNOWN, reduction=reduction)
            for classifier, y in zip(self.classifiers, labels, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _attack(self, objective: Callable[[Tensor], Tensor], views: _Views) -> Tensor:
        with attacking(self, train_mode=True):
            return PGD.of(self.plan)(objective, views.weak, threat=self._threat, generator=views.generator)


class AdvCL:
    """An ordinary SSL stage for the pseudo-labels unless they are given, then AdvCL from scratch."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="AdvCL",
        year=2021,
        paper="When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining to Finetuning?, "
        "NeurIPS 2021",
        url="https://arxiv.org/abs/2111.01124",
        summary="contrastive learning of clean, adversarial and high-frequency views, with clusters as pseudo-labels",
        views="2, then 4",
        passes="2 fb, then 15 fb",
        outside="k-means clusters of its own SimCLR features, or a label file",
        bibtex="""@inproceedings{fan2021advcl,
  title = {When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining to Finetuning?},
  author = {Fan, Lijie and Liu, Sijia and Chen, Pin-Yu and Zhang, Gaoyuan and Gan, Chuang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}
}""",
    )
    config_type: ClassVar[type[MethodConfig]] = AdvCLConfig
    native_encoder: ClassVar[Mapping[str, Any]] = {"normalisation": "none"}

    def __init__(self, config: AdvCLConfig) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield stage 1 if its features are needed, then AdvCL."""
        source, clusters = self._config.pseudo_labels, self._config.stage2.clusters
        labels: PseudoLabels | None = None
        if source == "kmeans":
            ssl = SimCLRStage(self._config.stage1, ctx)
            yield ssl
            labels = KMeansLabels(ssl.encoder, clusters, count=len(ctx.images), seed=ctx.seed)
        elif source != "none":
            digest = self._config.pseudo_labels_sha256
            labels = FileLabels(_path(source), clusters, count=len(ctx.images), index=ctx.index, sha256=digest)
        self._stage = AdvCLStage(self._config.stage2, ctx, labels)
        yield self._stage

    def result(self) -> Encoder:
        """Return the branch that was trained on the adversarial views of the contrastive loss."""
        return self._stage.encoder


def _path(source: str) -> Path:
    return Path(source.removeprefix("file:")).expanduser()


def _digest(path: Path) -> str:
    try:
        if path.is_file():  # a pipe or a device might never end
            return file_digest(path)
        fault = "there is no such file"
    except OSError as error:
        fault = error.strerror or str(error)
    raise ValueError(f"cannot read the pseudo-labels in {path}: {fault}")
