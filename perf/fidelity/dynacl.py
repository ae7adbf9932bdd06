"""DynACL beside the authors' code.

Run from the repository's root: ``python perf/fidelity/dynacl.py PATH/TO/CLONE``. It prints the section of
``docs/fidelity.md``.
"""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import ours
import torch
from acl import compare_states, named, neighbours
from clone import Clone, Upstream, on_cpu
from command import run
from pipelines import Seen, described, strong_view
from table import Table, attack

from bench.optim import set_lr
from methods.annealing import weakened

UPSTREAMS = (Upstream("PKU-ML/DYNACL", "7d143db7f63e699a533df8e262bcf6ed02abe805"),)

BATCH, SIDE = 4, 16
EPOCHS = (1000, 991, 501)
"""Of three steps, counted from 1, in which attacked views weigh 5/3, 49/30 and 4/3. The smallest rates come first: what
rounding noise does to a bias grows with them."""
NOTE = (
    "Compared: upstream's own training function, with its attack, loss, networks, momentum and LARS, run beside ours "
    f"on the same weights, views and noise: dual-BN ResNet-18, two views of {BATCH} images of {SIDE} x {SIDE} pixels, "
    "float64. As in ACL, the bias in front of the projector's first batch-norm has a gradient of rounding noise and is "
    "shown by itself."
)


def compare(clone: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("DynACL", str(clone.upstream), NOTE)
    with clone.importing(absent={"torchvision.models.utils": {}}), on_cpu():
        with mock.patch.object(sys, "argv", ["train_DynACL.py", "--experiment", "name"]):
            script = import_module("train_DynACL")
        compare_settings(table, script)
        compare_curricula(table, script)
        compare_steps(table, script)
    yield table


def plan() -> Any:
    """Return our published settings."""
    return ours.recipe("dynacl").config.plans()["stage1"]


def compare_settings(table: Table, script: ModuleType) -> None:
    """Add the published settings, and the rates of all epochs."""
    mine, yours = plan(), script.args
    ours_ = [mine.optimizer, mine.epochs, mine.batch_size, mine.effective_lr, mine.steps, mine.tau]
    model = upstream_model()
    theirs = [yours.optimizer, yours.epochs, yours.batch_size, yours.lr, yours.pgd_iter, model.m]
    table.equal("optimiser, epochs, batch, rate, attack steps, momentum", ours.listed(ours_), ours.listed(theirs))
    rates = []
    for epoch in range(yours.epochs):
        factor = script.cosine_annealing(epoch, yours.epochs, 1, 1e-6 / yours.lr, warmup_steps=10)
        rates.append((mine.rate(epoch=epoch, step=0, steps_per_epoch=98), yours.lr * factor))
    for epoch in (1, 5, 10, 11, 500, 1000):
        table.number(f"learning rate of epoch {epoch}", *rates[epoch - 1], within=1e-12)
    gap = max(abs(a - b) for a, b in rates)
    table.apart(f"learning rate, largest difference over {yours.epochs:,} epochs", {"": gap}, within=1e-12)


def compare_curricula(table: Table, script: ModuleType) -> None:
    """Add the views of all levels, and the weights of all epochs."""
    mine, every, epochs = plan(), script.args.reload_frequency, script.args.epochs
    views = {}
    for epoch in range(1, epochs + 1, every):
        with mock.patch.object(script, "CustomCIFAR10", Seen.dataset):
            try:
                script.reload(1 - (epoch - 1) / epochs)
            except Seen as seen:
                theirs = described(strong_view(seen.transform.transforms))
        views[epoch] = described(weakened(mine.view, mine.strength(epoch - 1))), theirs
    for epoch in (1, 1 + every, 1 + epochs // 2, 1 + epochs - every):
        table.equal(f"views, in order, of epoch {epoch}", *views[epoch])
    table.equal("levels whose views differ", sum(a != b for a, b in views.values()), 0)
    weight = expression(Path(str(script.__file__)), "weight_adv")
    known = {"args": script.args, "min": min}
    weights = [(mine.adversarial_weight(e - 1), eval(weight, {**known, "epoch": e})) for e in range(1, epochs + 1)]
    for epoch in EPOCHS:
        table.number(f"weight of attacked views in epoch {epoch}", *weights[epoch - 1], within=1e-12)
    gap = max(abs(a - b) for a, b in weights)
    table.apart(f"that weight, largest difference over {epochs:,} epochs", {"": gap}, within=1e-12)


def expression(path: Path, name: str) -> CodeType:
    """Return what the script in ``path`` assigns to the local variable ``name``, compiled."""
    nodes = ast.walk(ast.parse(path.read_text()))
    assigned = {
        node.targets[0].id: node.value
        for node in nodes
        if isinstance(node, ast.Assign) and hasattr(node.targets[0], "id")
    }
    return compile(ast.Expression(assigned[name]), str(path), "eval")


def upstream_model() -> Any:
    """Return upstream's network and its momentum network, each with two sets of batch-norm layers."""
    module, names = import_module("models.resnet_multi_bn"), ["normal", "pgd"]
    model = module.resnet18_momentum(pretrained=False, bn_names=names)
    for network in (model.encoder_q, model.encoder_k):
        network.fc = module.proj_head(512, bn_names=names)
    model._init_encoder_k()
    return model


def parts(stage: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield upstream's name of our network and of its follower, what it is, and both branches."""
    yield "encoder_q", "network", stage.online
    yield "encoder_k", "momentum network", stage.followers


def compare_steps(table: Table, script: Any) -> None:
    """Add the results of three updates on both sides."""
    stage: Any
    (stage,) = ours.stages(ours.recipe("dynacl", stage1__batch_size=BATCH))
    model = upstream_model()
    for part, _, streams in parts(stage):
        ours.seen(streams.clean.encoder)
        ours.seen(streams.adversarial.encoder, 5)
        getattr(model, part).load_state_dict(named(streams), strict=False)
    kind = import_module("optimizer.lars").LARS
    optimizers = stage.optimizer(), kind(model.parameters(), lr=5.0, weight_decay=1e-6)
    silent = SimpleNamespace(info=lambda text: None)
    for epoch in EPOCHS:
        rate = plan().rate(epoch=epoch - 1, step=0, steps_per_epoch=98)
        images = torch.cat([ours.images(BATCH, epoch, view, side=SIDE) for view in (1, 2)])
        batch = neighbours(images).unflatten(0, (BATCH, 2))
        noise = neighbours(torch.rand(images.shape, generator=torch.Generator().manual_seed(epoch)))
        set_lr(optimizers[1], rate)
        drawn = mock.patch.object(torch, "rand_like", lambda x, noise=noise: noise.clone())
        with ours.kept(script, "PGD_contrastive") as theirs, drawn:
            none = SimpleNamespace(step=lambda: None)
            loss = script.train([batch], model, optimizers[1], none, epoch, silent, ours.CLASSES)
        stage.before_epoch(epoch - 1)
        with ours.kept(stage, "attacked") as mine:
            views = (images, torch.Generator().manual_seed(epoch))
            total = ours.take_step(stage, views, optimizers[0], rate)
        quantity = f"attack in epoch {epoch} (5 steps, same start)"
        attack(table, quantity, neighbours(mine[0]), theirs[0], neighbours(images))
        table.number(f"loss of the step of epoch {epoch}", total, loss, within=1e-6)
        for part, title, streams in parts(stage):
            state = {name.removeprefix(f"{part}."): value for name, value in model.state_dict().items() if part in name}
            compare_states(table, f"of the {title} after epoch {epoch} (rate {rate:.5f})", named(streams), state)


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
