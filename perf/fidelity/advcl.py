"""AdvCL beside the authors' code.

Run from the repository's root: ``python perf/fidelity/advcl.py PATH/TO/CLONE``. It prints the section of
``docs/fidelity.md``.
"""

import io
import math
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ours
import torch
from clone import Clone, Upstream, on_cpu
from command import run
from table import Table, attack, farthest, relative
from torch import Tensor, nn
from torch.nn import functional as F

from methods.advcl import multi_view_contrastive
from methods.high_frequency import high_frequency, high_pass

UPSTREAMS = (Upstream("LijieFan/AdvCL", "24cb7a613a4c58410e09cb0f799640475650d26f"),)

BATCH, SIDE, RATE, EPS = 4, 16, 0.5, 8 / 255
STEPS_PER_EPOCH = 98
NOISE = "head_proj.0.bias"
NOTE = (
    "Compared: upstream's own training function and attack, taken out of a script that trains as soon as it is "
    "imported, with its loss, networks and rates, run beside ours on the same weights, views, pseudo-labels and noise: "
    f"ResNet-18 with three branches, {BATCH} images of {SIDE} x {SIDE} pixels, float64 on both sides. "
    "Upstream embeds the clean views again in every step of the attack; the statistics that this moves are never read. "
    "The bias in front of the projector's batch-norm, whose gradient is rounding noise, is left out."
)


def compare(clone: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("AdvCL", str(clone.upstream), NOTE)
    terminal = mock.patch.object(os, "popen", return_value=io.StringIO("24 80"))  # for its progress bar
    wide = mock.patch.object(Tensor, "float", lambda tensor: tensor)
    with clone.importing(absent={"torchvision.models.utils": {}}), on_cpu(), terminal, wide:
        compare_parts(table)
        compare_rates(table)
        compare_step(table, clone)
    yield table


def compare_parts(table: Table) -> None:
    """Add the contrastive loss and the high-frequency view."""
    z = torch.randn(4, 64, 128, generator=ours.generator("embeddings"))
    for temperature in (0.5, 0.1):
        criterion = import_module("losses").SupConLoss(temperature=temperature)
        mine = multi_view_contrastive(list(z), temperature).mean()
        theirs = criterion(F.normalize(z, dim=2).transpose(0, 1))
        table.number(f"L_CL of 4 x 64 random embeddings, tau {temperature}", mine, theirs, within=1e-12)
    images = ours.images(16)
    high = high_frequency(images, high_pass(32, 32, 8).double())
    theirs = import_module("fr_util").generate_high(images, r=8)
    gap = {"largest pixel": farthest([high], [theirs])}
    lowest = [f"min {float(view.min()):.6f}" for view in (high, theirs)]
    table.add("high-frequency view of 16 images 3x32x32, r = 8", lowest[0], lowest[1], gap, within=1e-6)


def compare_rates(table: Table) -> None:
    """Add the learning rates."""
    module = import_module("utils")
    plan = ours.recipe("advcl").config.plans()["stage2"]
    floor = RATE * 0.1**3
    top = floor + (RATE - floor) * (1 + math.cos(math.pi * 10 / 1000)) / 2
    arguments = Namespace(learning_rate=RATE, cosine=True, lr_decay_rate=0.1, epochs=1000, warm=True, warm_epochs=10)
    arguments.warmup_from, arguments.warmup_to = 0.01, top
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    largest, count = 0.0, 0
    for epoch in (*range(1, 13), 101, 500, 999, 1000):
        for step in (0, 1, 50, 97):
            module.adjust_learning_rate(arguments, optimizer, epoch)
            module.warmup_learning_rate(arguments, epoch, step, STEPS_PER_EPOCH, optimizer)
            mine = plan.rate(epoch=epoch - 1, step=step, steps_per_epoch=STEPS_PER_EPOCH)
            largest, count = max(largest, abs(mine - optimizer.param_groups[0]["lr"])), count + 1
    table.apart(
        f"learning rate at {count} steps of epochs 1-12, 101, 500, 999, 1000 ({STEPS_PER_EPOCH} steps an epoch)",
        {"": largest},
        within=1e-12,
    )


def compare_step(table: Table, clone: Clone) -> None:
    """Add the results of a training step on both sides."""
    recipe = ours.recipe("advcl", stage2__batch_size=BATCH)
    *_, stage = ours.stages(recipe, 1000)  # as many images as 500 clusters need
    model = import_module("models.resnet_cifar_multibn_ensembleFC").resnet18(bn_names=["normal", "pgd", "pgd_ce"])
    model.load_state_dict(named(stage), strict=False)
    unused = {id(p) for head in (model.head_ce, model.head_pred) for p in head.parameters()}
    trained = [p for p in model.parameters() if id(p) not in unused], list(stage.parameters())
    table.equal("trained tensors (without upstream's two heads that no loss reaches)", len(trained[1]), len(trained[0]))
    table.equal("trained parameters", *(sum(p.numel() for p in side) for side in reversed(trained)))

    strong = tuple(ours.images(BATCH, "strong", view, side=SIDE) for view in (1, 2))
    weak = ours.images(BATCH, "weak", side=SIDE)
    draw = ours.generator("pseudo-labels")
    labels = torch.stack([torch.randint(k, (BATCH,), generator=draw) for k in (2, 10, 50, 100, 500)])
    theirs = upstream_step(clone, model, (*strong, weak), labels)
    high = high_frequency(weak, high_pass(SIDE, SIDE, SIDE / 4).double())
    views = SimpleNamespace(
        strong=strong, weak=weak, high=high, labels=labels, generator=torch.Generator().manual_seed(0)
    )
    with ours.kept(stage, "_attack") as mine, ours.kept(stage, "forward") as losses:
        total = ours.take_step(stage, views, stage.optimizer(), RATE)
    for number, name in ((0, "x_cl"), (1, "x_ce")):
        attack(table, f"{name} after 5 steps, same start", mine[number], theirs[name], weak)
    for name, term in (("L_CL", "contrast"), ("L_CE", "cross_entropy")):
        table.number(f"{name} of that step", losses[0].scalars[term], theirs[name], within=1e-9)
    table.number("L of that step", total, theirs["L_CL"] + 0.2 * theirs["L_CE"], within=1e-9)
    found, state = named(stage), model.state_dict(keep_vars=True)
    learnt = [name for name, value in found.items() if isinstance(value, nn.Parameter) and name != NOISE]
    moved = [[g for name in learnt if (g := values[name].grad) is not None] for values in (found, state)]
    table.apart("gradients of that step, worst tensor", {"relative": relative(*moved)}, within=1e-7)
    weights = [[values[name].detach() for name in learnt] for values in (found, state)]
    table.apart(f"weights after one SGD step at {RATE}", {"": farthest(*weights)}, within=1e-7)
    for number, branch in ((1, "pgd"), (2, "pgd_ce")):
        names = [name for name in found if f"bn_list.{number}.running" in name]
        gap = {"": farthest([found[name] for name in names], [state[name] for name in names])}
        table.apart(f"running statistics of branch {branch!r}, 6 batches", gap, within=1e-9)
    compare_counters(table, found, state)


def compare_counters(table: Table, found: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Add the numbers of batches seen by batch-norm layers, in two places fewer than upstream's."""
    reasons = {
        "bn1.bn_list.0": "deliberate: never read, its views are embedded once",
        "bn1.bn_list.1": "0",
        "bn1.bn_list.2": "0",
        "head_proj.1": "deliberate: never read in train mode, not exported",
    }
    for name, reason in reasons.items():
        mine, theirs = (int(values[f"{name}.num_batches_tracked"]) for values in (found, state))
        if reason == "0":
            table.equal(f"batches seen by {name} in a step", mine, theirs)
        else:
            table.explained(f"batches seen by {name} in a step", str(mine), str(theirs), reason)


def named(stage: Any) -> dict[str, Tensor]:
    """Return our state under upstream's names."""
    found = ours.multi_bn([branch.backbone for branch in (stage.normal, stage.encoder, stage.pgd_ce)])
    for name, value in stage.projector.state_dict(keep_vars=True).items():
        found[f"head_proj.{name}"] = value
    for classifier in stage.classifiers:
        for name, value in classifier.state_dict(keep_vars=True).items():
            found[f"fc_{classifier.out_features:03}.{name}"] = value
    return found


def upstream_step(clone: Clone, model: nn.Module, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Any]:
    """Run one training step of upstream; returns the attacked images and the terms of the loss."""
    utils, losses, frequencies = (import_module(name) for name in ("utils", "losses", "fr_util"))
    criterion, entropy = losses.SupConLoss(temperature=0.5), nn.CrossEntropyLoss(ignore_index=-1)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    batch = (views, None, list(labels), torch.arange(BATCH))
    defined = clone.definitions(
        "pretraining_advCL.py",
        *("AttackPGD", "train"),
        **{"torch": torch, "nn": nn, "F": F, "generate_high": frequencies.generate_high, "device": "cpu"},
        **{"args": Namespace(radius=SIDE // 4, ce_weight=0.2, warm=False), "train_loader": [batch]},
        **{"model": model, "optimizer": optimizer, "contrast_criterion": criterion, "ce_criterion": entropy},
        **{
            "warmup_learning_rate": utils.warmup_learning_rate,
            "progress_bar": lambda *_: None,
            "print": lambda *_: None,
        },
    )
    config = {"random_start": True, "step_size": 2 / 255, "epsilon": EPS, "num_steps": 5, "loss_func": "xent"}
    net = defined["net"] = defined["AttackPGD"](model, config)
    torch.manual_seed(0)
    # It divides the loss of an epoch by the number of its last batch, which here is 0.
    with (
        ours.kept(net, "forward") as attacks,
        ours.kept(criterion, "forward") as contrasts,
        ours.kept(entropy, "forward") as entropies,
        suppress(ZeroDivisionError),
    ):
        defined["train"](0)
    _, _, x_cl, x_ce, _ = attacks[0]
    terms = {"L_CL": float(contrasts[-1]), "L_CE": sum(map(float, entropies)) / 5}
    return {"x_cl": x_cl, "x_ce": x_ce, **terms}


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
