"""Writes an export: the weights of a run in a format, and the model card, as one folder that appears when complete."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bench.errors import BenchError, unknown
from bench.folders import new_folder
from bench.method import METHODS
from bench.recipe import ALL_PROTOCOLS, RELEASED, SECTIONS, FinetuneSettings
from bench.report.model_export.card import card
from bench.results import counted, radius_text
from bench.run import (
    Finished,
    by_preference,
    described_recipe,
    finished_in,
    load_encoder,
    run_folder,
    to_finish,
    unfinished,
)
from bench.zoo import FORMATS, Model


class Exported(NamedTuple):
    """What was written."""

    files: dict[str, int]
    """The size of each in bytes, by name."""
    protocols: tuple[str, ...]
    """Those whose results are in the card, each of one evaluation."""
    datasets: tuple[str, ...]
    """The data of each of these evaluations."""
    radii: tuple[str, ...]
    """Its radius: "Linf 8/255"."""
    others: int
    """Further evaluations of the same protocols, with other settings; they are left out."""
    left_out: tuple[str, ...]
    """What to say of each record that was corrected."""


def write_export(
    runs_dir: Path,
    run: str,
    folder: Path,
    *,
    to: str,
    results_dir: Path,
    protocol: str | None = None,
    dataset: str | None = None,
) -> Exported:
    """Write the network of ``run`` to the new ``folder`` and return what was written.

    Args:
        runs_dir: where runs are kept.
        run: as in :func:`bench.run.run_folder`.
        folder: one that does not exist, or is empty.
        to: a name of :data:`bench.zoo.FORMATS`.
        results_dir: whose corrections say which records no longer count; these are left out.
        protocol: whose classifier is exported; None: the encoder alone.
        dataset: on which the evaluations must be, for a run that was evaluated on several; None: on any, those on the
            data of pre-training first.

    Raises:
        BenchError: an unknown format, protocol or run, one that is not finished, a classifier whose records were all
            corrected, a network that the format cannot express, an extra that is missing, or a folder that is not
            empty. Nothing is written then.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    if protocol is not None and protocol not in ALL_PROTOCOLS:
        raise unknown("protocol", protocol, ALL_PROTOCOLS)
    section = SECTIONS.get(protocol or "")
    if section and not issubclass(section, FinetuneSettings):
        raise BenchError(
            f"{protocol} is a vote of the training images, not a network that can be exported. Leave --protocol out to "
            "export the encoder."
        )
    path = run_folder(runs_dir, run)
    every = [each for each in finished_in(path) if protocol in (None, each.protocol)]
    if protocol is not None and not every:
        raise unfinished(path, protocol)
    counts = counted(by_preference(_on(dataset, every)), results_dir)
    if protocol is not None:
        counts.refuse_none(f"{protocol} of the run {path.name}")
    last = {each.protocol: each for each in counts.found}
    finished = {name: last[name] for name in ALL_PROTOCOLS if name in last}
    model = model_of(path, finished.get(protocol or RELEASED))  # a released classifier is its own encoder
    records = [each.record for each in finished.values()]
    with new_folder(folder) as new:
        loading = FORMATS[to](model, new)
        (new / "README.md").write_text(card(model, loading, records), "utf-8")
        found = [path for path in sorted(new.rglob("*")) if path.is_file()]
        files = {path.relative_to(new).as_posix(): path.stat().st_size for path in found}
    others = len(counts.found) - len(finished)
    radii = tuple(radius_text(each.recipe.threat.norm, each.record.ra.eps) for each in finished.values())
    datasets = tuple(each.dataset for each in records)
    return Exported(files, tuple(finished), datasets, radii, others, counts.left_out)


def _on(dataset: str | None, found: Sequence[Finished]) -> Sequence[Finished]:
    """Return those of ``found`` on ``dataset``, or all; raises BenchError if there are none."""
    if dataset is None:
        return found
    chosen = [each for each in found if each.is_on(dataset)]
    if not chosen:
        raise unknown("dataset of an evaluation of this run", dataset, {each.record.dataset for each in found})
    return chosen


def model_of(path: Path, classifier: Finished | None) -> Model:
    """Return the network of the run in ``path``, ``classifier`` or else the encoder; BenchError if there is none."""
    recipe, weights = described_recipe(path), path / "encoder.safetensors"
    if not weights.is_file():
        raise BenchError(f"the run {path.name} is not finished: it has no encoder yet. {to_finish(path)}")
    file = load_encoder(weights)
    known = file.origin.imported
    whole = classifier is not None and classifier.protocol == RELEASED
    network = classifier.classifier(torch.device("cpu")) if classifier and not whole else file.encoder(recipe)
    info = known.method.info if known else METHODS.get(recipe.method).info
    return Model(
        network.eval(),
        recipe.encoder,
        recipe.dataset.image_shape,
        info.title,
        info.year,
        trained_on=known.trained_on if known else recipe.dataset.name,
        trained_on_sha256=known.trained_on_sha256 if known else recipe.dataset.sha256,
        paper=info.paper,
        link=info.url,
        record=classifier.record if classifier else None,
    )
