"""Times steps side by side, and computes from them the time of a whole plan."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from bench.cost.probe import StageProbe
from bench.recipe import TrainPlan

_ROUGH = (2, 4, 8)
"""Batches of the first steps, which determine the batch of the timed ones: the first size, and one of the others."""
_SMALLEST = 8
_SHARE = 4
"""The larger of the two timed batches is this many times the smaller."""


class StepTimes:
    """Seconds of a stage's steps by the images that they take at once, without the warm-up."""

    def __init__(self, seconds: Mapping[int, Sequence[float]]) -> None:
        self.seconds = {batch: list(values) for batch, values in sorted(seconds.items())}

    @property
    def batch(self) -> int:
        """The largest batch that was timed."""
        return max(self.seconds)

    def at(self, batch: int) -> float:
        """Return the median seconds of a step on ``batch`` images; by :func:`line` if that size was not timed."""
        medians = {size: median(values) for size, values in self.seconds.items()}
        return medians[batch] if batch in medians else line(medians, batch)

    def step(self, plan: TrainPlan, images: int) -> float:
        """Return the seconds of a step of ``plan`` on ``images`` images: those of all its parts."""
        parts = plan.parts(images)
        return parts * self.at(math.ceil(images / parts))

    def of(self, plan: TrainPlan, images: int) -> float:
        """Return the seconds of all steps of ``plan`` on ``images`` images."""
        whole, rest = divmod(images, plan.batch_size)
        epoch = whole * self.step(plan, plan.batch_size)
        if rest and not plan.drop_last:
            epoch += self.step(plan, rest)
        return plan.epochs * epoch


def line(values: Mapping[int, float], batch: int) -> float:
    """Return the value at ``batch`` on the line through the values at the smallest and the largest batch.

    A step has a fixed cost (the update, kernel launches) and a cost per image. Neither can be negative, so the slope
    is clipped to that range, and the line still passes through the value at the largest batch.
    """
    small, large = min(values), max(values)
    most = values[large] / large
    slope = most if small == large else (values[large] - values[small]) / (large - small)
    return values[large] + min(max(slope, 0.0), most) * (batch - large)


@dataclass(frozen=True)
class Effort:
    """How long and how often to measure, and where to report it."""

    rounds: int
    """How often each step is timed."""
    seconds: float
    """The time limit: no step begins later. It determines how many images a step holds."""
    batch: int | None = None
    """The most images in a step; None: as many as fit."""
    said: Callable[[str], None] = lambda message: None
    """Called with messages on progress."""
    patience: float = math.inf
    """Seconds for the first steps of a stage, after its warm-up, on 2 and 8 images; where these would take longer, they
    are on 2 and 4."""


def time_in_turn(probes: Sequence[StageProbe], effort: Effort) -> list[StepTimes]:
    """Time steps of all ``probes`` alternately, one of each per round, so that disturbances affect all equally.

    Steps hold the plan's batch, or its parts where it has some, if time and memory allow it. Otherwise they hold the
    largest batch that does, the same in all stages, and steps on a quarter of it are timed as well. Each stage is timed
    on a few images in any case, and on no more if no time is left.
    """
    end = time.perf_counter() + effort.seconds
    rough = []
    for number, probe in enumerate(probes, 1):
        effort.said(f"warming up {number} of {len(probes)}")
        rough.append(StepTimes(_rough(probe, effort.patience)))
    if time.perf_counter() >= end:
        return rough
    left = effort.seconds - _spent(rough)
    largest = effort.batch or _affordable(probes, rough, left, effort.rounds + 1)
    times: list[dict[int, list[float]]] = [defaultdict(list) for _ in probes]
    effort.said("warming up at full size")
    chosen = [_fitting(probe, largest) for probe in probes]
    for turn in range(effort.rounds):
        if turn and time.perf_counter() >= end:
            break
        effort.said(f"round {turn + 1} of {effort.rounds}")
        for probe, sizes, kept in zip(probes, chosen, times, strict=True):
            for size in sizes:
                kept[size].append(probe.seconds(size))
    return [StepTimes(kept) for kept in times]


def _rough(probe: StageProbe, patience: float) -> dict[int, list[float]]:
    """Time a step of two of the first sizes, the larger ones that ``patience`` seconds allow."""
    small, medium, large = (min(size, _at_once(probe.plan)) for size in _ROUGH)
    probe.warm_up(small)
    times = {small: [probe.seconds(small)]}
    # Never one size alone: most of a small step can be a fixed cost, which a larger one does not repeat.
    second = large if times[small][0] * (1 + large / small) <= patience else medium
    return times | {second: [probe.seconds(second)]}


def _fitting(probe: StageProbe, largest: int) -> list[int]:
    """Take a step of each size to be timed, and return the sizes, halved until they fit the memory."""
    sizes = _sizes(probe, largest)
    try:
        for size in sizes:
            probe.seconds(size)
    except torch.OutOfMemoryError:
        if max(sizes) <= _SMALLEST:
            raise
        torch.cuda.empty_cache()
        return _fitting(probe, max(sizes) // 2)
    return sizes


def _sizes(probe: StageProbe, largest: int) -> list[int]:
    plan = probe.plan
    most = min(_at_once(plan), largest)
    alone = most == _at_once(plan) and plan.drop_last
    return [most] if alone else sorted({max(2, most // _SHARE), most})


def _at_once(plan: TrainPlan) -> int:
    """Return the images that a step of ``plan`` computes at once."""
    return math.ceil(plan.batch_size / plan.parts(plan.batch_size))


def _affordable(probes: Sequence[StageProbe], rough: Sequence[StepTimes], seconds: float, rounds: int) -> int:
    """Return the largest batch among 8, 12, 16, 24, ... for which the steps of all stages fit into ``seconds``."""

    def total(batch: int) -> float:
        steps = zip(probes, rough, strict=True)
        return rounds * sum(times.at(size) for probe, times in steps for size in _sizes(probe, batch))

    most = max(_at_once(probe.plan) for probe in probes)
    ladder = [_SMALLEST]
    while ladder[-1] < most:
        ladder += [3 * ladder[-1] // 2, 2 * ladder[-1]]
    return max([batch for batch in ladder if total(batch) <= seconds], default=_SMALLEST)


def _spent(times: Sequence[StepTimes]) -> float:
    return sum(sum(values) for each in times for values in each.seconds.values())
