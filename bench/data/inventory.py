"""Checks the pixels of a dataset before it is used: images of one colour, unscaled values, exact duplicates."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from bench.data.dataset import Dataset
from bench.errors import BenchError
from bench.record import Inventory

_UNSCALED = "Values in [0, 1] must be scaled before they are converted: (x * 255).round().astype('uint8')."


class SeenPixels:
    """What is counted in the pixels of one split, in one pass."""

    def __init__(self) -> None:
        self.read, self.constant, self.brightest = 0, 0, 0
        self.digests: list[bytes] = []

    def add(self, images: Tensor) -> None:
        """Count the next images, uint8 [N, C, H, W]."""
        self.read += len(images)
        self.constant += _constant(images)
        self.brightest = max(self.brightest, int(images.max()))
        self.digests += [hashlib.sha256(image).digest() for image in images.flatten(1).numpy()]


def with_inventory(dataset: Dataset) -> Dataset:
    """Return ``dataset`` with its inventory, including what was counted while its files were read.

    Images that stay on disk were counted when they were first read.

    Raises:
        BenchError: most images of a split have one colour, or all its pixels are 0 or 1.
    """
    found = dataset.inventory or Inventory()
    if dataset.known is None:
        images = {"train": dataset.train.images, "test": dataset.test.images}
        if dataset.pretrain is not None:
            images["pretraining"] = dataset.pretrain
        seen = {split: SeenPixels() for split in images}
        for split, pixels in images.items():
            seen[split].add(pixels)
        found = counted(seen, found)
    for split, count in found.read.items():
        _check(dataset.source, split, count, found.constant[split], found.brightest[split])
    return replace(dataset, inventory=found)


def counted(seen: Mapping[str, SeenPixels], inventory: Inventory) -> Inventory:
    """Return ``inventory`` with what was ``seen`` in the pixels of each split."""
    found = {
        "read": {split: each.read for split, each in seen.items()},
        "constant": {split: each.constant for split, each in seen.items()},
        "brightest": {split: each.brightest for split, each in seen.items()},
        "duplicates": _duplicates({split: each.digests for split, each in seen.items()}),
    }
    return inventory.model_copy(update=found)


def _check(source: str, split: str, count: int, constant: int, brightest: int) -> None:
    if brightest <= 1:
        raise BenchError(
            f"{source}: no pixel of the {count} {split} images is brighter than {brightest} of 255. {_UNSCALED}"
        )
    if 2 * constant > count:
        raise BenchError(
            f"{source}: {constant} of {count} {split} images are of one colour, so there is nothing to learn from "
            f"them. {_UNSCALED}"
        )


def _constant(images: Tensor) -> int:
    """Return how many of uint8 [N, C, H, W] have one value in all pixels and channels."""
    flat = images.flatten(1).numpy()
    return int(np.count_nonzero(flat.min(1) == flat.max(1)))


def _duplicates(digests: dict[str, list[bytes]]) -> dict[str, int]:
    seen = {split: set(each) for split, each in digests.items()}
    within = {split: len(digests[split]) - len(seen[split]) for split in ("train", "test")}
    trained_on = [split for split in seen if split != "test"]
    return within | {f"test in {split}": sum(each in seen[split] for each in digests["test"]) for split in trained_on}
