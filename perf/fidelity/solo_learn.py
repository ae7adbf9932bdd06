"""SimCLR, MoCo v2+, BYOL, Barlow Twins and VICReg beside solo-learn's, from which DeACL took its teachers.

Run from the repository's root: ``python perf/fidelity/solo_learn.py PATH/TO/CLONE``. It prints their sections of
``docs/fidelity.md``. Upstream's arguments are those of its own CIFAR scripts, read by its own parsers.
"""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import ours
import torch
from clone import Clone, LightningModule, Upstream
from command import run
from pipelines import described, strong_view
from table import Table, farthest, gradients, relative
from torch import Tensor, nn
from torch.nn import functional as F

from bench.method import Stage
from methods.barlow_twins import barlow_twins_loss
from methods.byol import prediction_error
from methods.losses import nt_xent
from methods.mocov2 import queue_contrast
from methods.vicreg import covariance_loss, invariance_loss, variance_loss

UPSTREAMS = (Upstream("vturrisi/solo-learn", "fca55e3fc41072123ba3f5f69c980435b1a1d356"),)

BATCH, SIDE, QUEUE, STEPS = 8, 16, 64, 3
NOTE = (
    "Compared: upstream's own classes, with the arguments of its own CIFAR script, and their training steps, run "
    f"beside ours on the same weights and views: ResNet-18 (stem padding 2), {BATCH} images of {SIDE} x {SIDE} pixels, "
    f"float64, {STEPS} updates by each side's own optimiser, the last at a third of the rate. The loss is the one that "
    "upstream logs, without that of its probe. Not run: upstream's learning-rate class, which is in another library "
    "(pl_bolts); our schedule is tested against its formula."
)

Loss = Callable[[Tensor, Tensor], Tensor]
"""Two embeddings [256, D] -> the loss."""


class Framework(NamedTuple):
    """A method under our name and upstream's."""

    title: str
    method: str
    script: str
    """Upstream's shell script, and the module of its loss."""
    upstream: tuple[str, str]
    """Module and class."""
    logged: str
    """What upstream calls the loss in its log."""
    losses: tuple[str, str, int]
    """What the loss is called in the table, upstream's module of it, and D."""


FRAMEWORKS = (
    Framework(
        "SimCLR", "simclr", "simclr", ("simclr", "SimCLR"), "train_nce_loss", ("loss, N = 256, D = 256", "simclr", 256)
    ),
    Framework(
        "MoCo v2+",
        "mocov2",
        "mocov2plus",
        ("mocov2plus", "MoCoV2Plus"),
        "train_nce_loss",
        ("loss, B = 256, queue 32,768, D = 128, T = 0.2", "moco", 128),
    ),
    Framework(
        "BYOL",
        "byol",
        "byol",
        ("byol", "BYOL"),
        "train_neg_cos_sim",
        ("loss of one direction, B = 256, D = 256", "byol", 256),
    ),
    Framework(
        "Barlow Twins",
        "barlow_twins",
        "barlow",
        ("barlow_twins", "BarlowTwins"),
        "train_barlow_loss",
        ("loss, B = 256, D = 2,048", "barlow", 2048),
    ),
    Framework(
        "VICReg",
        "vicreg",
        "vicreg",
        ("vicreg", "VICReg"),
        "train_vicreg_loss",
        ("loss, B = 256, D = 2,048", "vicreg", 2048),
    ),
)


def compare(clone: Clone) -> Iterator[Table]:
    """Yield a table a framework."""
    with importing(clone):
        for framework in FRAMEWORKS:
            yield compare_framework(clone, framework)


def importing(clone: Clone) -> AbstractContextManager[None]:
    """Let ``import`` find upstream's packages."""
    packages = ("solo", "solo.args", "solo.losses", "solo.methods", "solo.utils")
    absent = {"pytorch_lightning": {"LightningModule": LightningModule}, "pl_bolts": {}, "einops": {}}
    return clone.importing(bare=packages, absent=absent)


def compare_framework(clone: Clone, framework: Framework) -> Table:
    """Return the table of one framework."""
    table = Table(framework.title, str(clone.upstream), NOTE)
    arguments = published(clone, framework)
    model = upstream_model(framework, arguments)
    stage = our_stage(framework)
    copy_weights(stage, model)
    table.equal("parameters of encoder / heads", sizes(stage, stage.encoder.backbone), sizes(model, model.encoder))
    compare_plan(table, framework, arguments, model)
    compare_loss(table, framework, stage, model)
    compare_steps(table, framework, stage, model)
    if framework.method == "simclr":
        compare_passes(table, framework)
    return table


def published(clone: Clone, framework: Framework) -> Namespace:
    """Return the arguments of upstream's CIFAR script, as its own parsers and its own setup make them."""
    text = clone.text(f"bash_files/pretrain/cifar/{framework.script}.sh").replace("$1", "cifar10")
    parser = ArgumentParser()
    dataset, setup = import_module("solo.args.dataset"), import_module("solo.args.utils")
    dataset.dataset_args(parser)
    dataset.augmentations_args(parser)
    parser.add_argument("--max_epochs", type=int)  # Lightning's other arguments do not matter here
    parser.add_argument("--gpus", type=str)
    parser.add_argument("--method")
    parser = upstream_class(framework).add_model_specific_args(parser)
    arguments: Namespace = parser.parse_known_args(shlex.split(text)[2:])[0]
    setup.additional_setup_contrastive(arguments)
    return arguments


def upstream_class(framework: Framework) -> Any:
    """Return upstream's class of the method."""
    module, name = framework.upstream
    return getattr(import_module(f"solo.methods.{module}"), name)


def upstream_model(framework: Framework, arguments: Namespace) -> Any:
    """Return upstream's model, ready for its first step."""
    own = {"accumulate_grad_batches": 1, "scheduler": "none", "queue_size": QUEUE}
    model = upstream_class(framework)(**{**vars(arguments), **own})
    batches = range(len(ours_images()) // BATCH)
    model.trainer = SimpleNamespace(
        global_step=0, accumulate_grad_batches=1, train_dataloader=batches, max_epochs=arguments.max_epochs
    )
    if hasattr(model, "on_train_start"):
        model.on_train_start()
    return model.train()


def ours_images() -> range:
    """Return the positions of the training images: eight steps an epoch."""
    return range(8 * BATCH)


def our_stage(framework: Framework, **settings: Any) -> Stage:
    """Return our stage, with small batches and their queue."""
    small = {"stage1__batch_size": BATCH, **settings}
    if framework.method == "mocov2":
        small["stage1__queue"] = QUEUE
    if framework.method == "simclr":
        small.setdefault("stage1__views_together", False)
    (stage,) = ours.stages(ours.recipe(framework.method, **small), len(ours_images()))
    return stage


def pairs(stage: Stage, model: Any) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return our networks and upstream's, by name."""
    found = {"encoder": (stage.encoder.backbone, model.encoder)}
    for head in ("projector", "predictor"):
        if hasattr(stage, head):
            found[head] = (getattr(stage, head), getattr(model, head))
    if hasattr(stage, "momentum"):
        encoder, projector = stage.momentum.network  # type: ignore[union-attr, misc]
        found["momentum encoder"] = (encoder.backbone, model.momentum_encoder)
        found["momentum projector"] = (projector, model.momentum_projector)
    return found


def copy_weights(stage: Stage, model: Any) -> None:
    """Give upstream's networks, and its queue, the values of ours."""
    for mine, theirs in pairs(stage, model).values():
        theirs.load_state_dict(mine.state_dict())
    if hasattr(stage, "queues"):
        model.queue.copy_(stage.queues.transpose(1, 2))  # type: ignore[operator]


def sizes(model: Any, encoder: nn.Module) -> str:
    """Return how many parameters each part has."""
    heads = [getattr(model, head) for head in ("projector", "predictor") if hasattr(model, head)]
    return " / ".join(f"{ours.parameters(part):,}" for part in (encoder, *heads))


def compare_plan(table: Table, framework: Framework, arguments: Namespace, model: Any) -> None:
    """Add optimiser, rates and views as published."""
    plan: Any = next(iter(ours.recipe(framework.method).config.plans().values()))
    optimizer = model.configure_optimizers()
    mine = f"{plan.optimizer}, {plan.epochs} epochs of {plan.batch_size}, rate {plan.effective_lr:g} after "
    mine += f"{plan.warmup_epochs:g} from {plan.warmup_start:g}, decay {plan.weight_decay:g}, momentum {plan.momentum}"
    yours = f"{'lars' if arguments.lars else 'sgd'}, {arguments.max_epochs} epochs of {arguments.batch_size}, rate "
    yours += f"{arguments.lr:g} after {arguments.warmup_epochs:g} from {arguments.warmup_start_lr:g}, decay "
    yours += f"{arguments.weight_decay:g}, momentum {optimizer.param_groups[0]['momentum']}"
    if plan.optimizer == "lars":
        mine += f", eta {plan.lars_eta}, clipped: {plan.lars_clip}, vectors spared: {plan.lars_exclude_vectors}"
        yours += f", eta {optimizer.eta}, clipped: {optimizer.clip}, vectors spared: {optimizer.exclude_bias_n_norm}"
    table.equal("plan", mine, yours)
    first, second = (plan.view1, plan.view2) if hasattr(plan, "view1") else (plan.view, plan.view)
    asked = arguments.transform_kwargs
    both = asked if isinstance(asked, list) else [asked, asked]
    loader = import_module("solo.utils.contrastive_dataloader")
    for number, (view, keywords) in enumerate(zip((first, second), both, strict=True), 1):
        theirs = strong_view(loader.prepare_transform("cifar10", **keywords).transform.transforms)
        table.equal(f"view {number}", described(view), described(theirs))


def compare_loss(table: Table, framework: Framework, stage: Stage, model: Any) -> None:
    """Add the loss of random embeddings, and its gradient."""
    name, module, width = framework.losses
    losses: Any = import_module(f"solo.losses.{module}")
    plan: Any = stage.plan
    draw = ours.generator("embeddings")
    z1, z2 = (torch.randn(256, width, generator=draw).requires_grad_() for _ in range(2))
    unit1, unit2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    if framework.method == "simclr":
        mine, theirs = nt_xent(z1, z2, plan.temperature), losses.simclr_loss_func(z1, z2, model.temperature)
    elif framework.method == "mocov2":
        queue = F.normalize(torch.randn(32_768, width, generator=draw), dim=1)
        mine = queue_contrast(unit1, unit2, queue, plan.temperature, filled=torch.tensor(len(queue)))
        theirs = losses.moco_loss_func(unit1, unit2, queue.T, model.temperature)
    elif framework.method == "byol":
        mine, theirs = prediction_error(z1, z2.detach()), losses.byol_loss_func(z1, z2)
    elif framework.method == "barlow_twins":
        mine = plan.scale * barlow_twins_loss(z1, z2, redundancy=plan.redundancy)
        theirs = losses.barlow_loss_func(z1, z2, lamb=model.lamb, scale_loss=model.scale_loss)
    else:
        mine = plan.invariance_weight * invariance_loss(z1, z2)
        mine = mine + plan.variance_weight * (variance_loss(z1) + variance_loss(z2))
        mine = mine + plan.covariance_weight * (covariance_loss(z1) + covariance_loss(z2))
        weights = model.sim_loss_weight, model.var_loss_weight, model.cov_loss_weight
        theirs = losses.vicreg_loss_func(z1, z2, *weights)
    moved = [torch.autograd.grad(loss, z1, retain_graph=True) for loss in (mine, theirs)]
    differences = {"": abs(float(mine - theirs)), "gradient, relative": relative(*moved)}
    table.add(f"{name}, float64", f"{float(mine):.9f}", f"{float(theirs):.9f}", differences, within=1e-12)


def compare_steps(table: Table, framework: Framework, stage: Stage, model: Any) -> None:
    """Add the results of training steps on both sides."""
    peak = float(model.lr)
    optimizers = stage.optimizer(), model.configure_optimizers()
    for step, rate in enumerate((peak, peak, peak / 3)):
        images = [ours.images(BATCH, framework.method, step, view, side=SIDE) for view in (1, 2)]
        views = torch.cat(images) if framework.method == "simclr" else tuple(images)
        mine = ours.take_step(stage, views, optimizers[0], rate)
        theirs = upstream_step(model, [stage.encoder.normalise(view) for view in images], optimizers[1], rate, step)
        table.number(f"loss of step {step}", mine, model.logged[framework.logged], within=1e-7)
        both = pairs(stage, model)
        gap = {"relative": relative(*map(gradients, both["encoder"]))}
        table.apart(f"gradient of the encoder in step {step}, worst tensor", gap, within=1e-7)
        apart = {name: farthest(*(ours.values(network) for network in networks)) for name, networks in both.items()}
        if hasattr(stage, "queues"):
            apart["queue"] = farthest([stage.queues.transpose(1, 2)], [model.queue])  # type: ignore[operator]
        table.apart(
            f"weights and running statistics after {stage.plan.optimizer.upper()} step {step}", apart, within=1e-7
        )
        table.equal(
            f"batches tracked after step {step}", str(ours.tracked(stage.encoder)), str(ours.tracked(model.encoder))
        )
        if hasattr(stage, "momentum"):
            share = float(stage.momentum._share())  # type: ignore[operator, union-attr]
            table.number(f"tau after update {step + 1} (K = 8,000)", 1 - share, theirs, within=1e-8)


def upstream_step(model: Any, views: list[Tensor], optimizer: Any, rate: float, step: int) -> float:
    """Run one training step of upstream at ``rate``; returns its tau afterwards, or 0."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    batch = (torch.arange(BATCH), views, ours.labels(BATCH))
    loss = model.training_step(batch, step)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if not hasattr(model, "momentum_updater"):
        return 0.0
    model.trainer.global_step = step + 1
    model.on_train_batch_end(None, batch, step, 0)
    return float(model.momentum_updater.cur_tau)


def compare_passes(table: Table, framework: Framework) -> None:
    """Add the difference made by our default, both views in one pass."""
    directions = []
    for together in (True, False):
        stage = our_stage(framework, stage1__views_together=together)
        stage(torch.cat([ours.images(BATCH, framework.method, 0, view, side=SIDE) for view in (1, 2)])).total.backward()
        directions.append(torch.cat([gradient.flatten() for gradient in gradients(stage.encoder)]))
    cosine = float(F.cosine_similarity(directions[0], directions[1], dim=0))
    passes = "one by default (`views_together`), as SimCLR's algorithm 1; two, as above, on request"
    reason = f"deliberate: cosine of the two gradients {cosine:.3f} here"
    table.explained("passes of the two views", passes, "two", reason)


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
