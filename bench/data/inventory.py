"""Checks the pixels of a dataset before it is used: images of one colour, unscaled values, exact duplicates."""

import hashlib
from dataclasses import replace

import numpy as np
from torch import Tensor

from bench.data.dataset import Dataset
from bench.errors import BenchError
from bench.record import Inventory

_UNSCALED = "Values in [0, 1] must be scaled before they are converted: (x * 255).round().astype('uint8')."


def with_inventory(dataset: Dataset) -> Dataset:
    """Return ``dataset`` with its inventory, including what was counted while its files were read.

    About 0.6 seconds for 60,000 images of 32x32.

    Raises:
        BenchError: most images of a split have one colour, or all its pixels are 0 or 1.
    """
    images = {"train": dataset.train.images, "test": dataset.test.images}
    if dataset.pretrain is not None:
        images["pretraining"] = dataset.pretrain
    constant = {split: _constant(pixels) for split, pixels in images.items()}
    brightest = {split: int(pixels.max()) for split, pixels in images.items()}
    for split, pixels in images.items():
        _check(dataset.source, split, len(pixels), constant[split], brightest[split])
    found = {
        "read": {split: len(pixels) for split, pixels in images.items()},
        "constant": constant,
        "brightest": brightest,
        "duplicates": _duplicates({split: _digests(pixels) for split, pixels in images.items()}),
    }
    return replace(dataset, inventory=(dataset.inventory or Inventory()).model_copy(update=found))


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


def _digests(images: Tensor) -> list[bytes]:
    return [hashlib.sha256(image).digest() for image in images.flatten(1).numpy()]


def _duplicates(digests: dict[str, list[bytes]]) -> dict[str, int]:
    seen = {split: set(each) for split, each in digests.items()}
    within = {split: len(digests[split]) - len(seen[split]) for split in ("train", "test")}
    trained_on = [split for split in seen if split != "test"]
    return within | {f"test in {split}": sum(each in seen[split] for each in digests["test"]) for split in trained_on}
