"""Section 1: every method and protocol takes two steps, and once more with a stop after the first of them.

What the pages promise of a GPU is that a continued run sees the same batches, views and noise, while sums may be
rounded in another order. With deterministic kernels, which are asked for here, even the weights must be the same
wherever a kernel has such a form; a difference beyond rounding means that some state was not saved.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from conditions import Conditions
from sections import Finding, Part
from torch import Tensor

from bench import rng
from bench.cost import random_facts
from bench.errors import InterruptedRunError
from bench.job import Job
from bench.method import METHODS, MethodContext, Stage
from bench.monitor import Monitor
from bench.protocol import build_protocol
from bench.recipe import DEFAULT_PROTOCOLS, DatasetFacts, Recipe, Tier, build_recipe
from bench.train import train

_ROUNDING = 1e-2
"""Largest difference of a tensor that rounding explains after two steps, relative to its largest value."""
_CLASSES = 4


def parts(given: Conditions) -> list[Part]:
    """Return a part for each method that pre-trains, and one for each protocol."""
    trained = [name for name in given.checked if name in DEFAULT_PROTOCOLS or METHODS.get(name).config_type().plans()]
    return [Part(name, partial(_check, given, name)) for name in trained]


def _check(given: Conditions, name: str, left: float) -> Finding:
    folder = given.folder / "smoke" / name
    with _deterministic() as undetermined:
        whole = _trained(given, name, folder / "whole", _Stops(never=True))
        stops = _Stops()
        resumed = _trained(given, name, folder / "resumed", stops)
    difference = max(_difference(whole[key], resumed[key]) for key in whole)
    if not stops.count:
        raise AssertionError("no stage was stopped, so nothing was resumed")
    if whole.keys() != resumed.keys() or not difference <= _ROUNDING:
        raise AssertionError(f"a resumed run differs from an uninterrupted one by {difference:.2g} of its weights")
    same = "the same to the bit" if difference == 0 else f"the same but for {difference:.1g}"
    kernels = f"; without deterministic kernels: {', '.join(undetermined)}" if undetermined else ""
    stages = "stage" if stops.count == 1 else "stages"
    figures = {"difference": difference, "undetermined": undetermined, "stops": stops.count}
    return Finding(f"{stops.count} {stages} stopped and resumed, {same}{kernels}", figures)


def _trained(given: Conditions, name: str, folder: Path, stops: "_Stops") -> dict[str, Tensor]:
    """Train ``name`` to its end, again and again where it stops, and return the tensors of all its stages."""
    facts = random_facts("noise", (3, given.side, given.side), _CLASSES, 2 * given.smoke_batch)
    shape = (facts.train_images, *facts.image_shape)
    images = torch.randint(256, shape, generator=rng.generator(0, "images")).to(torch.uint8)
    recipe = _recipe(given, name, facts)
    while True:
        monitor = Monitor(stops)
        stops.monitor = monitor
        tensors: dict[str, Tensor] = {}
        try:
            for stage in _stages(given, name, recipe, images):
                train(stage, images, Job(folder, recipe.digest(), 0, given.device, monitor))
                tensors |= {f"{stage.name}.{key}": value.clone() for key, value in stage.state_dict().items()}
            return tensors
        except InterruptedRunError:
            continue


def _recipe(given: Conditions, name: str, facts: DatasetFacts) -> Recipe:
    """Return the published settings for one epoch of two steps; a CPU has no fp16."""
    own = {"epochs": 1, "batch_size": given.smoke_batch, "warmup_epochs": 0, "decay_epochs": ()}
    precision = {"precision": "fp32"} if given.device.type == "cpu" else {}
    tier = Tier(
        name="smoke",
        summary="",
        stages={**own, **precision},
        encoder={"width": given.smoke_width},
        **dict.fromkeys(DEFAULT_PROTOCOLS, own),
    )
    method = METHODS.get("simclr" if name in DEFAULT_PROTOCOLS else name)
    return build_recipe(
        method="simclr" if name in DEFAULT_PROTOCOLS else name,
        config_type=method.config_type,
        native_encoder=method.native_encoder,
        dataset=facts,
        tier=tier,
    )


def _stages(given: Conditions, name: str, recipe: Recipe, images: Tensor) -> Iterator[Stage]:
    context = MethodContext(recipe, 0, given.device, images)
    if name not in DEFAULT_PROTOCOLS:
        yield from METHODS.get(name)(recipe.config).stages(context)
        return
    labels = torch.arange(len(images)) % _CLASSES
    yield build_protocol(name, recipe, context.new_encoder("protocol"), labels, seed=0)


class _Stops:
    """Stops each stage after its first step, once."""

    monitor: Monitor

    def __init__(self, never: bool = False) -> None:
        self._never, self._begun, self.count = never, False, 0

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self._begun = done > 0

    def advance(self, amount: int, detail: str = "") -> None:
        if not (self._never or self._begun or self.monitor.stop_requested):
            self.monitor.stop_requested = True
            self.count += 1

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Not used."""

    def end(self) -> None:
        """Not used."""

    def note(self, message: str) -> None:
        """Not used."""


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors in units of the largest value."""
    if torch.equal(one, other):
        return 0.0
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12))


@contextmanager
def _deterministic() -> Iterator[list[str]]:
    """Use deterministic kernels in this block; yield the names of the operators found to have none."""
    found: list[str] = []
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            yield found
        texts = {str(warning.message) for warning in raised}
        found += sorted({text.split()[0] for text in texts if "deterministic" in text})
    finally:
        torch.use_deterministic_algorithms(before)
