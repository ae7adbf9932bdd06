"""A run's data: facts for the recipe, the data that protocols use, and where corrupted test images come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.data import Dataset, load_dataset, resized
from bench.data.corruptions import CorruptedImages, generated_images, open_files, ungenerated
from bench.errors import BenchError
from bench.monitor import Monitor
from bench.recipe import DatasetFacts, EvaluationSettings, Recipe

_KEY = "evaluate.corruptions"


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    """Return what recipes and records say about ``dataset``; raises BenchError where a plug-in's are none."""
    values = {
        "name": dataset.name,
        "published_as": dataset.published_as,
        "sha256": dataset.sha256,
        "image_shape": dataset.image_shape,
        "num_classes": dataset.num_classes,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "eps": dataset.eps,
        "mirror": dataset.mirror,
        "mean": dataset.mean,
        "std": dataset.std,
    }
    return DatasetFacts.parse(values, f"dataset {dataset.spec}")


class Target(NamedTuple):
    """Data as the classifier sees them."""

    dataset: Dataset
    resized_from: tuple[int, int] | None = None
    """Height and width that its images had; None: they were not resized."""


def load_target(source: str, data_dir: Path, pretraining: DatasetFacts) -> Target:
    """Return the data called ``source`` with images of the size that the encoder was pre-trained on.

    Raises:
        BenchError: bad data, or another number of channels than the encoder takes.
    """
    dataset = load_dataset(source, data_dir)
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


def other_target(source: str | None, data_dir: Path, pretraining: DatasetFacts) -> Target | None:
    """Return the data called ``source`` as the encoder takes them; None for none, or for those of pre-training."""
    target = None if source is None else load_target(source, data_dir, pretraining)
    return None if target is None or target.dataset.sha256 == pretraining.sha256 else target


def with_corruptions(overrides: Mapping[str, Any], choice: str | None) -> Mapping[str, Any]:
    """Return ``overrides`` with the ``choice`` of ``--corruptions``: none, generate or a path; None: as they are."""
    if choice is None:
        return overrides
    if _KEY in overrides:
        raise BenchError(f"--corruptions {choice} and --set {_KEY} are both given; keep one of them.")
    return {**overrides, _KEY: choice if choice in ("none", "generate") else "files"}


@dataclass(frozen=True)
class Corruptions:
    """Where a run's corrupted test images come from."""

    names: Sequence[str]
    data_dir: Path
    files: CorruptedImages | None = None
    """None: they are generated."""

    def images(self, dataset: Dataset, monitor: Monitor) -> CorruptedImages:
        """Return the corrupted test images of ``dataset``, made first where need be."""
        if self.files is not None:
            return self.files
        return generated_images(dataset, self.names, data_dir=self.data_dir, monitor=monitor)

    def missing(self, dataset: Dataset) -> list[str]:
        """Return the corruptions that :meth:`images` would have to make."""
        return [] if self.files else ungenerated(dataset, self.names, self.data_dir)


def plan_corruptions(
    recipe: Recipe, choice: str | None, dataset: Dataset, data_dir: Path
) -> tuple[Recipe, Corruptions | None]:
    """Return ``recipe`` with the digest of the files that it asks for, if any, and where its images come from.

    Args:
        recipe: made with the overrides of :func:`with_corruptions`.
        choice: ``--corruptions``.
        dataset: what the run is judged on.
        data_dir: where generated images are kept.

    Raises:
        BenchError: no path was given, the files are not those of ``dataset`` or of the recipe, or are damaged.
    """
    settings = recipe.evaluate
    files = _files(settings, choice, dataset) if settings.corruptions == "files" else None
    known = settings.model_copy(update={"corruption_files": files and files.sha256})
    plan = None if settings.corruptions == "none" else Corruptions(settings.corruption_names, data_dir, files)
    return recipe.model_copy(update={"evaluate": known}), plan


def _files(settings: EvaluationSettings, choice: str | None, dataset: Dataset) -> CorruptedImages:
    if choice is None:
        raise BenchError(f"{_KEY} is files, but which? Type --corruptions and the path of their folder.")
    files = open_files(Path(choice), dataset, settings.corruption_names)
    if settings.corruption_files not in (None, files.sha256):
        raise BenchError(
            f"{files.folder} has the SHA-256 {files.sha256}, but evaluate.corruption_files asks for "
            f"{settings.corruption_files}. Name those, or type --set evaluate.corruption_files=null"
        )
    return files
