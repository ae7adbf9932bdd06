"""Reuses a classifier that was trained for another evaluation of the same encoder.

Another radius, another attack or more images change the evaluation and the folder, but not the training before it.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.job import Job
from bench.run.finished import Finished, finished_in
from bench.run.preparation import Run
from bench.train import Progress, finished_path, unfinished_path
from bench.zoo import load_tensors, save_tensors


class TrainedElsewhere(NamedTuple):
    """A classifier that was trained for another evaluation."""

    run: str
    """The name of that evaluation's folder."""
    tensors: dict[str, Tensor]
    progress: Progress


def reuse_classifier(run: Run, protocol: str, encoder: str, job: Job) -> None:
    """Copy the trained state of ``protocol`` into the folder of ``job``, if an evaluation of ``run`` has the same.

    It has the same training on the same encoder, whose digest is ``encoder``, by the code that would train it now.
    Nothing is copied where the training has begun already.
    """
    if trained := trained_elsewhere(run, protocol, encoder, job.folder):
        job.monitor.note(f"{protocol}: trained already, in {trained.run}; only its evaluation differs")
        kept = trained.progress.model_copy(update={"fingerprint": job.fingerprint})
        save_tensors(finished_path(job.folder, protocol), trained.tensors, kept.model_dump(mode="json"))


def trained_elsewhere(run: Run, protocol: str, encoder: str, folder: Path) -> TrainedElsewhere | None:
    """Return what :func:`reuse_classifier` copies into ``folder``; None: it is trained there."""
    if any(path(folder, protocol).exists() for path in (finished_path, unfinished_path)):
        return None
    for other in finished_in(run.folder.path):
        if (other.protocol, other.record.encoder_sha256) == (protocol, encoder) and _trained_alike(other, run):
            path = finished_path(other.path, protocol)
            try:
                other.classifier(torch.device("cpu"))  # refused where the weights are not those of the record
                tensors, metadata = load_tensors(path)
                progress = Progress.parse(metadata, str(path))
            except BenchError:
                continue  # lost, damaged or moved here by hand: it is trained again
            if not progress.by_other_code:
                return TrainedElsewhere(other.path.name, tensors, progress)
    return None


def _trained_alike(other: Finished, run: Run) -> bool:
    digests = {recipe.training_digest(other.protocol) for recipe in (other.folder.recipe, run.recipe)}
    return len(digests) == 1 and other.record.seed == run.seed
