"""A run's corrupted test images: what ``--corruptions`` asks for, and where they come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.data import Dataset
from bench.data.corruptions import CorruptedImages, generated_images, open_files
from bench.errors import BenchError
from bench.recipe import Recipe
from bench.reporting import Reporter
from bench.stop import Stop

_KEY = "evaluate.corruptions"


def with_corruptions(overrides: Mapping[str, Any], choice: str | None) -> Mapping[str, Any]:
    """Return ``overrides`` with the ``choice`` of ``--corruptions``: none, generate or a path; None: as they are."""
    if choice is None:
        return overrides
    if _KEY in overrides:
        raise BenchError(f"--corruptions {choice} and --set {_KEY} are both given; keep one of them.")
    return {**overrides, _KEY: choice if choice in ("none", "generate") else "files"}


def with_files(recipe: Recipe, choice: str | None, dataset: Dataset) -> tuple[Recipe, CorruptedImages | None]:
    """Return ``recipe`` with the digest of the files that it asks for, and the files; else ``recipe`` and None.

    Raises:
        BenchError: no path was given, the files are not those of ``dataset`` or of the recipe, or are damaged.
    """
    settings = recipe.evaluate
    if settings.corruptions != "files":
        return recipe, None
    if choice is None:
        raise BenchError(f"{_KEY} is files, but which? Type --corruptions and the path of their folder.")
    files = open_files(Path(choice), dataset, settings.corruption_names)
    if settings.corruption_files not in (None, files.sha256):
        raise BenchError(
            f"{files.folder} has the SHA-256 {files.sha256}, but evaluate.corruption_files asks for "
            f"{settings.corruption_files}. Name other files, or leave that setting out."
        )
    pinned = settings.model_copy(update={"corruption_files": files.sha256})
    return recipe.model_copy(update={"evaluate": pinned}), files


def corrupted_images(
    recipe: Recipe,
    files: CorruptedImages | None,
    dataset: Dataset,
    *,
    data_dir: Path,
    reporter: Reporter,
    stop: Stop,
) -> CorruptedImages | None:
    """Return the corrupted test images that ``recipe`` asks for, made first where need be, or None."""
    settings = recipe.evaluate
    if settings.corruptions != "generate":
        return files
    return generated_images(dataset, settings.corruption_names, data_dir=data_dir, reporter=reporter, stop=stop)
