"""From a list of encoded images with their labels to a dataset: in memory, with a cache of its pixels, or on disk."""

import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bench.data import npz
from bench.data.arrays import Array, dataset_from_arrays
from bench.data.dataset import CIFAR_SIDE, IMAGENET_EPS, Dataset, Split
from bench.data.decode import Decoder, Decoding, Encoded
from bench.data.limits import DataIn, check_size, stay_on_disk
from bench.data.stored import StoredImages
from bench.data.survey import surveyed
from bench.errors import BenchError, warn
from bench.files import write_with
from bench.record import Inventory

_CONVERTED = "converted"


class ListedSplit(NamedTuple):
    """The images of one split, in order."""

    images: list[Encoded]
    labels: list[int]
    """One an image, position in the classes."""


@dataclass(frozen=True)
class Listing:
    """A dataset of encoded images before any of them is decoded.

    Args:
        what: where they are, for messages.
        name: the dataset's short name.
        source: what the user typed.
        classes: names, in the order of the labels.
        train: at least one image, as ``test``.
        test: the other split.
        fingerprint: changes with any image, its name or its label.
        skipped: how many files were left out, by suffix.
        index_train: int64 [N], positions in the official split, where they are known.
        side: what all images are resized to; None: they have one size already.
    """

    what: str
    name: str
    source: str
    classes: tuple[str, ...]
    train: ListedSplit
    test: ListedSplit
    fingerprint: str
    skipped: Mapping[str, int]
    index_train: Array | None = None
    side: int | None = None

    def dataset(self, data_dir: Path, data_in: DataIn) -> Dataset:
        """Return the dataset; with images of more than 64 pixels it has the radius and the conventions of ImageNet.

        In memory, decoded pixels are kept in ``data_dir/cache``, and reused while the fingerprint is the same. Images
        that stay on disk are read once, and decoded when they are used; what they say together is kept there.

        Raises:
            BenchError: images that are unfit, or too large for the memory.
        """
        decoder = Decoder.of(self.train.images[0], self.side)
        size = (len(self.train.images) + len(self.test.images)) * math.prod(decoder.shape)
        cache = data_dir / "cache" / f"{self.name}-{self.fingerprint}"
        if stay_on_disk(size, data_in):
            dataset = surveyed(self._stored(decoder), cache.with_name(f"{cache.name}.json"))
        else:
            path = cache.with_name(f"{cache.name}.npz")
            dataset = self._cached(path) or self._read(decoder, path)
        if max(decoder.size) <= CIFAR_SIDE:
            return dataset
        return replace(dataset, eps=IMAGENET_EPS, conventions="imagenet")

    def _read(self, decoder: Decoder, cache: Path) -> Dataset:
        """Return the dataset in memory, and keep its pixels in ``cache``."""
        images = self.train.images + self.test.images
        check_size(
            f"{len(images)} images of {decoder.size[0]}x{decoder.size[1]}", len(images) * math.prod(decoder.shape)
        )
        decoding = Decoding(decoder)
        pixels = decoding.read(images)
        converted = decoding.converted()
        arrays = self._arrays(pixels)
        _keep(cache, {**arrays, _CONVERTED: np.array(json.dumps(converted))})
        dataset = dataset_from_arrays(arrays, what=self.what, name=self.name, source=self.source)
        return replace(dataset, inventory=self._inventory(converted))

    def _inventory(self, converted: Mapping[str, int]) -> Inventory:
        return Inventory(skipped=dict(sorted(self.skipped.items())), converted=dict(converted))

    def _stored(self, decoder: Decoder) -> Dataset:
        train, test = (
            Split(StoredImages(each.images, decoder), torch.tensor(each.labels)) for each in (self.train, self.test)
        )
        index = None if self.index_train is None else torch.from_numpy(self.index_train)
        counts = self._inventory({})
        return Dataset(self.name, self.source, train, test, self.classes, index_train=index, inventory=counts)

    def _cached(self, path: Path) -> Dataset | None:
        with suppress(BenchError, ValueError, KeyError):  # An absent or damaged cache is made again.
            kept, unreadable = npz.read_arrays(path, also=(_CONVERTED,))
            inventory = self._inventory(json.loads(str(kept[_CONVERTED])))
            what, name, source = str(path), self.name, self.source
            cached = dataset_from_arrays(kept, what=what, name=name, source=source, unreadable=unreadable)
            return replace(cached, inventory=inventory)
        return None

    def _arrays(self, pixels: Array) -> dict[str, Array]:
        first = len(self.train.images)
        arrays: dict[str, Array] = {
            "x_train": pixels[:first],
            "y_train": np.array(self.train.labels, np.int64),
            "x_test": pixels[first:],
            "y_test": np.array(self.test.labels, np.int64),
            "classes": np.array(self.classes, dtype=str),
        }
        return arrays if self.index_train is None else {**arrays, "index_train": self.index_train}


def _keep(cache: Path, arrays: Mapping[str, Array]) -> None:
    """Write ``arrays`` to ``cache`` completely or not at all; warn if the disk refuses."""
    try:
        write_with(cache, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    except BenchError as error:
        warn(f"decoded images cannot be cached: {error}")


def natural(name: str) -> tuple[list[str | int], str]:
    """Return the sorting key that puts 2.png before 10.png; the name itself orders 1.png and 01.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def suffix(name: str) -> str:
    """Return the suffix under which a file that is left out is counted."""
    found = os.path.splitext(name)[1].lower()
    return found if re.fullmatch(r"\.[a-z0-9]{1,8}", found) else "other"
