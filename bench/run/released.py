"""Classifiers of RobustBench by their names, as files of the bench that are not written yet."""

from pathlib import Path

from bench.recipe import EncoderSettings
from bench.robustbench import KIND, find_entry
from bench.run.encoder import EncoderFile, Import, Origin
from bench.zoo import released_tensors


def is_released(given: str | Path) -> bool:
    """Return whether ``given`` is ``robustbench:NAME``, not a path."""
    return str(given).startswith(f"{KIND}:")


def released_encoder(given: str | Path, *, weights: Path | None, dataset: str | None, data_dir: Path) -> EncoderFile:
    """Return the classifier that ``given`` names.

    Args:
        given: ``robustbench:NAME``.
        weights: the file of its weights; None: it is downloaded.
        dataset: the data that the user names, which decide between several of one name.
        data_dir: where weights are downloaded to.

    Raises:
        BenchError: there is none of that name, or its weights cannot be had or read, or do not fit.
    """
    entry = find_entry(str(given).partition(":")[2], dataset)
    form = EncoderSettings(arch=entry.origin, normalisation="none")
    tensors = released_tensors(entry, data_dir / KIND, weights)
    return EncoderFile(tensors, Origin(imported=Import(title=entry.title, year=entry.year, encoder=form)))
