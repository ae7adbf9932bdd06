"""Seconds of a second derivative through a ResNet-18 in training mode: our layers against the framework's.

Each attack step of AP-DPE needs it: the gradient, for the pixels, of a function of such a gradient. Both networks have
the same weights and images, on one CPU thread, in one process, and are timed alternately, so that other load on the
machine affects both alike.

Run from the repository's root: ``python perf/second_derivative.py [--width 8] [--side 16] [--batch 64]``.
"""

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench import rng
from bench.nn import resnet18
from methods.ap_dpe.twice import make_twice_differentiable

PLAIN, CLOSED = "torch.nn", "closed form"


def networks(width: int) -> dict[str, nn.Module]:
    """Return two networks with the same frozen weights, which differ in their batch-norm and convolutions."""
    built: dict[str, nn.Module] = {}
    for name in (PLAIN, CLOSED):
        with rng.scoped(0, "perf"):
            built[name] = resnet18(width, image_shape=(3, 32, 32), stem_padding=1, stem_init="kaiming")
    make_twice_differentiable(built[CLOSED])
    return {
        name: network.to(memory_format=torch.channels_last).requires_grad_(False) for name, network in built.items()
    }


def twice(network: nn.Module, images: Tensor) -> Tensor:
    """Return the gradient of the squared length of a gradient, [B, C, H, W]."""
    x = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sin().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), x)[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage")
    parser.add_argument("--side", type=int, default=16, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shape = (asked.batch, 3, asked.side, asked.side)
    images = torch.rand(shape, generator=rng.generator(0, "perf")).contiguous(memory_format=torch.channels_last)
    both = networks(asked.width)
    results = {name: twice(network, images) for name, network in both.items()}
    apart = (results[PLAIN] - results[CLOSED]).norm() / results[PLAIN].norm()
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(asked.rounds):
        for name, network in both.items():
            start = time.perf_counter()
            twice(network, images)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    table = Table(title=f"Second derivative, ResNet-18 of width {asked.width}, {asked.batch} images, 1 thread")
    for heading in ("layers", "ms", "against the framework"):
        table.add_column(heading, justify="right")
    for name, median in medians.items():
        table.add_row(name, f"{1000 * median:.1f}", f"{median / medians[PLAIN]:.2f}")
    Console().print(table)
    Console().print(f"relative difference of the two results: {apart:.1e}")


if __name__ == "__main__":
    main()
