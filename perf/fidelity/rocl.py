"""RoCL beside the authors' code, with the LARS that they used.

Run from the repository's root: ``python perf/fidelity/rocl.py PATH/TO/CLONE PATH/TO/TORCHLARS``. It prints the
section of ``docs/fidelity.md``.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest import mock

import ours
import torch
from clone import Clone, Upstream, on_cpu
from command import run
from pipelines import Seen, described, strong_view
from table import Table, attack, gradients, relative
from torch import Tensor, nn

from methods.rocl import directed_nt_xent

UPSTREAMS = (
    Upstream("Kim-Minseon/RoCL", "b6d5185e294e8bca5670e9146df81b54d99d0635"),
    Upstream("kakaobrain/torchlars", "3b3d7e9c7bd35a31b2c2fa6f213beb0bf6881892"),
)

BATCH, SIDE, EPS = 4, 32, 0.0314
RATES = (0.24, 0.38, 1.5)
"""Of epochs 0, 1 and 9."""
NOTE = (
    "Compared: upstream's own losses, attack, networks, learning rates and LARS, run beside ours on the same weights, "
    f"views and noise, one process: ResNet-18, {BATCH} images of {SIDE} x {SIDE} pixels, float64. The trust ratio of "
    "that LARS is a CUDA kernel; its formula took its place. Upstream's losses hold two guards of 1e-8 that ours "
    "leaves out, which is what they differ by. Upstream's cosine starts at the epoch after the peak, one later than "
    "ours."
)


def compare(clone: Clone, lars: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("RoCL", f"{clone.upstream}, its LARS from {lars.upstream}", NOTE)
    absent: dict[str, dict[str, Any]] = {"diffdist": {}, "data": {}, "data.cifar": {"CIFAR10": Seen.dataset}}
    absent["torchlars._adaptive_lr"] = {"compute_adaptive_lr": trust_ratio}
    with ExitStack() as stack:
        stack.enter_context(lars.importing())
        stack.enter_context(clone.importing("src", absent=absent))
        stack.enter_context(on_cpu())
        with mock.patch.object(sys, "argv", ["rocl_train.py", "--train_type", "contrastive"]):
            arguments = import_module("argument").parser()
        compare_plan(table, arguments)
        compare_losses(table)
        compare_steps(table)
        compare_rates(table, arguments)
    yield table


def trust_ratio(weight: Tensor, gradient: Tensor, decay: float, eps: float, trust: float, out: Tensor) -> Tensor:
    """Return torchlars' ratio of two norms, whose own code needs a GPU and writes to ``out``."""
    if weight > 0 and gradient > 0:
        return trust * weight / (gradient + decay * weight + eps)
    return torch.ones_like(out)


def compare_plan(table: Table, arguments: Namespace) -> None:
    """Add the published settings, and the views."""
    recipe = ours.recipe("rocl")
    plan: Any = recipe.config.plans()["stage1"]
    mine = [plan.epochs, plan.batch_size, plan.lr, plan.weight_decay, plan.steps, EPS * plan.step_size]
    mine += [plan.temperature, plan.regularisation]
    per_step = arguments.batch_size * arguments.ngpu
    yours = [arguments.epoch, per_step, arguments.lr * arguments.lr_multiplier, arguments.decay, arguments.k]
    yours += [arguments.alpha, arguments.temperature, 1 / arguments.lamda]
    names = "epochs, batch, rate, decay, attack steps, their size at eps 0.0314, temperature, extra term"
    table.equal(names, ours.listed(mine), ours.listed(yours))
    try:
        import_module("data_loader").get_dataset(arguments)
    except Seen as seen:
        steps = seen.transform.transforms
    table.equal("views, in order", described(plan.view), described(strong_view(steps)))


def compare_losses(table: Table) -> None:
    """Add the losses of random embeddings."""
    loss = import_module("loss")
    for views, kind in ((2, "None"), (3, "Rep")):
        for count, dtype, within in ((512, torch.float32, 1e-4), (64, torch.float64, 1e-5)):
            torch.set_default_dtype(dtype)
            both = []
            z = torch.randn(views * count, 128, generator=ours.generator("embeddings", views)).requires_grad_()
            similarity, _ = loss.pairwise_similarity(z, temperature=0.5, multi_gpu=False, adv_type=kind)
            for value in (directed_nt_xent(z.chunk(views), 0.5), loss.NT_xent(similarity, kind)):
                both.append((float(value), torch.autograd.grad(value, z)))
            torch.set_default_dtype(torch.float64)
            gaps = {"": abs(both[0][0] - both[1][0]), "gradient, relative": relative(both[0][1], both[1][1])}
            quantity = f"loss of {views} views, N = {count}, {str(dtype).removeprefix('torch.')}"
            table.add(quantity, f"{both[0][0]:.7f}", f"{both[1][0]:.7f}", gaps, within=within)


def compare_steps(table: Table) -> None:
    """Add the results of three training steps on both sides."""
    recipe = ours.recipe("rocl", stage1__batch_size=BATCH, stage1__attack_groups=1, threat__eps=EPS)
    (stage,) = ours.stages(recipe)
    model = import_module("models.resnet").ResNet18(ours.CLASSES, True).train()
    projector = import_module("models.projector").Projector(expansion=1).train()
    sizes = [
        " / ".join(f"{ours.parameters(part):,}" for part in parts)
        for parts in ((stage.encoder, stage.get_submodule("projector")), (model, projector))
    ]
    table.equal("parameters of encoder / projector", *sizes)
    model.load_state_dict(ours.renamed(stage.encoder.backbone.state_dict(), {"downsample": "shortcut"}))
    names = {"0.": "linear_1.", "2.": "linear_2."}
    projector.load_state_dict(ours.renamed(stage.get_submodule("projector").state_dict(), names))
    upstream = Side(model, projector)
    optimizer = stage.optimizer()
    for step, rate in enumerate(RATES):
        first, second = (ours.images(BATCH, step, view, side=SIDE) for view in (1, 2))
        theirs = upstream.step(first, second, rate, seed=step)
        with ours.kept(stage, "_attack") as mine:
            generator = torch.Generator().manual_seed(step)
            loss = ours.take_step(stage, (first, second, generator), optimizer, rate)
        attack(table, f"attack of step {step} (7 steps, same start)", mine[0], theirs["attacked"], first)
        table.number(f"loss of step {step}", loss, theirs["loss"], within=1e-5)
        gap = relative(gradients(stage.encoder), gradients(model))
        table.apart(f"gradient of the encoder in step {step}, worst tensor", {"relative": gap}, within=1e-5)
        gaps = {
            "encoder, relative": relative(ours.values(stage.encoder.backbone), ours.values(model)),
            "projector": relative(stage.get_submodule("projector").parameters(), projector.parameters()),
        }
        table.apart(f"weights and running statistics after LARS step {step} (rate {rate:g})", gaps, within=1e-6)
        table.equal(f"batches tracked after step {step}", *(str(ours.tracked(m)) for m in (stage.encoder, model)))


class Side:
    """Upstream's networks and a training step of its script, which is not a function."""

    def __init__(self, model: nn.Module, projector: nn.Module) -> None:
        parameters = [*model.parameters(), *projector.parameters()]
        base = torch.optim.SGD(parameters, lr=RATES[0], momentum=0.9, weight_decay=1e-6)
        self.model, self.projector = model, projector
        self.optimizer = import_module("torchlars").LARS(optimizer=base, eps=1e-8, trust_coef=0.001)

    def step(self, first: Tensor, second: Tensor, rate: float, *, seed: int) -> dict[str, Tensor]:
        """Take one step; returns the attacked images and the loss."""
        loss = import_module("loss")
        adversary = import_module("attack_lib").RepresentationAdv(
            self.model, self.projector, EPS, 0.007, 0.0, 1.0, 7, "linf", "sim", "other"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed)
        # Its noise and the images it is added to would be float32.
        double = mock.patch.object(torch, "FloatTensor", torch.DoubleTensor)
        with double, mock.patch.object(Tensor, "float", lambda tensor: tensor):
            attacked, extra = adversary.get_loss(first, second, self.optimizer, 256, True)
        embeddings = self.projector(self.model(torch.cat([first, second, attacked])))
        similarity, _ = loss.pairwise_similarity(embeddings, temperature=0.5, multi_gpu=False, adv_type="Rep")
        total = loss.NT_xent(similarity, "Rep") + extra
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return {"attacked": attacked, "loss": total.detach()}


def compare_rates(table: Table, arguments: Namespace) -> None:
    """Add the learning rates of all epochs."""
    plan = ours.recipe("rocl").config.plans()["stage1"]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=arguments.lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epoch)
    kind = import_module("warmup_scheduler").GradualWarmupScheduler
    scheduler = kind(optimizer, multiplier=arguments.lr_multiplier, total_epoch=10, after_scheduler=cosine)
    rates = []
    for epoch in range(arguments.epoch):
        optimizer.step()
        scheduler.step()
        mine = plan.rate(epoch=epoch, step=0, steps_per_epoch=98)
        rates.append((mine, optimizer.param_groups[0]["lr"]))
    for epoch in (0, 1, 9, 10, 11, 100, 500, 999):
        table.number(f"learning rate of epoch {epoch}", *rates[epoch], within=1e-5)
    gap = max(abs(a - b) for a, b in rates)
    table.apart("learning rate, largest difference over 1,000 epochs", {"": gap}, within=1e-5)


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
