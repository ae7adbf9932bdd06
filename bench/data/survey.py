"""What is known of images that stay on disk once all were read: their digest, their moments and the inventory."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.data.dataset import Dataset, PixelFacts, add_to_digest, histograms, moments
from bench.data.decode import Decoding
from bench.data.inventory import SeenPixels, counted
from bench.data.kept import keep, kept
from bench.data.stored import StoredImages
from bench.recipe import Settings
from bench.recipe.fields import Digest
from bench.record import Inventory

_CHUNK = 1024
"""Images in memory at a time."""

Share = Annotated[float, Field(ge=0, le=1)]


class Survey(Settings):
    """The content of the file in the cache."""

    sha256: Digest
    moments: list[tuple[Share, Share]] = Field(min_length=3, max_length=3)
    """Mean and standard deviation of each channel of the training images."""
    inventory: Inventory


def surveyed(dataset: Dataset, cache: Path) -> Dataset:
    """Return ``dataset``, whose images are :class:`StoredImages`, with what all pixels say.

    Args:
        dataset: its inventory counts what is not in the pixels.
        cache: the file that keeps the survey; its name changes with the data.

    Raises:
        BenchError: images that are unfit, as :class:`bench.data.decode.Decoding`.
    """
    survey = kept(cache, Survey)
    if survey is None or survey.inventory.read != {"train": len(dataset.train), "test": len(dataset.test)}:
        survey = _made(dataset)
        keep(cache, survey)
    return replace(dataset, known=PixelFacts(survey.sha256, survey.moments), inventory=survey.inventory)


def _made(dataset: Dataset) -> Survey:
    """Read all images once, a part at a time."""
    train = dataset.train.images
    assert isinstance(train, StoredImages), "images in memory are counted where they are"
    digest, decoding = hashlib.sha256(), Decoding(train.decoder)
    seen, counts = {"train": SeenPixels(), "test": SeenPixels()}, torch.zeros(train.shape[1], 256, dtype=torch.int64)

    def parts(split: str, images: Tensor) -> Iterator[Tensor]:
        assert isinstance(images, StoredImages), "both splits are on disk"
        for start in range(0, len(images), _CHUNK):
            pixels = decoding.read(images.encoded[start : start + _CHUNK])
            part = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            seen[split].add(part)
            if split == "train":
                counts.add_(histograms(part))
            yield part

    for name, split in (("train", dataset.train), ("test", dataset.test)):
        add_to_digest(digest, f"{name}.images", split.images, parts(name, split.images))
        add_to_digest(digest, f"{name}.labels", split.labels, [split.labels])
    converted = (dataset.inventory or Inventory()).model_copy(update={"converted": decoding.converted()})
    return Survey(sha256=digest.hexdigest(), moments=moments(counts), inventory=counted(seen, converted))
