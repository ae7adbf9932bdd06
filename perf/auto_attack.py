"""AutoAttack: ours against the package called directly, on the same images and the same classifier.

A ResNet-18 is trained adversarially for a few epochs, so that some images withstand. Then ``--images`` test images are
attacked in chunks: each chunk by the package, called as its documentation says on a plain network with the same
weights, and by ours, as an evaluation calls it, alternately. Both run the standard version with all four attacks, and
the C library keeps freed memory as in a run of ours, for both. Their random starts differ, so an image on the edge may
fall to one and not to the other; every such image is counted.

Run from the repository's root: ``python perf/auto_attack.py [--images 200] [--width 16]``. The package is installed
with this one.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyautoattack
import torch
from comparison import OURS, Comparison, Table, arguments, speeds, take_turns
from plain import plain
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import PGD, attacking, auto_attack, margin_objective
from bench.data import Dataset, load_dataset, unit_pixels
from bench.device import keep_freed_memory
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings, Threat

PACKAGE = "pyautoattack"
Verdicts = Callable[[Tensor, Tensor], Tensor]
"""Images [B, C, H, W] and labels [B] -> bool [B]: still correct."""


def trained(data: Dataset, threat: Threat, *, width: int, epochs: int) -> Classifier:
    """Return a classifier after adversarial training with PGD of five steps."""
    images, labels = unit_pixels(data.train.images), data.train.labels
    with rng.scoped(0, "perf"):
        settings = EncoderSettings(width=width, normalisation="none")
        encoder = build_encoder(settings, image_shape=images.shape[1:], mean=(), std=())
        classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, data.num_classes))
    optimizer = torch.optim.SGD(classifier.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    attack = PGD(5, 0.25, "uniform")
    for epoch in range(epochs):
        generator = rng.generator(0, "perf", epoch)
        for index in torch.randperm(len(images), generator=generator).split(64):
            x, y = images[index], labels[index]
            with attacking(classifier):
                x_adv = attack(margin_objective(classifier, y), x, threat=threat, generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(classifier(x_adv), y).backward()
            optimizer.step()
    return classifier.eval()


def by_package(model: nn.Module, eps: float, images: Tensor, labels: Tensor) -> Tensor:
    """Return the verdicts of the package on ``model``."""
    adversary = pyautoattack.AutoAttack(model, norm="Linf", eps=eps, version="standard", seed=0)
    x_adv, _ = adversary.run_standard_evaluation(images, labels, batch_size=len(images))
    with torch.no_grad():
        correct: Tensor = model(x_adv).argmax(1) == labels
    return correct


def by_ours(classifier: Classifier, threat: Threat, images: Tensor, labels: Tensor) -> Tensor:
    """Return our verdicts, with the preparation of the classifier."""
    result = auto_attack(
        classifier.prepared(),
        images,
        labels,
        threat=threat,
        num_classes=classifier.head.out_features,
        seed=0,
        batch_size=len(images),
    )
    return result.robust


class InChunks:
    """Calls ``verdicts`` on one chunk after the other, one a call, and keeps the verdicts."""

    def __init__(self, verdicts: Verdicts, images: Tensor, labels: Tensor, chunk: int) -> None:
        self._verdicts = verdicts
        self._chunks: Iterator[tuple[Tensor, Tensor]] = zip(images.split(chunk), labels.split(chunk), strict=True)
        self._found: list[Tensor] = []

    def __call__(self) -> None:
        """Attack the next chunk."""
        self._found.append(self._verdicts(*next(self._chunks)))

    @property
    def found(self) -> Tensor:
        """The verdicts so far, bool."""
        return torch.cat(self._found)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__, rounds=4)
    parser.add_argument("--images", type=int, default=200, help="in total; a round attacks its share of them")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4, help="of the adversarial training")
    options = parser.parse_args()
    if options.images % options.rounds:
        parser.error(f"--images {options.images} cannot be divided among {options.rounds} rounds")
    return options


def main() -> None:
    """Train, attack and print."""
    options = parse()
    compared = Comparison("auto_attack", options)
    keep_freed_memory()
    data = load_dataset(options.dataset, options.data_dir)
    threat = Threat(norm="linf", eps=data.eps)
    classifier = trained(data, threat, width=options.width, epochs=options.epochs)
    images, labels = unit_pixels(data.test.images[: options.images]), data.test.labels[: options.images]
    chunk = options.images // options.rounds
    sides: dict[str, Verdicts] = {
        OURS: partial(by_ours, classifier, threat),
        PACKAGE: partial(by_package, plain(classifier), threat.eps),
    }
    calls = {name: InChunks(verdicts, images, labels, chunk) for name, verdicts in sides.items()}
    seconds = take_turns(calls, options.rounds, warm_up=False)

    where = f"{options.dataset}, ResNet-18 of width {options.width}, {len(images)} images in chunks of {chunk}"
    compared.add(
        speeds(f"AutoAttack, {where}", seconds, dict.fromkeys(calls, float(chunk)), unit="images", ours=OURS),
        seconds,
    )
    with torch.no_grad():
        clean = int((classifier(images).argmax(1) == labels).sum())
    ours, package = (calls[name].found for name in (OURS, PACKAGE))
    counts = (clean, int(ours.sum()), int(package.sum()), int((ours != package).sum()))
    columns = ("", "correct without attack", "after ours", "after pyautoattack", "other verdict")
    compared.add(Table("Verdicts, image by image", columns, [("images", *map(str, counts))]))
    compared.finish()


if __name__ == "__main__":
    main()
