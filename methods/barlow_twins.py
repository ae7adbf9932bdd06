"""Barlow Twins: make the views' cross-correlation the identity. A first stage for DeACL (Table 9)."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from methods.losses import in_float32, off_diagonal
from methods.solo_learn import NATIVE_ENCODER, TwoViews, ZooPlan


class BarlowTwinsStageSettings(ZooPlan):
    """The recipe of solo-learn's CIFAR model zoo in 2021.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/barlow.sh``. Later recipes of that
    repository use 0.0051 as the weight of redundancy, as the paper does.
    """

    lr: float = Field(default=0.3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)

    redundancy: float = Field(default=0.005, ge=0)
    """lambda, the weight of the off-diagonal terms."""
    scale: float = Field(default=0.1, gt=0)
    """Factor on the whole loss."""
    projector: tuple[PositiveInt, ...] = Field(default=(2048, 2048, 2048), min_length=1)
    """Widths of the projector's hidden and output layers; batch-norm after the hidden ones."""
    view1: StrongView = StrongView(crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.0)
    view2: StrongView = StrongView(
        crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.0, solarize_prob=0.2
    )


@in_float32
def barlow_twins_loss(z1: Tensor, z2: Tensor, *, redundancy: float) -> Tensor:
    """Return the distance of the views' cross-correlation M from the identity.

    sum over i of (M_ii - 1)^2 + lambda sum over i != j of M_ij^2, with M = z1^T z2 / B after each feature is
    standardised over the batch (biased variance, plus 1e-5).

    Args:
        z1: [B, D], embeddings of the first views, B > 1.
        z2: [B, D], embeddings of the second views, in the same order.
        redundancy: lambda.

    Source: Barlow Twins (Zbontar et al., ICML 2021), equations 1 and 2.
    """
    z1, z2 = (F.batch_norm(z, None, None, training=True) for z in (z1, z2))
    correlation = z1.T @ z2 / len(z1)
    invariance = (correlation.diagonal() - 1).square().sum()
    return invariance + redundancy * off_diagonal(correlation).square().sum()


class BarlowTwinsStage(Stage):
    """Makes each feature agree between two strong views and differ from all other features."""

    name = "ssl"
    distributed = True
    shared = True

    def __init__(self, settings: BarlowTwinsStageSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: BarlowTwinsStageSettings = settings
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, *settings.projector], batch_norm=True)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> TwoViews:
        """uint8 [B, C, H, W] -> two independent strong views of each, float [B, C, H, W] in [0, 1]."""
        return self.plan.view1(images, generator), self.plan.view2(images, generator)

    def forward(self, views: TwoViews) -> StepLoss:
        """Return the scaled loss of both views' projections."""
        z1, z2 = (self.projector(self.encoder(view)) for view in views)
        return StepLoss(self.plan.scale * barlow_twins_loss(z1, z2, redundancy=self.plan.redundancy))


BarlowTwins = single_stage(
    MethodInfo(
        title="Barlow Twins",
        year=2021,
        paper="Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021",
        url="https://arxiv.org/abs/2103.03230",
        summary="features that agree between views and do not repeat each other; not robust",
        views="2",
        passes="2 fb",
        robust=False,
        bibtex="""@inproceedings{zbontar2021barlow,
  title = {Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author = {Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle = {International Conference on Machine Learning},
  year = {2021}
}""",
    ),
    BarlowTwinsStageSettings,
    BarlowTwinsStage,
    native_encoder=NATIVE_ENCODER,
)
"""A non-robust row: self-supervised learning without adversarial training."""
