"""Projected gradient ascent: the one attack engine of training and evaluation."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attack.threat import Ball, Threat
from bench.errors import BenchError, unknown
from bench.recipe import Start

Objective = Callable[[Tensor], Tensor]
"""x_adv [B, C, H, W] -> [B], what the attacker wants large; images must not influence each other's value,
unless that is the point (contrastive losses)."""

_GAUSSIAN_SCALE = 0.001  # TRADES, algorithm 1


def pgd(
    objective: Objective,
    images: Tensor,
    *,
    threat: Threat,
    steps: int,
    step_size: float,
    start: Start,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the last of ``steps`` projected ascent steps on ``objective``, inside the ball to the last bit.

    Args:
        objective: what is maximised, [B, C, H, W] -> [B].
        images: [B, C, H, W], float32 or float64, in [0, 1]; the result keeps their memory format.
        threat: the ball to stay in.
        steps: gradient steps; with 0 the start is returned, projected.
        step_size: length of a step in pixel units, such as 2/255.
        start: where the first gradient is taken.
        generator: decides the start, on the images' device; needed by every start but "clean".

    Raises:
        BenchError: an unknown start, or a random one without a generator.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), section 2.1.
    """
    run = iterates(
        objective,
        images,
        threat=threat,
        steps=steps,
        step_size=step_size,
        start=start,
        generator=generator,
    )
    return deque(run, maxlen=1).pop()  # one iterate in memory at a time


def iterates(
    objective: Objective,
    images: Tensor,
    *,
    threat: Threat,
    steps: int,
    step_size: float,
    start: Start,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield the projected start and then each step: the k-th is what `pgd` with ``steps=k`` returns.

    Arguments and errors are those of `pgd`.
    """
    images = images.detach()
    ball = threat.around(images)
    x = _start(ball, images, start, generator)
    yield ball.project(x)
    for _ in range(steps):
        # From the raw start: the papers' noise may leave [0, 1] until the first projection.
        x = ball.project(x + step_size * ball.step(_gradient(objective, x)))
        yield x


def _start(ball: Ball, images: Tensor, start: Start, generator: torch.Generator | None) -> Tensor:
    if start not in get_args(Start):
        raise unknown("start", start, get_args(Start))
    if start == "clean":
        return images
    if generator is None:
        raise BenchError(
            f"the start {start!r} draws noise and got no generator. "
            "Pass generator=bench.rng.generator(seed, 'attack'), or start='clean'."
        )
    if start == "gaussian":
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return images + _GAUSSIAN_SCALE * noise
    x = ball.random_start(generator)
    return x.clamp(0, 1) if start == "uniform-clamped" else x


def _gradient(objective: Objective, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x).sum(), x)
    return gradient


def cross_entropy_objective(model: nn.Module, labels: Tensor) -> Objective:
    """Return the objective of supervised attacks: each image's cross-entropy under ``labels`` (int64 [B])."""
    return lambda x: F.cross_entropy(model(x), labels, reduction="none")
