"""The data that protocols use: those of pre-training, or others (transfer)."""

from pathlib import Path
from typing import NamedTuple

from bench.data import Dataset, load_dataset, resized
from bench.errors import BenchError
from bench.recipe import DatasetFacts


class Target(NamedTuple):
    """Data as the classifier sees them."""

    dataset: Dataset
    resized_from: tuple[int, int] | None = None
    """Height and width that its images had; None: they were not resized."""


def load_target(spec: str, data_dir: Path, pretraining: DatasetFacts) -> Target:
    """Return the data called ``spec`` with images of the size that the encoder was pre-trained on.

    Raises:
        BenchError: bad data, or another number of channels than the encoder takes.
    """
    dataset = load_dataset(spec, data_dir)
    channels, *size = dataset.image_shape
    wanted, height, width = pretraining.image_shape
    if channels != wanted:
        raise BenchError(
            f"{dataset.name} has {channels} channels and the encoder, pre-trained on {pretraining.name}, takes "
            f"{wanted}. Choose data with {wanted}, or pre-train on data with {channels}."
        )
    if size == [height, width]:
        return Target(dataset)
    return Target(resized(dataset, (height, width)), (size[0], size[1]))
