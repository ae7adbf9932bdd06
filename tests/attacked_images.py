"""Images where rounding is at its worst, a net with all that an attack could disturb, and PGD on them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import PGD, Objective
from bench.recipe import Start, Threat

LINF, L2 = Threat(eps=8 / 255), Threat(norm="l2", eps=0.5)
STARTS: tuple[Start, ...] = ("uniform", "uniform-clamped", "gaussian", "clean")


def run_pgd(
    objective: Objective,
    images: Tensor,
    *,
    steps: int = 3,
    start: Start = "uniform",
    generator: torch.Generator | None = None,
) -> Tensor:
    """PGD with the papers' step of 2/255."""
    return PGD(steps, 0.25, start)(objective, images, threat=LINF, generator=generator)


def replace_pgd(patch: pytest.MonkeyPatch, stand_in: Callable[..., Tensor]) -> None:
    """Let ``stand_in(objective, images, attack=..., threat=..., generator=...)`` stand in for every PGD attack."""

    def call(attack: PGD, objective: Objective, images: Tensor, **how: Any) -> Tensor:
        return stand_in(objective, images, attack=attack, **how)

    patch.setattr(PGD, "__call__", call)


DTYPES = (torch.float32, torch.float64)
FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPE = (4, 3, 8, 8)


def noise(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=rng.generator(0, name), dtype=dtype)


def edge_images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels all over [0, 1], many on its ends and some a hair off them, where rounding is at its worst."""
    images = (0.5 + 0.5 * noise("images", dtype)).clamp(0, 1)
    images[0, 0] = torch.tensor([0, 1, 1e-30, 1e-8, 1 - 2**-24, 0.5, 2**-126, 1 / 3], dtype=dtype)
    return images


def inner_images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels so far from 0 and 1 that the pixel range never cuts the balls of LINF and L2."""
    return (0.5 + 0.02 * noise("images", dtype)).clamp(0.45, 0.55)


def linear(weight: Tensor) -> Objective:
    return lambda x: (weight * x).flatten(1).sum(1)


class Net(nn.Module):
    """A classifier with everything an attack could disturb: parameters, running statistics, two modes."""

    def __init__(self) -> None:
        super().__init__()
        with rng.scoped(0, "net"):
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(8 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


LABELS = torch.tensor([0, 1, 2, 3])
