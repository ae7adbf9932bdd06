"""VICReg: invariance between views, with variance and covariance kept in bounds. For DeACL's Table 9."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from methods.losses import in_float32, off_diagonal
from methods.solo_learn import NATIVE_ENCODER, GentleZooPlan, TwoViews


class VICRegStageSettings(GentleZooPlan):
    """The recipe of solo-learn's CIFAR model zoo in 2021.

    The loss starts in the hundreds, and LARS does not scale the rate of batch-norm vectors. In the nine steps of
    warm-up that ``tiny`` would leave they grew a hundredfold. The features became so large that the gradient of a
    classifier on them was useless for attacks, and neither ALF nor AFF could train: hence the gentle plan.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/vicreg.sh``. Later recipes of that
    repository do not blur.
    """

    lr: float = Field(default=0.3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)

    invariance_weight: float = Field(default=25.0, ge=0)
    variance_weight: float = Field(default=25.0, ge=0)
    covariance_weight: float = Field(default=1.0, ge=0)
    projector: tuple[PositiveInt, ...] = Field(default=(2048, 2048, 2048), min_length=1)
    """Widths of the projector's hidden and output layers; batch-norm after the hidden ones."""
    view: StrongView = StrongView(crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.5, solarize_prob=0.1)
    """Both views. Blur 0.5 as in that generation's parser default."""


@in_float32
def invariance_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """Return the mean over all entries of (z1 - z2)^2: [B, D], [B, D] -> scalar.

    Source: VICReg (Bardes et al., ICLR 2022), equation 5, divided by D as in the authors' code.
    """
    return F.mse_loss(z1, z2)


@in_float32
def variance_loss(z: Tensor) -> Tensor:
    """Return the mean over features of max(0, 1 - sqrt(Var + 1e-4)), Var unbiased: [B, D] -> scalar.

    Source: VICReg (Bardes et al., ICLR 2022), equations 1 and 2.
    """
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


@in_float32
def covariance_loss(z: Tensor) -> Tensor:
    """Return the sum over i != j of Cov(z)_ij^2, divided by D: [B, D] -> scalar, B > 1.

    Source: VICReg (Bardes et al., ICLR 2022), equations 3 and 4.
    """
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / (len(z) - 1)
    return off_diagonal(covariance).square().sum() / z.shape[1]


class VICRegStage(Stage):
    """Pulls the projections of two strong views together and keeps each view's batch from collapsing.

    The variance and covariance terms of the two views are added, as in solo-learn; the authors' code averages
    the variances.
    """

    name = "ssl"
    distributed = True
    shared = True

    def __init__(self, settings: VICRegStageSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: VICRegStageSettings = settings
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, *settings.projector], batch_norm=True)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> TwoViews:
        """uint8 [B, C, H, W] -> two independent strong views of each, float [B, C, H, W] in [0, 1]."""
        return self.plan.view(images, generator), self.plan.view(images, generator)

    def forward(self, views: TwoViews) -> StepLoss:
        """Return the weighted sum of the three terms, and each of them."""
        plan = self.plan
        z1, z2 = (self.projector(self.encoder(view)) for view in views)
        invariance = invariance_loss(z1, z2)
        variance = variance_loss(z1) + variance_loss(z2)
        covariance = covariance_loss(z1) + covariance_loss(z2)
        total = plan.invariance_weight * invariance
        total = total + plan.variance_weight * variance + plan.covariance_weight * covariance
        scalars = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return StepLoss(total, {name: value.detach() for name, value in scalars.items()})


VICReg = single_stage(
    MethodInfo(
        title="VICReg",
        year=2022,
        paper="VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning, ICLR 2022",
        url="https://arxiv.org/abs/2105.04906",
        summary="views pulled together while variance and covariance are regularised; not robust",
        views="2",
        passes="2 fb",
        robust=False,
        bibtex="""@inproceedings{bardes2022vicreg,
  title = {{VICReg}: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author = {Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}""",
    ),
    VICRegStageSettings,
    VICRegStage,
    native_encoder=NATIVE_ENCODER,
)
"""A non-robust row: self-supervised learning without adversarial training."""
