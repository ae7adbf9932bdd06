"""SimCLR: contrastive learning of two strong views. A separate method, and DeACL's default first stage."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from bench.recipe import OptimizerName, Precision, TrainPlan
from methods.losses import nt_xent
from methods.solo_learn import NATIVE_ENCODER


class SimCLRStageSettings(TrainPlan):
    """The recipe of solo-learn's CIFAR model zoo in 2021, from which DeACL took its teachers.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/simclr.sh``; weight decay also DeACL
    Table 2. The current YAML of that repository (weight decay 1e-4, warm-up from 3e-5) is a later recipe.
    """

    epochs: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=256, ge=2)
    optimizer: OptimizerName = "lars"
    lr: float = Field(default=0.4, gt=0)
    lr_batch: int | None = Field(default=256, ge=1)
    weight_decay: float = Field(default=1e-5, ge=0)
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.003, ge=0)
    precision: Precision = "fp16"

    later = {**TrainPlan.later, "views_together": True}
    views_together: bool = True
    """One forward pass over both views, with batch statistics of all 2B images, as in SimCLR's algorithm 1
    with 2N views. False: one pass after the other, as in solo-learn (``solo/methods/base.py``): each view has its own
    statistics, and the running ones move twice. On a trained encoder the two gradients have a cosine of 0.95 with
    batches of 64 and 0.99 with 256. In separate passes a step took 15 % longer on one core of an AMD EPYC (batches of
    64 digits, widths 8 and 16), so one pass is the default."""
    temperature: float = Field(default=0.2, gt=0)
    projector: tuple[PositiveInt, ...] = Field(default=(2048, 256), min_length=1)
    """Widths of the projector's hidden and output layers; no batch-norm."""
    view: StrongView = StrongView(
        order="crop_first",
        crop_scale=(0.08, 1.0),
        interpolation="bicubic",
        jitter=(0.8, 0.8, 0.8, 0.2),
        jitter_prob=0.8,
        grayscale_prob=0.2,
        blur_prob=0.5,
    )
    """Both views. Blur 0.5 as in that generation's parser default and in DeACL section 4.1."""


class SimCLRStage(Stage):
    """Minimises NT-Xent between the projections of two strong views of each image.

    solo-learn also trains a linear probe on detached features, for monitoring; it has no effect on the encoder
    and is left out here, since no stage sees a label.
    """

    name = "ssl"
    distributed = True
    shared = True

    def __init__(self, settings: SimCLRStageSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: SimCLRStageSettings = settings
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, *settings.projector])

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> two independent strong views of each, float [2B, C, H, W] in [0, 1]."""
        return self.plan.view(torch.cat([images, images]), generator)

    def forward(self, views: Tensor) -> StepLoss:
        """Return NT-Xent of the two views, which pass the network together or one after the other."""
        passes = [views] if self.plan.views_together else views.chunk(2)
        z1, z2 = torch.cat([self.projector(self.encoder(images)) for images in passes]).chunk(2)
        return StepLoss(nt_xent(z1, z2, self.plan.temperature))


SimCLR = single_stage(
    MethodInfo(
        title="SimCLR",
        year=2020,
        paper="A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
        url="https://arxiv.org/abs/2002.05709",
        summary="contrastive learning of two augmented views; not robust, the baseline to beat",
        views="2",
        passes="2 fb",
        robust=False,
        bibtex="""@inproceedings{chen2020simclr,
  title = {A Simple Framework for Contrastive Learning of Visual Representations},
  author = {Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}""",
    ),
    SimCLRStageSettings,
    SimCLRStage,
    native_encoder=NATIVE_ENCODER,
)
"""The non-robust row: the encoder that DeACL starts from, without its second stage."""
