"""AIR beside the authors' code.

Run from the repository's root: ``python perf/fidelity/air.py PATH/TO/CLONE``. It prints the section of
``docs/fidelity.md``.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ours
import torch
from acl import compare_states, named, neighbours, upstream_model
from clone import Clone, Upstream, on_cpu, working_in
from command import run
from pipelines import described, strong_view
from table import Table, attack

from bench.optim import set_lr
from methods.air import AIRViews

UPSTREAMS = (Upstream("GodXuxilie/Enhancing_ACL_via_AIR", "15cf0a7628048e04c19014e924fb415279b1409a"),)

BATCH, SIDE = 4, 16
LEVELS = {"DynACL-AIR": 20, "ACL-AIR": 1}
EPOCHS = {"DynACL-AIR": (1000, 991, 501), "ACL-AIR": (991,)}
"""Of the compared steps, counted from 1. The smallest rates come first: what rounding noise does to a bias grows with
them."""
TERMS = ("loss", "contrastive loss of clean views", "of attacked views", "SIR", "AIR")
NOTE = (
    "Compared: upstream's own training function, with its attack, loss, networks and LARS, run beside ours on the same "
    f"weights, views and noise: dual-BN ResNet-18, two views of {BATCH} images of {SIDE} x {SIDE} pixels and the "
    "images themselves, float64. Strengths, views and learning rates are those that upstream's main function passes "
    "to its training function, epoch by epoch. As in ACL, the bias in front of the projector's first batch-norm has a "
    "gradient of rounding noise and is shown by itself."
)


def compare(clone: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("AIR", str(clone.upstream), NOTE)
    with clone.importing("models"), clone.importing(absent={"autoattack": {}, "robustbench": {}}), on_cpu():
        script = import_module("pretraining")
        for form in LEVELS:
            epochs = followed(script, form)
            compare_settings(table, script, form)
            compare_curriculum(table, form, epochs)
            compare_steps(table, script, form, epochs)
    yield table


def plan(form: str) -> Any:
    """Return our published settings of a form."""
    return ours.recipe("air", stage1__levels=LEVELS[form]).config.plans()["stage1"]


@dataclass
class Epoch:
    """What upstream's training function is given in an epoch, and the rate of each step."""

    strength: float
    reweighting: float
    view: str
    rates: list[float]


class Unread:
    """Stands in for CIFAR-10: images that are counted, but not read."""

    def __init__(self, *, transform: Any, **_: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return ours.TRAIN_IMAGES


def followed(script: Any, form: str) -> list[Epoch]:
    """Run upstream's main function with a training function that only notes what it is given."""
    found = []

    def train(loader: Any, model: Any, optimizer: Any, scheduler: Any, *rest: Any, **weight: float) -> None:
        rates = []
        for _ in range(len(loader)):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        view = strong_view(loader.dataset.transform.transforms)
        found.append(Epoch(rest[-1], weight["LAMBDA"], described(view), rates))

    command = ["pretraining.py", "name", "--ACL_DS", *["--DynAug"] * (form == "DynACL-AIR")]
    stand_ins: dict[str, Any] = {"CustomCIFAR10": Unread, "train": train, "save_checkpoint": lambda *_, **__: None}
    with ExitStack() as stack:
        stack.enter_context(working_in(stack.enter_context(TemporaryDirectory())))
        stack.enter_context(mock.patch.multiple(script, **stand_ins))
        stack.enter_context(mock.patch.object(sys, "argv", command))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(mock.patch("builtins.print"))
        script.main()
    return found


def compare_settings(table: Table, script: Any, form: str) -> None:
    """Add the published settings of a form."""
    mine, yours, radius = plan(form), script.args, 255 * ours.recipe("air").threat.eps
    ours_ = [mine.optimizer, mine.epochs, mine.batch_size, mine.effective_lr, mine.steps, radius]
    theirs = [yours.optimizer, yours.epochs, yours.batch_size, yours.lr, yours.pgd_iter, yours.eps]
    both = ours.listed([*ours_, mine.lambda1, mine.lambda2]), ours.listed([*theirs, yours.lambda1, yours.lambda2])
    table.equal(f"{form}: optimiser, epochs, batch, rate, attack steps, 255 eps, lambda1, lambda2", *both)


def compare_curriculum(table: Table, form: str, epochs: list[Epoch]) -> None:
    """Add the views, weights and rates of all epochs."""
    mine = plan(form)
    views = [(described(mine.view_in(number)), epoch.view) for number, epoch in enumerate(epochs)]
    for number in (1, 51, 501, 951) if mine.levels > 1 else (1000,):
        table.equal(f"{form}: views, in order, of epoch {number}", *views[number - 1])
    table.equal(f"{form}: epochs whose views differ", sum(a != b for a, b in views), 0)
    weights = [1 + epoch.reweighting * (1 - epoch.strength) for epoch in epochs]
    gap = max(abs(mine.adversarial_weight(number) - weight) for number, weight in enumerate(weights))
    last = mine.adversarial_weight(len(epochs) - 1), weights[-1]
    table.number(f"{form}: weight of attacked views in epoch {len(epochs)}", *last, within=1e-12)
    table.apart(f"{form}: that weight, largest difference over {len(epochs):,} epochs", {"": gap}, within=1e-12)
    gap = max(
        abs(mine.rate(epoch=number, step=step, steps_per_epoch=len(epoch.rates)) - rate)
        for number, epoch in enumerate(epochs)
        for step, rate in enumerate(epoch.rates)
    )
    updates = sum(len(epoch.rates) for epoch in epochs)
    table.apart(f"{form}: learning rate, largest difference over {updates:,} updates", {"": gap}, within=1e-12)


def compare_steps(table: Table, script: Any, form: str, published: list[Epoch]) -> None:
    """Add the results of a form's updates on both sides."""
    stage: Any
    (stage,) = ours.stages(ours.recipe("air", stage1__batch_size=BATCH, stage1__levels=LEVELS[form]))
    ours.seen(stage.clean.encoder)
    ours.seen(stage.adversarial.encoder, 5)
    model = upstream_model(3)
    model.load_state_dict(named(stage), strict=False)
    kind = import_module("optimizer.lars").LARS
    optimizers = stage.optimizer(), kind(model.parameters(), lr=5.0, weight_decay=1e-6)
    silent, none = SimpleNamespace(info=lambda text: None), SimpleNamespace(step=lambda: None)
    for epoch in EPOCHS[form]:
        given = published[epoch - 1]
        rate = given.rates[0]
        images = torch.cat([ours.images(BATCH, epoch, view, side=SIDE) for view in (1, 2)])
        originals = ours.images(BATCH, epoch, "originals", side=SIDE)
        batch = neighbours(images).unflatten(0, (BATCH, 2)), originals
        noise = neighbours(torch.rand(images.shape, generator=torch.Generator().manual_seed(epoch)))
        set_lr(optimizers[1], rate)
        drawn = mock.patch.object(torch, "rand_like", lambda x, noise=noise: noise.clone())
        quiet = mock.patch("builtins.print")
        with (
            ours.kept(script, "PGD_contrastive") as moved,
            ours.kept(script.AIR_Loss, "forward") as theirs,
            drawn,
            quiet,
        ):
            script.train([batch], model, optimizers[1], none, epoch, silent, given.strength, given.reweighting)
        stage.before_epoch(epoch - 1)
        with ours.kept(stage, "attack_both") as attacked, ours.kept(stage, "forward") as mine:
            views = AIRViews(images, originals, torch.Generator().manual_seed(epoch))
            ours.take_step(stage, views, optimizers[0], rate)
        quantity = f"{form}: attack in epoch {epoch} (5 steps, same start)"
        attack(table, quantity, neighbours(attacked[0]), moved[0], neighbours(images))
        values = [mine[0].total, *(mine[0].scalars[name] for name in ("clean", "adversarial", "sir", "air"))]
        for name, own, other in zip(TERMS, values, theirs[0], strict=True):
            table.number(f"{form}: {name} in epoch {epoch}", own, other, within=1e-6)
        when = f"of {form} after epoch {epoch} (rate {rate:.5f})"
        compare_states(table, when, named(stage), model.state_dict())


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
