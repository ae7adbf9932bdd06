"""The one stage of AP-DPE: adversarial training on pretext tasks that share a trunk."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from bench.attack import PGD, Objective, attacking
from bench.method import MethodContext, Stage, StepLoss
from bench.nn import Encoder
from methods.ap_dpe.diversity import diversity
from methods.ap_dpe.grid import check_gridded
from methods.ap_dpe.pretexts import Jigsaw, Judged, Pretext, Puzzle, Rotation, Selfie
from methods.ap_dpe.settings import Export, PretextSettings, Task
from methods.ap_dpe.trunk import MeanOf, resnet_of, with_layer4, without_layer4
from methods.ap_dpe.twice import make_twice_differentiable

TASKS: dict[Task, tuple[str, ...]] = {
    "joint": ("jigsaw", "rotation", "selfie"),
    "jigsaw": ("jigsaw",),
    "rotation": ("rotation",),
    "selfie": ("selfie",),
}


class _Views(NamedTuple):
    puzzles: dict[str, Puzzle]
    generator: torch.Generator


class PretextStage(Stage):
    """Adversarial training on one pretext task, or on all three at once with the diversity term.

    With l_t the loss of task t of T, x_t its clean and x_t' its attacked puzzle, and h the mean over images of
    ``log_det`` of the gradients dl_t / dx_t':

        L = 1/(2T) sum over t of (l_t(x_t) + l_t(x_t')) + outer_sign * h_weight * h,

    where the x_t' together maximise sum over t of l_t(x_t') + h_weight * h. As in the authors' code:

    - h has the same sign for attacker and learner: one raises it, the other lowers it and so *aligns* the
      gradients; ``outer_sign`` reverses this or turns it off;
    - the attack runs in train mode: every forward pass, 10 of the attack and 2 of the learner a task, uses batch
      statistics and dropout, and moves the running statistics, which all tasks share;
    - each task attacks its own image, already rotated or permuted; attacker and learner see the same puzzle.

    With ``h_weight = 0`` there are no second derivatives, tasks are attacked one after the other, and the stage is
    called "ap": adversarial pre-training without the diversity-promoting ensemble.

    Deviations: the trunk has the encoder's whole stem, batch-norm included, while the authors' trunk omits it although
    their fine-tuning network has it; it is trained on all images to the last epoch, without a validation split to
    select an epoch; the tasks have the same order in attack and loss (theirs differ, which only affects running
    statistics).
    """

    distributed = True
    per_image = True

    def __init__(self, settings: PretextSettings, ctx: MethodContext, task: Task, export: Export) -> None:
        super().__init__()
        facts = ctx.recipe.dataset
        check_gridded(facts.image_shape)
        self.plan: PretextSettings = settings
        self.name = task if task != "joint" else "dpe" if settings.h_weight else "ap"
        self._diverse = task == "joint" and settings.h_weight > 0
        trunk = self._new_encoder(ctx)
        self.tasks = nn.ModuleDict({name: self._task(name, trunk, ctx) for name in TASKS[task]})
        self.encoder = self._exported(export, trunk)
        self._threat = ctx.threat

    def _new_encoder(self, ctx: MethodContext, *names: str) -> Encoder:
        encoder = ctx.new_encoder(self.name, *names)
        if self._diverse:
            make_twice_differentiable(resnet_of(encoder))
        return encoder

    def _task(self, name: str, trunk: Encoder, ctx: MethodContext) -> nn.Module:
        """Return the task called ``name``: the shared trunk, its own layers on top, and a head."""
        layer4 = resnet_of(self._new_encoder(ctx, name)).layer4
        with ctx.scoped(self.name, "head", name):
            if name == "selfie":
                return Selfie(without_layer4(trunk), self.plan.selfie_loss)
            return {"rotation": Rotation, "jigsaw": Jigsaw}[name](with_layer4(trunk, layer4))

    def _exported(self, export: Export, trunk: Encoder) -> Encoder:
        """Return the encoder to evaluate, made from the trained modules."""
        if export == "trunk":
            return without_layer4(trunk)
        names = ("rotation", "jigsaw") if export == "mean" else (export,)
        encoders = [cast(Rotation | Jigsaw, self.tasks[name]).encoder for name in names]
        if len(encoders) == 1:
            return encoders[0]
        return with_layer4(trunk, MeanOf(*(resnet_of(encoder).layer4 for encoder in encoders)))

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> _Views:
        """uint8 [B, C, H, W] -> one weak view, and each task's puzzle on it."""
        view = self.plan.view(images, generator)
        return _Views({name: task.pose(view, generator) for name, task in self._pretexts.items()}, generator)

    def forward(self, views: _Views) -> StepLoss:
        """Return the loss; scalars are each task's loss, its accuracy under attack, and h where it is minimised."""
        puzzles, generator = views
        aligning = self._diverse and self.plan.outer_sign != 0
        attacked = {name: x.requires_grad_(aligning) for name, x in self._attack(puzzles, generator).items()}
        clean: dict[str, Tensor] = {}
        robust: dict[str, Judged] = {}
        for name, (images, answer) in puzzles.items():
            clean[name] = self._pretexts[name](images, answer, generator).loss
            robust[name] = self._pretexts[name](attacked[name], answer, generator)
        losses = {f"{name}_loss": (clean[name] + robust[name].loss).mean() / 2 for name in puzzles}
        total = torch.stack(list(losses.values())).mean()
        scalars = {name: loss.detach() for name, loss in losses.items()}
        scalars |= {f"{name}_accuracy": judged.accuracy for name, judged in robust.items()}
        if aligning:
            h = diversity([judged.loss for judged in robust.values()], list(attacked.values())).mean()
            total = total + self.plan.outer_sign * self.plan.h_weight * h.to(total.dtype)
            scalars["log_det"] = h.detach()
        return StepLoss(total, scalars)

    def _attack(self, puzzles: dict[str, Puzzle], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the attacked images: of tasks tied by the diversity term jointly, of others one after the other."""
        attacked: dict[str, Tensor] = {}
        with attacking(self, train_mode=True):
            for names in [list(puzzles)] if self._diverse else [[name] for name in puzzles]:
                x = PGD.of(self.plan)(
                    self._objective([(self._pretexts[name], puzzles[name].answer) for name in names], generator),
                    torch.cat([puzzles[name].images for name in names]),
                    threat=self._threat,
                    generator=generator,
                )
                attacked |= dict(zip(names, x.chunk(len(names)), strict=True))
        return attacked

    def _objective(self, tied: Sequence[tuple[Pretext, Tensor]], generator: torch.Generator) -> Objective:
        """Return the objective for the images of all ``tied`` tasks, stacked: [T B, C, H, W] -> [B]."""

        def objective(x: Tensor) -> Tensor:
            inputs = x.chunk(len(tied))
            losses = [task(part, answer, generator).loss for part, (task, answer) in zip(inputs, tied, strict=True)]
            value = torch.stack(losses).sum(dim=0)
            return value + self.plan.h_weight * diversity(losses, inputs) if self._diverse else value

        return objective

    @property
    def _pretexts(self) -> dict[str, Pretext]:
        return {name: cast(Pretext, task) for name, task in self.tasks.items()}
