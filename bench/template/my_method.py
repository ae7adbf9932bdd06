"""MyMethod: two views of an image belong together, and so they do when an attack has moved one of them."""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bench.attack import PGD, attacking
from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from bench.recipe import AttackSettings, TrainPlan


class MyMethodSettings(TrainPlan, AttackSettings):
    """Every number of the stage, changed with ``--set stage1.KEY=VALUE``. Give the source of each default.

    Epochs are those of your paper: a tier scales them.
    """

    epochs: int = Field(default=500, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_epochs: float = Field(default=10, ge=0)

    temperature: float = Field(default=0.2, gt=0)
    """T of the loss."""
    view: StrongView = StrongView()


class MyMethodViews(NamedTuple):
    """What :meth:`MyMethodStage.views` hands to :meth:`MyMethodStage.forward`."""

    first: Tensor
    second: Tensor
    generator: torch.Generator


def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return how badly each ``a_i`` is recognised as ``b_i`` among all rows of ``b``: [N, D], [N, D] -> [N].

    -log(exp(s_ii / T) / sum over j of exp(s_ij / T)), with s the cosine similarity.

    Source: InfoNCE (van den Oord et al., 2018), equation 4.
    """
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    return F.cross_entropy(similarity, torch.arange(len(a), device=a.device), reduction="none")


class MyMethodStage(Stage):
    """Attacks the first view until it is hard to recognise as the second, and learns to recognise it all the same."""

    name = "pretrain"

    def __init__(self, settings: MyMethodSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: MyMethodSettings = settings
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, 512, 128])
        self.threat = ctx.threat

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> MyMethodViews:
        """uint8 [B, C, H, W] -> two views of each image, float [B, C, H, W] in [0, 1]."""
        first, second = self.plan.view(torch.cat([images, images]), generator).chunk(2)
        return MyMethodViews(first, second, generator)

    def forward(self, views: MyMethodViews) -> StepLoss:
        """Return the loss of the first and second views plus that of the attacked first and second views."""
        attacked = self.attacked(*views)
        a, b, moved = self.projector(self.encoder(torch.cat([views.first, views.second, attacked]))).chunk(3)
        clean = contrast(a, b, self.plan.temperature).mean()
        robust = contrast(moved, b, self.plan.temperature).mean()
        return StepLoss(clean + robust, {"clean": clean.detach(), "robust": robust.detach()})

    def attacked(self, images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``images`` moved within the threat model so that they are hard to recognise as ``others``."""
        encoder = self.encoder.prepared()
        with attacking(self.projector):
            with torch.no_grad():
                targets = self.projector(encoder(others))

            def objective(x: Tensor) -> Tensor:
                return contrast(self.projector(encoder(x)), targets, self.plan.temperature)

            return PGD.of(self.plan)(objective, images, threat=self.threat, generator=generator)


MyMethod = single_stage(
    MethodInfo(
        title="MyMethod",
        year=2000,
        paper="My Paper, My Conference 2000",
        summary="one sentence for `bench methods`",
        views="2",
        passes="6 fb + 1 f",
        bibtex="@misc{my_method, title = {My Paper}, year = {2000}}",
    ),
    MyMethodSettings,
    MyMethodStage,
)
