"""PGD of 20 steps on a ResNet-18: ours against plain loops, torchattacks and foolbox, and against the machine's limit.

All attack the same images with the same weights, eps and step size. Ours is what an evaluation calls, on the prepared
copy. The others attack the network made of the framework's own layers: a loop with ``autograd.grad``, the same on
channels-last weights and images, a loop with ``.backward()``, which also computes the gradients of the weights, and the
two packages. The limit is the rate of the fastest matrix product here; the last column is the rate of the operations
that ours needs, two passes of a network without batch-norm, as a share of it. With ``--bf16`` ours is also timed with
its gradients in bf16, whose share is that of a product in bf16; all others stay in fp32.

The first table is measured as the C library keeps memory by itself, the second as it does in a run of ours, for all.

Run from the repository's root: ``python perf/pgd.py``. Without the packages, their rows are left out:

    python -m pip install --target PEERS --no-deps torchattacks==3.5.1 foolbox==3.3.4 eagerpy gitpython gitdb smmap
    PYTHONPATH=PEERS python perf/pgd.py
"""

import argparse
import statistics
from collections.abc import Callable, Mapping

import torch
from comparison import (
    OURS,
    OURS_BF16,
    Cell,
    Comparison,
    Seconds,
    Table,
    arguments,
    ratio_columns,
    ratios,
    take_turns,
    with_bf16,
)
from plain import channels_last, plain
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import PGD, margin_objective
from bench.device import count_flops, keep_freed_memory
from bench.evaluation import attacked_copy
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings, Threat

EPS, STEP = 8 / 255, 2 / 255
FP32, BF16 = torch.float32, torch.bfloat16
PRODUCTS = {
    dtype: (f"matrix product in {name}", f"the same as a 1x1 convolution in {name}")
    for dtype, name in ((FP32, "fp32"), (BF16, "bf16"))
}
SIDE = 768
"""Rows and columns of the matrices whose product is the limit."""


def classifier_of(width: int) -> Classifier:
    """Return an untrained classifier of CIFAR-10's images, in eval mode."""
    with rng.scoped(0, "perf"):
        encoder = build_encoder(EncoderSettings(width=width), image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
        return Classifier(encoder, nn.Linear(encoder.feature_dim, 10)).eval()


def ours(classifier: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Return adversarial images as an evaluation computes them."""
    attack, threat = PGD(steps, STEP / EPS, "uniform-clamped"), Threat(norm="linf", eps=EPS)
    objective = margin_objective(classifier, labels)
    return attack(objective, images, threat=threat, generator=rng.generator(0, "perf"))


def uniform(images: Tensor) -> Tensor:
    """Return U(-eps, eps) in the shape of ``images``."""
    return torch.empty_like(images).uniform_(-EPS, EPS)


def plain_loop(network: nn.Module, images: Tensor, labels: Tensor, steps: int, noise: Tensor) -> Tensor:
    """Return adversarial images as papers write the attack down, with ``autograd.grad``; it starts at ``noise``."""
    x_adv = (images + noise).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(x_adv), labels), x_adv)
        x_adv = x_adv.detach() + STEP * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, images - EPS), images + EPS).clamp(0, 1)
    return x_adv


def backward_loop(network: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Return adversarial images as many repositories compute them, with ``.backward()``."""
    delta = uniform(images).requires_grad_()
    for _ in range(steps):
        F.cross_entropy(network((images + delta).clamp(0, 1)), labels).backward()
        assert delta.grad is not None
        delta.data = (delta.data + STEP * delta.grad.sign()).clamp(-EPS, EPS)
        delta.grad.zero_()
    return (images + delta.detach()).clamp(0, 1)


def contestants(
    compared: Comparison, width: int, images: Tensor, labels: Tensor, steps: int
) -> dict[str, Callable[[], object]]:
    """Return the attacks on ``images`` by name."""
    classifier = classifier_of(width)
    prepared, network = classifier.prepared(), plain(classifier).eval()
    faster = channels_last(network).eval()
    calls: dict[str, Callable[[], object]] = {OURS: lambda: ours(prepared, images, labels, steps)}
    if compared.options.bf16:
        low = attacked_copy(classifier, "bf16")
        calls[OURS_BF16] = lambda: ours(low, images, labels, steps)
    calls |= {
        "plain loop": lambda: plain_loop(network, images, labels, steps, uniform(images)),
        "the same, channels-last": lambda: plain_loop(faster, images, labels, steps, uniform(images)),
        ".backward() loop": lambda: backward_loop(network, images, labels, steps),
    }
    torchattacks = compared.peer("torchattacks", "torchattacks")
    if torchattacks:
        attack = torchattacks.PGD(network, eps=EPS, alpha=STEP, steps=steps)
        calls["torchattacks"] = lambda: attack(images, labels)
    foolbox = compared.peer("foolbox", "foolbox")
    if foolbox:
        model = foolbox.PyTorchModel(network, bounds=(0, 1))
        linf = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=steps)
        calls["foolbox"] = lambda: linf(model, images, labels, epsilons=EPS)
    return calls


def products(dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return two ways to multiply matrices of ``SIDE`` rows: their libraries and speeds differ."""
    a, b = (torch.rand(SIDE, SIDE, generator=rng.generator(0, name)).to(dtype) for name in "ab")
    image = a.T.reshape(1, SIDE, SIDE // 24, 24).contiguous(memory_format=torch.channels_last)
    weight = b.T.reshape(SIDE, SIDE, 1, 1).contiguous(memory_format=torch.channels_last)
    return dict(zip(PRODUCTS[dtype], (lambda: a @ b, lambda: F.conv2d(image, weight)), strict=True))


def rows(seconds: Seconds, images: int, flops: float) -> tuple[list[list[Cell]], dict[torch.dtype, float]]:
    """Return rate, ratios and share of the limit of each attack, and the limits in operations a second."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = {dtype: [medians[name] for name in names if name in medians] for dtype, names in PRODUCTS.items()}
    limits = {dtype: 2 * SIDE**3 / min(times) for dtype, times in fastest.items() if times}
    found: list[list[Cell]] = []
    for name in (name for name in seconds if not any(name in names for names in PRODUCTS.values())):
        limit = limits[BF16 if name == OURS_BF16 else FP32]
        found.append([name, images / medians[name], *ratios(seconds, name), f"{flops / medians[name] / limit:.0%}"])
    return found, limits


def compare(compared: Comparison, width: int, batch: int) -> dict[str, Callable[[], object]]:
    """Return the attacks at ``width`` and what they are measured against."""
    generator = rng.generator(0, "perf", "images")
    images, labels = torch.rand(batch, 3, 32, 32, generator=generator), torch.arange(batch) % 10
    limits = products(FP32) | (products(BF16) if compared.options.bf16 else {})
    return contestants(compared, width, images, labels, compared.options.steps) | limits


def show(compared: Comparison, calls: Mapping[str, Callable[[], object]], title: str, batch: int) -> None:
    """Time ``calls`` and add their table."""
    _, flops = count_flops(calls[OURS])
    seconds = take_turns(calls, compared.options.rounds)
    found, limits = rows(seconds, batch, flops)
    note = f"Limit: {limits[FP32] / 1e9:.0f} GFLOP/s."
    if BF16 in limits:
        note += f" In bf16: {limits[BF16] / 1e9:.0f}."
    compared.add(Table(title, ("", "images/s", *ratio_columns(seconds), "of the limit"), found, note), seconds)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = with_bf16(arguments(__doc__, rounds=5))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 16], help="images, one number a width")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    compared = Comparison("pgd", options)
    sizes = [*zip(options.widths, options.batches, strict=True)]
    attacked = [compare(compared, width, batch) for width, batch in sizes]
    for memory in ("as usual", "kept"):
        if memory == "kept":
            keep_freed_memory()
        for calls, (width, batch) in zip(attacked, sizes, strict=True):
            show(
                compared,
                calls,
                f"PGD-{options.steps}, ResNet-18 of width {width}, batch {batch}, freed memory {memory}",
                batch,
            )
    compared.finish()


if __name__ == "__main__":
    main()
