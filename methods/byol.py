"""BYOL: predict a momentum network's output for another view of the same image. A first stage for DeACL (Table 9)."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from methods.losses import negative_cosine
from methods.momentum import MomentumNetwork, Rate
from methods.solo_learn import NATIVE_ENCODER, TwoViews, ZooPlan


class BYOLStageSettings(ZooPlan):
    """The recipe of solo-learn's CIFAR model zoo in 2021.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/byol.sh``. That generation averages the
    two directions of the loss; since 365f2aa, days later, they are added. LARS cancels the factor 2, except for
    one-dimensional tensors and where its clipping is active.
    """

    lr: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)

    tau: tuple[Rate, Rate] = (0.99, 1.0)
    """Share of its weights that the momentum network keeps at an update, from the first to the last."""
    projector: tuple[PositiveInt, ...] = Field(default=(4096, 256), min_length=1)
    """Widths of the projector's hidden and output layers; batch-norm after the hidden one."""
    predictor: tuple[PositiveInt, ...] = (4096,)
    """Widths of the predictor's hidden layers, with batch-norm; its output is as wide as the projector's."""
    view1: StrongView = StrongView(crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.0)
    view2: StrongView = StrongView(
        crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.0, solarize_prob=0.2
    )


def prediction_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows of 2 - 2 cos(p_i, z_i), the squared distance of the unit vectors: [B, D], [B, D].

    Source: BYOL (Grill et al., NeurIPS 2020), equation 2.
    """
    return 2 + 2 * negative_cosine(prediction, target).mean()


class BYOLStage(Stage):
    """Predicts from each view the momentum network's output for the other; the two errors are averaged.

    There are no negatives. Only the online backbone is passed on.
    """

    name = "ssl"
    distributed = True
    per_image = True
    shared = True

    def __init__(self, settings: BYOLStageSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: BYOLStageSettings = settings
        out = settings.projector[-1]
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, *settings.projector], batch_norm=True)
        with ctx.scoped(self.name, "predictor"):
            self.predictor = mlp([out, *settings.predictor, out], batch_norm=True)
        steps = settings.steps_per_epoch(len(ctx.images))
        self.momentum = MomentumNetwork(self._online(), tau=settings.tau, updates=settings.epochs * steps)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> TwoViews:
        """uint8 [B, C, H, W] -> two independent strong views of each, float [B, C, H, W] in [0, 1]."""
        return self.plan.view1(images, generator), self.plan.view2(images, generator)

    def forward(self, views: TwoViews) -> StepLoss:
        """Return the mean of both prediction errors."""
        online = self._online()
        p1, p2 = (self.predictor(online(view)) for view in views)
        z1, z2 = (self.momentum(view) for view in views)
        return StepLoss((prediction_error(p1, z2) + prediction_error(p2, z1)) / 2)

    def after_step(self) -> None:
        """Update the momentum network."""
        self.momentum.follow(self._online())

    def _online(self) -> nn.Module:
        return nn.Sequential(self.encoder, self.projector)


BYOL = single_stage(
    MethodInfo(
        title="BYOL",
        year=2020,
        paper="Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, NeurIPS 2020",
        url="https://arxiv.org/abs/2006.07733",
        summary="prediction of a momentum network's outputs, without negatives; not robust",
        views="2",
        passes="2 fb + 2 f",
        robust=False,
        bibtex="""@inproceedings{grill2020byol,
  title = {Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning},
  author = {Grill, Jean-Bastien and Strub, Florian and Altch{\\'e}, Florent and Tallec, Corentin and
            Richemond, Pierre H. and Buchatskaya, Elena and Doersch, Carl and Avila Pires, Bernardo and
            Guo, Zhaohan Daniel and Gheshlaghi Azar, Mohammad and Piot, Bilal and Kavukcuoglu, Koray and
            Munos, R{\\'e}mi and Valko, Michal},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}""",
    ),
    BYOLStageSettings,
    BYOLStage,
    native_encoder=NATIVE_ENCODER,
)
"""A non-robust row: self-supervised learning without adversarial training."""
