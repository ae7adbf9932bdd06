"""The nouns: a dataset is two splits of uint8 images with labels, identified by a hash."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from bench.recipe import Conventions
from bench.record import Inventory

CIFAR_EPS = 8 / 255
"""Linf eps of nearly every paper on 32x32 colour images (Madry et al. 2018, section 5)."""
IMAGENET_EPS = 4 / 255
"""Linf eps of RobustBench's leaderboard of ImageNet (Salman et al., NeurIPS 2020)."""
CIFAR_SIDE = 64
"""Own images of a longer side get the defaults of ImageNet."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels, on the CPU.

    Args:
        images: uint8 [N, C, H, W], 0..255, N > 0; data larger than the memory are :class:`bench.data.StoredImages`,
            which an index decodes: ``images[positions]``.
        labels: int64 [N], 0..num_classes - 1.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        assert images.dtype == torch.uint8, f"images must be uint8, not {images.dtype}"
        assert images.ndim == 4, f"images must be [N, C, H, W], not {list(images.shape)}"
        assert labels.dtype == torch.int64, f"labels must be int64, not {labels.dtype}"
        assert labels.shape == images.shape[:1], (
            f"{len(images)} images need labels of shape [{len(images)}], not {list(labels.shape)}"
        )
        assert len(images) > 0, "a split must hold at least one image"

    def __len__(self) -> int:
        return len(self.images)


class PixelFacts(NamedTuple):
    """What all pixels of a dataset say; see the properties of :class:`Dataset`."""

    sha256: str
    moments: list[tuple[float, float]]
    """Mean and standard deviation of each channel."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A train and a test split, and the facts about them that a run needs.

    Args:
        name: short, for folder names and tables; no other data have this name.
        source: what the user typed ("npz:PATH"), with the path unchanged.
        train: split that methods train on.
        test: split that every reported number is measured on.
        classes: names, in the order of the labels.
        eps: default Linf eps, in pixels on the [0, 1] scale.
        conventions: whose defaults the recipe takes for stem, normalisation and weak views.
        mirror: whether a mirrored image still shows its class; a mirrored 2 does not.
        published_as: name under which papers report numbers on exactly these data, or None.
        index_train: int64 [N], position of each training image in the official split, for data
            published image by image (pseudo-labels); None where there is no official split.
        pretrain: uint8 [M, C, H, W], images that pre-training uses instead of the training split
            (STL-10 has 100,000 more without labels).
        inventory: what was read, skipped, converted and doubtful; None where it was not counted.
        known: found when the images were first read, for those that stay on disk; None: computed when asked for.
    """

    name: str
    source: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    eps: float = CIFAR_EPS
    mirror: bool = True
    published_as: str | None = None
    index_train: Tensor | None = None
    pretrain: Tensor | None = None
    inventory: Inventory | None = None
    known: PixelFacts | None = None
    conventions: Conventions = "cifar"

    def __post_init__(self) -> None:
        assert self.train.images.shape[1:] == self.test.images.shape[1:], (
            f"train images are {list(self.train.images.shape[1:])}, test images {list(self.test.images.shape[1:])}"
        )
        labels = torch.cat([self.train.labels, self.test.labels])
        assert 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes, (
            f"labels run from {int(labels.min())} to {int(labels.max())} for {self.num_classes} classes"
        )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """One image's (channels, height, width)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def pretraining_images(self) -> Tensor:
        """Images for training without labels: uint8 [M, C, H, W]."""
        return self.train.images if self.pretrain is None else self.pretrain

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training pixels, on the [0, 1] scale, to 4 decimals."""
        return tuple(mean for mean, _ in self._moments)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation (over N) of each channel, on the [0, 1] scale, to 4 decimals; 1 if constant."""
        return tuple(std for _, std in self._moments)

    @cached_property
    def _moments(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each channel, from integer sums: the same on every machine."""
        return self.known.moments if self.known else moments(histograms(self.train.images))

    @cached_property
    def sha256(self) -> str:
        r"""SHA-256 of pixels and labels; equal hashes mean equal data, whatever the name.

        Hashed in this order: train images, train labels, test images, test labels, and the pre-training
        images if there are any. Each is an ASCII header ``"train.images uint8 1437x3x16x16\n"`` followed
        by its elements in C order, labels as little-endian int64.
        """
        if self.known:
            return self.known.sha256
        digest = hashlib.sha256()
        for name, tensor in self._hashed():
            add_to_digest(digest, name, tensor, [tensor])
        return digest.hexdigest()

    def _hashed(self) -> list[tuple[str, Tensor]]:
        parts = [
            ("train.images", self.train.images),
            ("train.labels", self.train.labels),
            ("test.images", self.test.images),
            ("test.labels", self.test.labels),
        ]
        return parts if self.pretrain is None else [*parts, ("pretrain.images", self.pretrain)]


def add_to_digest(digest: "hashlib._Hash", name: str, whole: Tensor, parts: Iterable[Tensor]) -> None:
    """Add to the digest of a dataset its tensor ``whole``, which consists of ``parts``, called ``name``."""
    shape = "x".join(str(size) for size in whole.shape)
    digest.update(f"{name} {str(whole.dtype).removeprefix('torch.')} {shape}\n".encode())
    for part in parts:
        array = part.contiguous().numpy()
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def histograms(images: Tensor) -> Tensor:
    """Return how often each channel of uint8 [N, C, H, W] has each value: int64 [C, 256]."""
    return torch.stack([torch.bincount(pixels.reshape(-1), minlength=256) for pixels in images.unbind(1)])


def moments(counts: Tensor) -> list[tuple[float, float]]:
    """Return mean and standard deviation of each channel on the [0, 1] scale, from :func:`histograms`."""
    return [_moments(channel) for channel in counts.tolist()]


def _moments(counts: list[int]) -> tuple[float, float]:
    """Return mean and standard deviation on the [0, 1] scale of pixels with this histogram."""
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    std = sqrt(n * second - first * first) / (255 * n)
    return round(first / (255 * n), 4), round(std, 4) or 1.0
