"""Verifies a record: its classifier is loaded or made again, and measured as the record was."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.data import DATASETS, Dataset
from bench.device import device_name
from bench.errors import BenchError
from bench.evaluation import Evaluation, evaluate
from bench.files import make_writable, remove_unfinished
from bench.job import Job
from bench.monitor import Monitor
from bench.nn import Classifier
from bench.parallel import devices, first_then_others, held_by_first, on_first
from bench.protocol import build_protocol, released_classifier
from bench.recipe import RELEASED, Recipe, canonical_digest, with_checked_fields
from bench.record import (
    Reason,
    Record,
    Verification,
    describe_environment,
    load_trusted,
    save_verification,
    signed,
)
from bench.run.data import load_target
from bench.run.encoder import EncoderFile, load_encoder, recipe_from
from bench.run.finished import protocol_classifier
from bench.run.locks import locked, refusing
from bench.train import train
from bench.zoo import digest, is_foreign, load_tensors


@with_checked_fields
@dataclass(frozen=True)
class VerificationRequest:
    """The options of ``bench verify``."""

    record: Path
    weights: Path
    """Of the classifier, as a protocol's folder of a run keeps it, or of the encoder."""
    by: str
    dataset: str | None = None
    """The source of the data; None: the record's name of them, if it is one of the bench's."""
    runs_dir: Path = Path("runs")
    """Where unfinished verifications are kept."""
    data_dir: Path = Path("data")


class Verified(NamedTuple):
    """A record with its new verification."""

    record: Record
    verification: Verification
    path: Path


def verify(request: VerificationRequest, device: torch.device, monitor: Monitor | None = None) -> Verified:
    """Measure the weights as the record says, and write the verification beside the record, which stays as it is.

    Raises:
        BenchError: a damaged record, weights that are missing, damaged or not those of the record, data that are
            missing or others. Nothing is written then.
        BusyRunError: another process is verifying the record.
        InterruptedRunError: a stop was requested; the same call continues.
    """
    monitor, by = monitor or Monitor(), signed(request.by)
    record = load_trusted(request.record).record
    recipe = recipe_from(record.recipe)
    opened = _open(request.weights, record, recipe)
    dataset = first_then_others(lambda: _dataset(request, recipe))
    folder = request.runs_dir / f"verify-{record.sha256[:12]}-{'encoder' if opened.encoder else 'classifier'}"
    # Outside the folder, which is deleted in the end: processes cannot agree on a lock whose file one of them deletes.
    lock = request.runs_dir / ".locks" / folder.name
    on_first(lambda: make_writable(request.record.parent))
    on_first(lambda: make_writable(lock.parent))
    with held_by_first(lambda: locked(lock, refusing(f"verifying this record ({folder})"))):
        on_first(lambda: make_writable(folder))
        on_first(lambda: remove_unfinished(folder))
        job = Job(folder, canonical_digest([record.sha256, opened.sha256]), record.seed, device, monitor)
        classifier = opened.classifier or _trained(opened, record, recipe, dataset, job)
        found = _measured(classifier, record, recipe, dataset, job)
        verification = _described(by, record, opened, classifier, found, device).sealed()
        path = on_first(lambda: save_verification(request.record, verification, monitor))
        on_first(lambda: shutil.rmtree(folder, ignore_errors=True))
    return Verified(record, verification, path)


class _Opened(NamedTuple):
    """A file of weights that are those of the record."""

    sha256: str
    classifier: Classifier | None = None
    encoder: EncoderFile | None = None
    """Where the file holds the encoder alone: the protocol has to run again."""


def _open(path: Path, record: Record, recipe: Recipe) -> _Opened:
    """Return the weights in ``path``; raises BenchError if they are not those of ``record``."""
    if not path.is_file():
        raise BenchError(
            f"{path} is not a file, and a record cannot be verified without its weights. Type --weights and the path "
            f"of {record.protocol}.safetensors in the protocol's folder of its run, or of encoder.safetensors."
        )
    tensors = {} if is_foreign(path) else load_tensors(path).tensors
    if any(name.startswith("stage.") for name in tensors):
        return _open_classifier(path, tensors, record, recipe)
    file = load_encoder(path)
    if file.sha256 != record.encoder_sha256:
        raise _others(path, "encoder", file.sha256, record.encoder_sha256)
    if record.protocol == RELEASED:
        return _Opened(file.sha256, classifier=released_classifier(file.encoder(recipe)))
    return _Opened(file.sha256, encoder=file)


def _open_classifier(path: Path, tensors: Mapping[str, Tensor], record: Record, recipe: Recipe) -> _Opened:
    try:
        classifier = protocol_classifier(recipe, record.protocol, record.seed, tensors)
    except (RuntimeError, KeyError):  # other names or shapes than those of the protocol
        raise BenchError(
            f"{path} does not hold the classifier that {record.protocol} makes under the recipe of the record: its "
            "tensors have other names or shapes. Give the weights of this record."
        ) from None
    sha256 = digest(classifier.state_dict())
    if sha256 != record.classifier_sha256:
        raise _others(path, "classifier", sha256, record.classifier_sha256)
    return _Opened(sha256, classifier=classifier)


def _others(path: Path, what: str, found: str, expected: str) -> BenchError:
    return BenchError(
        f"{path} holds the weights of another record: its {what} has the digest {found[:12]}, that of the record has "
        f"{expected[:12]}. Give the weights that the record was made with."
    )


def _dataset(request: VerificationRequest, recipe: Recipe) -> Dataset:
    facts = recipe.downstream.dataset
    if request.dataset is None and facts.name not in DATASETS:
        raise BenchError(
            f"the record is of {facts.name}, data of its author's own, and their location is not known. Type "
            "--dataset npz:PATH or --dataset folder:PATH."
        )
    source = request.dataset or facts.name
    dataset = load_target(source, request.data_dir, recipe.dataset).dataset
    if dataset.sha256 != facts.sha256:
        raise BenchError(
            f"{source} is not the data of the record: its SHA-256 is {dataset.sha256[:12]}, not {facts.sha256[:12]}. "
            "Give the same images and labels with --dataset."
        )
    return dataset


def _trained(opened: _Opened, record: Record, recipe: Recipe, dataset: Dataset, job: Job) -> Classifier:
    """Return the classifier that the protocol of ``record`` makes of its encoder here."""
    assert opened.encoder is not None, "there is a classifier already"
    encoder = opened.encoder.encoder(recipe).to(job.device)
    stage = build_protocol(record.protocol, recipe.downstream, encoder, dataset.train.labels, record.seed)
    train(stage, dataset.train.images, job)
    return stage.classifier()


def _measured(classifier: Classifier, record: Record, recipe: Recipe, dataset: Dataset, job: Job) -> Evaluation:
    """Return SA, RA and AA, where ``record`` has it: nothing else is compared."""
    recipe = recipe.downstream
    settings = {"corruptions": "none", "attacks": (), "autoattack": record.aa is not None}
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=settings)})
    return evaluate(classifier, dataset.test, job, recipe=recipe)


def _described(
    by: str,
    record: Record,
    opened: _Opened,
    classifier: Classifier,
    found: Evaluation,
    device: torch.device,
) -> Verification:
    sha256 = digest(classifier.state_dict())
    reason: Reason = "rounding"
    if sha256 != record.classifier_sha256:
        reason = "other classifier"
    elif record.ra.start_drawn != found.ra.start_drawn:
        reason = "other starts"
    verification = Verification(
        record_sha256=record.sha256,
        by=by,
        weights="encoder" if opened.encoder else "classifier",
        classifier_sha256=sha256,
        reason=reason,
        sa=found.sa,
        ra=found.ra.outcome,
        aa=found.aa and found.aa.outcome,
        differ={},
        environment=describe_environment(device_name(device), torch.get_num_threads(), devices=devices()),
        finished=datetime.now(UTC),
    )
    differ = {name: len(flips) for name, flips in verification.flips(record).items()}
    return verification.model_copy(update={"differ": differ})
