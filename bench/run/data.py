"""A run's data: facts for the recipe, the data that protocols use, and the source of corrupted test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.data import DataIn, Dataset, load_dataset, resized
from bench.data.corruptions import CorruptedImages, generated_images, open_files, ungenerated
from bench.errors import BenchError
from bench.monitor import Monitor
from bench.recipe import DatasetFacts, EvaluationSettings, Recipe

_KEY = "evaluate.corruptions"


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    """Return the facts about ``dataset`` for recipes and records; raises BenchError if a plug-in's are invalid."""
    values = {
        "name": dataset.name,
        "published_as": dataset.published_as,
        "sha256": dataset.sha256,
        "image_shape": dataset.image_shape,
        "num_classes": dataset.num_classes,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "eps": dataset.eps,
        "conventions": dataset.conventions,
        "mirror": dataset.mirror,
        "mean": dataset.mean,
        "std": dataset.std,
    }
    return DatasetFacts.parse(values, f"dataset {dataset.source}")


class Target(NamedTuple):
    """Data as the classifier sees them."""

    dataset: Dataset
    resized_from: tuple[int, int] | None = None
    """Height and width of its images before resizing; None: they were not resized."""


def load_target(source: str, data_dir: Path, pretraining: DatasetFacts, data_in: DataIn = "auto") -> Target:
    """Return the data called ``source``, resized to the size of the images that the encoder was pre-trained on.

    Raises:
        BenchError: bad data, or a number of channels that does not fit the encoder.
    """
    dataset = load_dataset(source, data_dir, data_in)
    channels, *size = dataset.image_shape
    wanted, height, width = pretraining.image_shape
    if channels != wanted:
        raise BenchError(
            f"{dataset.name} has {channels} channels and the encoder, pre-trained on {pretraining.name}, takes "
            f"{wanted}. Choose data with {wanted} channels, or pre-train on data with {channels}."
        )
    if size == [height, width]:
        return Target(dataset)
    return Target(resized(dataset, (height, width)), (size[0], size[1]))


def other_target(
    source: str | None, data_dir: Path, pretraining: DatasetFacts, data_in: DataIn = "auto"
) -> Target | None:
    """Return the data called ``source``, sized for the encoder; None for no source or the pre-training data."""
    target = None if source is None else load_target(source, data_dir, pretraining, data_in)
    return None if target is None or target.dataset.sha256 == pretraining.sha256 else target


def with_corruptions(overrides: Mapping[str, Any], choice: str | None) -> Mapping[str, Any]:
    """Return ``overrides`` with the ``choice`` of ``--corruptions``: none, generate or a path; None: unchanged."""
    if choice is None:
        return overrides
    if _KEY in overrides:
        raise BenchError(f"--corruptions {choice} and --set {_KEY} are both given; keep one of them.")
    return {**overrides, _KEY: choice if choice in ("none", "generate") else "files"}


@dataclass(frozen=True)
class Corruptions:
    """The source of a run's corrupted test images."""

    names: Sequence[str]
    data_dir: Path
    files: CorruptedImages | None = None
    """None: they are generated."""

    def images(self, dataset: Dataset, monitor: Monitor) -> CorruptedImages:
        """Return the corrupted test images of ``dataset``, generated first if necessary."""
        if self.files is not None:
            return self.files
        return generated_images(dataset, self.names, data_dir=self.data_dir, monitor=monitor)

    def missing(self, dataset: Dataset) -> list[str]:
        """Return the corruptions that :meth:`images` would have to generate."""
        return [] if self.files else ungenerated(dataset, self.names, self.data_dir)


def plan_corruptions(
    recipe: Recipe, choice: str | None, dataset: Dataset, data_dir: Path
) -> tuple[Recipe, Corruptions | None]:
    """Return ``recipe`` with the digest of its corruption files, if any, and the source of corrupted images.

    Args:
        recipe: made with the overrides of :func:`with_corruptions`.
        choice: ``--corruptions``.

    Raises:
        BenchError: no path was given, or the files are damaged or do not belong to ``dataset`` or the recipe.
    """
    settings = recipe.evaluate
    asked = recipe.overrides.get("evaluate.corruption_files")
    files = _files(settings, choice, dataset, asked) if settings.corruptions == "files" else None
    known = settings.model_copy(update={"corruption_files": files and files.sha256})
    plan = None if settings.corruptions == "none" else Corruptions(settings.corruption_names, data_dir, files)
    return recipe.model_copy(update={"evaluate": known}), plan


def _files(settings: EvaluationSettings, choice: str | None, dataset: Dataset, asked: str | None) -> CorruptedImages:
    """Return the files in the folder ``choice``, whose digest must be the one that the user ``asked`` for, if any."""
    if choice is None:
        raise BenchError(
            f"{_KEY} is files, but no folder is given. Type --corruptions and the path of the folder, or --corruptions "
            "none to do without them."
        )
    files = open_files(Path(choice), dataset, settings.corruption_names)
    if asked not in (None, files.sha256):
        raise BenchError(
            f"{files.folder} has the SHA-256 {files.sha256}, but evaluate.corruption_files is {asked}. Give the "
            "matching folder, or leave that setting out."
        )
    return files
