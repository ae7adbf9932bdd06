"""Scaling laws: how time and memory grow with images, attack steps, batch, width and classes.

Small points are measured. A sum of terms (a constant, x, x²) is fitted to all but the largest x, and the largest tests
it. All calls of a law take turns. Seconds are those of the processor, with one thread; memory is that of all tensors
that live at the peak, counted, without what kernels allocate themselves.

Run from the repository's root: ``python perf/scaling.py [--law images --law width]``. How the board and the site grow
with the number of records is measured by ``perf/board.py`` and ``perf/site.py``.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from comparison import Cell, Comparison, Seconds, Table, arguments, take_turns
from torch import Tensor, nn
from training import OurStep, stage_of

from bench import rng
from bench.attack import PGD, auto_attack, margin_objective
from bench.cost import data_like, live_bytes
from bench.device import keep_freed_memory
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings, Threat

EPS = 8 / 255
TOO_SMALL = 1e-7
"""A radius at which every image withstands, so AutoAttack tries everything on each."""


class Point(NamedTuple):
    """Work of one size."""

    work: Callable[[], object]
    network: nn.Module
    """Whose forward pass the work begins with, and whose tensors exist before."""


Term = tuple[str, Callable[[int], float]]
"""A term of a law: how it is written, and its value."""

ONE: Term = ("", lambda x: 1)
X: Term = ("x", lambda x: x)
SQUARE: Term = ("x²", lambda x: x * x)
TARGETS: Term = ("min(x - 1, 9)", lambda x: min(x - 1, 9))
"""The classes that AutoAttack's targeted attacks try."""


class Law(NamedTuple):
    """Work that grows with one number x, and the terms of which its time and memory should be sums."""

    title: str
    points: Mapping[int, Point]
    time: Sequence[Term]
    memory: Sequence[Term] = ()
    """Empty: not counted."""
    long: bool = False
    """Whether it takes so long that it is timed once."""


def attack(images: int, steps: int = 20, width: int = 8, batch: int = 32, side: int = 32) -> Point:
    """Return PGD on ``images`` noise images, in batches."""
    x, classifier = noise(images, side), new_classifier(width, side).prepared()
    y, threat = torch.zeros(images, dtype=torch.int64), Threat(norm="linf", eps=EPS)
    pgd, generator = PGD(steps, 0.25, "uniform"), rng.generator(0, "perf")

    def work() -> None:
        for some, labels in zip(x.split(batch), y.split(batch), strict=True):
            pgd(margin_objective(classifier, labels), some, threat=threat, generator=generator)

    return Point(work, classifier)


def training(batch: int, width: int) -> Point:
    """Return a step of DeACL's second stage."""
    stage = stage_of("deacl", width, batch, "stage2")
    images = data_like("cifar10", Path("data")).random_images(batch).clone()
    return Point(OurStep(stage, images), stage)


def autoattack(images: int, classes: int, side: int = 8) -> Point:
    """Return AutoAttack on images that all withstand all attacks."""
    x, classifier = noise(images, side), new_classifier(4, side, classes).prepared()
    with torch.no_grad():
        y = classifier(x).argmax(1)
    threat = Threat(norm="linf", eps=TOO_SMALL)

    def work() -> None:
        auto_attack(classifier, x, y, threat=threat, num_classes=classes, seed=0, batch_size=images)

    return Point(work, classifier)


def new_classifier(width: int, side: int, classes: int = 10) -> Classifier:
    """Return an untrained classifier of ``side`` x ``side`` images."""
    with rng.scoped(0, "perf"):
        settings = EncoderSettings(width=width, normalisation="none")
        encoder = build_encoder(settings, image_shape=(3, side, side), mean=(), std=())
        return Classifier(encoder, nn.Linear(encoder.feature_dim, classes)).eval()


def noise(images: int, side: int) -> Tensor:
    """Return float images in [0, 1]."""
    return torch.rand((images, 3, side, side), generator=rng.generator(0, "images"))


LAWS: dict[str, Callable[[], Law]] = {
    "images": lambda: Law(
        "PGD-20, width 8, batches of 32: images", {x: attack(x) for x in (32, 64, 128, 256)}, (ONE, X), (ONE, X)
    ),
    "steps": lambda: Law(
        "PGD, width 8, 32 images: steps", {x: attack(32, steps=x) for x in (5, 10, 20, 40)}, (ONE, X), (ONE,)
    ),
    "width": lambda: Law(
        "PGD-5, 16 images: width", {x: attack(16, 5, width=x) for x in (8, 16, 32, 64)}, (ONE, SQUARE), (X, SQUARE)
    ),
    "batch": lambda: Law(
        "DeACL, stage-2 step, width 8: batch", {x: training(x, width=8) for x in (8, 16, 32, 64)}, (ONE, X), (ONE, X)
    ),
    "training-width": lambda: Law(
        "DeACL, stage-2 step, batch 8: width",
        {x: training(8, width=x) for x in (8, 16, 32, 64)},
        (ONE, SQUARE),
        (X, SQUARE),
    ),
    "classes": lambda: Law(
        "AutoAttack, width 4, 8 images of 8 x 8: classes",
        {x: autoattack(8, classes=x) for x in (4, 10, 100)},
        (ONE, TARGETS),
        long=True,
    ),
}


def row(law: Law, values: Mapping[int, float], terms: Sequence[Term]) -> list[Cell]:
    """Return a law's points, the sum of ``terms`` that fits all but the largest, and how well it fits that one."""
    *rest, largest = sorted(values)
    factors = fit({x: values[x] for x in rest}, terms)
    formula = " + ".join(f"{factor:.3g} {name}".strip() for factor, (name, _) in zip(factors, terms, strict=True))
    expected = sum(factor * term(largest) for factor, (_, term) in zip(factors, terms, strict=True))
    measured = ", ".join(f"{value:.3g}" for value in values.values())
    return [law.title, ", ".join(map(str, values)), measured, formula, values[largest] / expected]


def fit(values: Mapping[int, float], terms: Sequence[Term]) -> list[float]:
    """Return the factors of ``terms`` whose sum differs least from ``values``, relative to them."""
    rows = [[term(x) / value for _, term in terms] for x, value in values.items()]
    return [float(factor) for factor in np.linalg.lstsq(np.array(rows), np.ones(len(rows)))[0]]


def peak_megabytes(point: Point) -> float:
    """Return the memory of all live tensors at the peak of the work."""
    resident = [*point.network.parameters(), *point.network.buffers()]
    return max(live_bytes(point.work, resident, since=point.network)) / 1e6


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--law", choices=LAWS, action="append", help="may be repeated; default: all")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    compared = Comparison("scaling", options)
    keep_freed_memory()
    times: list[list[Cell]] = []
    memories: list[list[Cell]] = []
    samples: Seconds = {}
    for name in options.law or LAWS:
        law = LAWS[name]()
        calls = {str(x): point.work for x, point in law.points.items()}
        seconds = take_turns(calls, 1 if law.long else options.rounds, warm_up=not law.long)
        times.append(row(law, {x: statistics.median(seconds[str(x)]) for x in law.points}, law.time))
        if law.memory:
            memories.append(row(law, {x: peak_megabytes(point) for x, point in law.points.items()}, law.memory))
        samples |= {f"{law.title} = {x}": values for x, values in seconds.items()}
    head, tail = ("what grows", "x"), ("fit without the largest x", "largest x: measured / fitted")
    compared.add(Table("Time", (*head, "seconds", *tail), times), samples)
    compared.add(Table("Memory", (*head, "MB", *tail), memories))
    compared.finish()


if __name__ == "__main__":
    main()
