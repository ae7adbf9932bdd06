"""MyMethod: features from recognising how an image was rotated, also when an attack has changed it."""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attack import PGD, attacking, margin_objective
from bench.data.views import WeakView
from bench.errors import BenchError
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.recipe import AttackSettings, TrainPlan


class MyMethodSettings(TrainPlan, AttackSettings):
    """Every number of the stage; ``--set stage1.KEY=VALUE`` changes one. Give each default its source.

    Epochs and batches are those of a paper; a tier scales them.
    """

    epochs: int = Field(default=500, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    view: WeakView = WeakView()


class MyMethodViews(NamedTuple):
    """What :meth:`MyMethodStage.views` hands to :meth:`MyMethodStage.forward`."""

    images: Tensor
    turns: Tensor
    generator: torch.Generator


class MyMethodStage(Stage):
    """Minimises the cross-entropy of a linear head that names the rotation of attacked images."""

    name = "rotation"

    def __init__(self, settings: MyMethodSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: MyMethodSettings = settings
        self.threat = ctx.threat
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "head"):
            self.head = nn.Linear(self.encoder.feature_dim, 4)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> MyMethodViews:
        """uint8 [B, C, H, H] -> a weak view of each, turned, float [B, C, H, H] in [0, 1], and the turns, int64 [B].

        Raises BenchError if the images are not square.
        """
        if images.shape[2] != images.shape[3]:
            raise BenchError(f"MyMethod needs square images, these are {tuple(images.shape[2:])}. Crop or pad them.")
        view = self.plan.view(images, generator)
        turns = torch.randint(4, (len(view),), generator=generator, device=view.device)
        all_turns = torch.stack([view.rot90(turn, (2, 3)) for turn in range(4)])
        return MyMethodViews(all_turns[turns, torch.arange(len(view), device=view.device)], turns, generator)

    def forward(self, views: MyMethodViews) -> StepLoss:
        """Return the cross-entropy on attacked views, and the share of rotations named correctly as a scalar."""
        logits = self.head(self.encoder(self.attacked(*views)))
        accuracy = (logits.argmax(1) == views.turns).float().mean()
        return StepLoss(F.cross_entropy(logits, views.turns), {"accuracy": accuracy})

    def attacked(self, images: Tensor, turns: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``images`` changed within the threat model so that their rotation is hard to name."""
        with attacking(self.head):
            model = nn.Sequential(self.encoder.prepared(), self.head)
            objective = margin_objective(model, turns)
            return PGD.of(self.plan)(objective, images, threat=self.threat, generator=generator)


MyMethod = single_stage(
    MethodInfo(
        title="MyMethod",
        year=2000,
        paper="My Paper, My Conference 2000",
        summary="names the rotation of an attacked image",
        views="1",
        passes="6 fb",
        bibtex="@misc{my_method, title = {My Paper}, year = {2000}}",
    ),
    MyMethodSettings,
    MyMethodStage,
)
