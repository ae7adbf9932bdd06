"""ACL beside the authors' code.

Run from the repository's root: ``python perf/fidelity/acl.py PATH/TO/CLONE``. It prints the section of
``docs/fidelity.md``.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from importlib import import_module
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ours
import torch
from clone import Clone, Upstream, on_cpu, working_in
from command import run
from pipelines import Seen, described, strong_view
from table import Table, attack, relative
from torch import Tensor, nn

from bench.method import Stage
from bench.optim import set_lr
from methods.losses import nt_xent

UPSTREAMS = (Upstream("VITA-Group/Adversarial-Contrastive-Learning", "399eabd36c7b5708752681774d755bf5242d5eda"),)

BATCH, SIDE = 4, 16
STEPS_PER_EPOCH = 98
RATES = (5 / 980, 10 / 980, 5.0)
"""Of updates 1, 2 and 980, where the warm-up ends."""
NOTE = (
    "Compared: upstream's own training function, with its attack, loss, networks and LARS, run beside ours on the same "
    f"weights, views and noise: dual-BN ResNet-18, two views of {BATCH} images of {SIDE} x {SIDE} pixels, float64. In "
    "upstream the two views of an image are neighbours; here they lie half a batch apart. The bias in front of the "
    "projector's first batch-norm has a gradient of rounding noise, which LARS scales up: it is shown by itself."
)
NOISE = "fc.fc1.bias"


def compare(clone: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("ACL", str(clone.upstream), NOTE)
    with clone.importing(absent={"torchvision.models.utils": {}}), on_cpu():
        arguments = published(table)
        compare_loss(table)
        compare_networks(table)
        compare_steps(table)
        compare_rates(table, arguments)
    yield table


def published(table: Table) -> Namespace:
    """Add the published settings and views; returns upstream's arguments."""
    script = import_module("train_simCLR")
    arguments: Namespace = script.parser.parse_args(["name", "--ACL_DS"])
    plan: Any = ours.recipe("acl").config.plans()["stage1"]
    mine = [plan.optimizer, plan.epochs, plan.batch_size, plan.effective_lr, plan.steps]
    yours = [arguments.optimizer, arguments.epochs, arguments.batch_size, arguments.lr, arguments.pgd_iter]
    table.equal("optimiser, epochs, batch, rate, attack steps", ours.listed(mine), ours.listed(yours))
    # Its views are defined inside its training function, which is left at the point where it loads the dataset.
    command = mock.patch.object(sys, "argv", ["train_simCLR.py", "name", "--ACL_DS"])
    dataset = mock.patch.object(script, "CustomCIFAR10", Seen.dataset)
    with TemporaryDirectory() as folder, working_in(folder), command, dataset, mock.patch("builtins.print"):
        try:
            script.main()
        except Seen as seen:
            steps = seen.transform.transforms
    table.equal("views, in order", described(plan.view), described(strong_view(steps)))
    return arguments


def compare_loss(table: Table) -> None:
    """Add NT-Xent of random embeddings."""
    theirs = import_module("utils").nt_xent
    for count, dtype, within in ((512, torch.float32, 1e-5), (64, torch.float64, 1e-7)):
        torch.set_default_dtype(dtype)
        z = torch.randn(2 * count, 512, generator=ours.generator("embeddings")).requires_grad_()
        both = [nt_xent(z[:count], z[count:], 0.5), theirs(neighbours(z))]
        moved = [torch.autograd.grad(loss, z) for loss in both]
        gaps = {"": abs(float(both[0] - both[1])), "gradient, relative": relative(*moved)}
        quantity = f"NT-Xent, N = {count}, {str(dtype).removeprefix('torch.')}"
        table.add(quantity, f"{float(both[0]):.7f}", f"{float(both[1]):.7f}", gaps, within=within)
    torch.set_default_dtype(torch.float64)


def neighbours(x: Tensor) -> Tensor:
    """Return rows in upstream's order: the two views of an image adjacent, not half a batch apart."""
    return torch.stack(x.chunk(2), dim=1).flatten(0, 1)


def our_stage(**settings: Any) -> Stage:
    """Return our dual-stream stage."""
    (stage,) = ours.stages(ours.recipe("acl", stage1__batch_size=BATCH, **settings))
    return stage


def upstream_model(layers: int) -> nn.Module:
    """Return upstream's network with two sets of batch-norm layers."""
    module = import_module("models.resnet_multi_bn")
    names = ["normal", "pgd"]
    model: nn.Module = module.resnet18(pretrained=False, bn_names=names)
    model.fc = module.proj_head(512, bn_names=names, twoLayerProj=layers == 2)
    return model


def named(stage: Any) -> dict[str, Tensor]:
    """Return the state of both our branches under upstream's names."""
    found = ours.multi_bn([stage.clean.encoder.backbone, stage.adversarial.encoder.backbone])
    for number, branch in enumerate((stage.clean, stage.adversarial)):
        for name, value in branch.projector.state_dict().items():
            position, _, leaf = name.partition(".")
            layer, kind = divmod(int(position), 3)
            part = f"fc{layer + 1}" if kind == 0 else f"bn{layer + 1}.bn_list.{number}"
            found[f"fc.{part}.{leaf}"] = value
    return found


def compare_networks(table: Table) -> None:
    """Add sizes, and the embeddings of both branches."""
    for layers in (2, 3):
        stage: Any = our_stage(stage1__projector_layers=layers)
        model = upstream_model(layers)
        mine = len({id(p) for p in stage.parameters()})
        table.equal(f"tensors, both branches, {layers}-layer projector", mine, len(list(model.parameters())))
        size = sum(p.numel() for p in {id(p): p for p in stage.parameters()}.values())
        table.equal(f"parameters, both branches, {layers}-layer projector", size, ours.parameters(model))
    ours.seen(stage.clean.encoder)
    ours.seen(stage.adversarial.encoder, 5)
    model.load_state_dict(named(stage), strict=False)
    images = ours.images(BATCH, "embeddings", side=SIDE)
    stage.eval()
    model.eval()
    for name, branch in (("normal", stage.clean), ("pgd", stage.adversarial)):
        with torch.no_grad():
            z, theirs = branch(images), model(images, name)
        gap = {"": float((z - theirs).abs().max())}
        table.add(f"embeddings of branch {name!r}, norm", f"{z.norm():.9f}", f"{theirs.norm():.9f}", gap, within=1e-11)


def compare_steps(table: Table) -> None:
    """Add the results of three updates on both sides."""
    script: Any = import_module("train_simCLR")
    script.args = Namespace(ACL_DS=True, pgd_iter=5, print_freq=1)
    stage: Any = our_stage()
    model = upstream_model(3)
    model.load_state_dict(named(stage), strict=False)
    kind = import_module("optimizer.lars").LARS
    optimizers = stage.optimizer(), kind(model.parameters(), lr=5.0, weight_decay=1e-6)
    silent = SimpleNamespace(info=lambda text: None)
    for step, rate in enumerate(RATES):
        images = torch.cat([ours.images(BATCH, step, view, side=SIDE) for view in (1, 2)])
        batch = neighbours(images).unflatten(0, (BATCH, 2))
        noise = neighbours(torch.rand(images.shape, generator=torch.Generator().manual_seed(step)))
        scheduler = SimpleNamespace(step=lambda rate=rate: set_lr(optimizers[1], rate))
        drawn = mock.patch.object(torch, "rand_like", lambda x, noise=noise: noise.clone())
        with ours.kept(script, "PGD_contrastive") as theirs, drawn:
            loss = script.train([batch], model, optimizers[1], scheduler, 1, silent, ours.CLASSES)
        with ours.kept(stage, "attack_both") as mine:
            views = (images, torch.Generator().manual_seed(step))
            total = ours.take_step(stage, views, optimizers[0], rate)
        quantity = f"attack of step {step} (5 steps, same start)"
        attack(table, quantity, neighbours(mine[0]), theirs[0], neighbours(images))
        table.number(f"loss of step {step}", total, loss, within=1e-6)
        compare_states(table, f"after LARS step {step} (rate {rate:.5f})", named(stage), model.state_dict())


def compare_states(table: Table, when: str, found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Add our weights and statistics, ``found``, beside upstream's of the same names in ``state``."""
    counters = {name for name in found if name.endswith("num_batches_tracked")}
    (noise,) = (name for name in found if name.endswith(NOISE))
    names = sorted(found.keys() - counters - {noise})
    gap = {"relative": relative([found[name] for name in names], [state[name] for name in names])}
    table.apart(f"weights and running statistics {when}, worst tensor", gap, within=1e-5)
    table.apart(f"that bias {when}", {"relative": relative([found[noise]], [state[noise]])}, within=1e-1)
    tracked = [sorted({int(values[name]) for name in counters}) for values in (found, state)]
    table.equal(f"batches tracked {when}", *map(str, tracked))


def compare_rates(table: Table, arguments: Namespace) -> None:
    """Add the learning rates of all updates."""
    script = import_module("train_simCLR")
    plan = ours.recipe("acl").config.plans()["stage1"]
    updates = arguments.epochs * STEPS_PER_EPOCH
    warmup = 10 * STEPS_PER_EPOCH
    rates = []
    for update in range(1, updates + 1):
        epoch, step = divmod(update - 1, STEPS_PER_EPOCH)
        mine = plan.rate(epoch=epoch, step=step, steps_per_epoch=STEPS_PER_EPOCH)
        factor = script.cosine_annealing(update, updates, 1, 1e-6 / arguments.lr, warmup_steps=warmup)
        rates.append((mine, arguments.lr * factor))
    for update in (1, 490, 979, 980, 49_000, 98_000):
        table.number(f"learning rate of update {update}", *rates[update - 1], within=1e-12)
    gap = max(abs(a - b) for a, b in rates)
    table.apart(f"learning rate, largest difference over {updates:,} updates", {"": gap}, within=1e-12)


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
