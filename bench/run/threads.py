"""CPU threads where the user named no number: as many as the run began with, or the faster of one and all."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import torch

from bench import rng
from bench.device import busy_cores
from bench.monitor import plural
from bench.nn import build_encoder
from bench.recipe import Recipe
from bench.run.preparation import Run

_NAMED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SECONDS = 0.7
"""Of the whole measurement."""
_PASS = 0.04
"""Seconds that a timed pass should take on one thread: longer than the interval in which cores are shared out."""
_GAIN = 1.1
"""Threads must be this many times as fast as one: less may be chance, and takes all cores."""


def choose_threads(runs: Sequence[Run]) -> str | None:
    """Set the number of CPU threads for ``runs``, of one recipe, and return a sentence about it.

    The first of them that has begun decides it; of the others each goes on as :func:`threads_as_begun` says. None:
    nothing is set, because the number is not open; see :func:`threads_open`.
    """
    if not threads_open(runs[0]):
        return None
    if begun := list(dict.fromkeys(run.folder.threads for run in runs if run.folder.threads)):
        torch.set_num_threads(begun[0])
        numbers = " and ".join(plural(count, "CPU thread") for count in begun)
        return f"Continues with {numbers}, {'each run as it' if begun[1:] else 'as the run'} began."
    count, reason = _best_of_one_and(torch.get_num_threads(), runs[0].recipe)
    torch.set_num_threads(count)
    return f"Computes with {plural(count, 'CPU thread')}: {reason}. --threads chooses another number."


def threads_open(run: Run) -> bool:
    """Return whether the number of threads is open: on a CPU of several cores, where no variable names one.

    Ask before a number is set.
    """
    named = any(name in os.environ for name in _NAMED)
    return torch.get_num_threads() > 1 and not named and run.device.type == "cpu"


@contextmanager
def threads_as_begun(run: Run, is_open: bool) -> Iterator[None]:
    """Compute in this block with the CPU threads that ``run`` began with, if it has begun and the number ``is_open``.

    Another number rounds sums differently.
    """
    begun, before = run.folder.threads if is_open else None, torch.get_num_threads()
    if begun is None:
        yield
        return
    torch.set_num_threads(begun)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _best_of_one_and(threads: int, recipe: Recipe) -> tuple[int, str]:
    """Return 1 or ``threads``, and why."""
    busy, free = busy_cores()
    if free < threads:  # a thread that waits for a core would make the measurement itself last half a minute
        return 1, f"other programs keep {busy:.1f} cores busy"
    gain = _gain_of(threads, recipe)
    return (1 if gain < _GAIN else threads), f"{threads} are {gain:.2g} times as fast as 1 here"


def _gain_of(threads: int, recipe: Recipe) -> float:
    """Return how many times as fast the recipe's encoder is with ``threads`` as with one, forward and backward."""
    data = recipe.dataset
    with rng.scoped(0, "threads"):
        encoder = build_encoder(recipe.encoder, image_shape=data.image_shape, mean=data.mean, std=data.std)

    def seconds(count: int, batch: int) -> float:
        torch.set_num_threads(count)
        # As in an attack: a released network's parameters may be frozen.
        images = torch.zeros(batch, *data.image_shape, requires_grad=True)
        start = time.perf_counter()
        encoder(images).sum().backward()
        return time.perf_counter() - start

    began = time.perf_counter()
    _, one = (seconds(1, 2) for _ in range(2))  # the first allocates
    batch = 2 * max(1, min(64, round(_PASS / one)))
    ratios: list[float] = []
    seconds(threads, batch)
    while not ratios or time.perf_counter() - began < _SECONDS:
        ratios.append(seconds(1, batch) / seconds(threads, batch))
    return median(ratios)
