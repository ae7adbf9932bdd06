"""`bench doctor`: the checks on finished runs, on the weights of a record, and on classifiers without an evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from bench.doctor import examine
from bench.errors import BenchError, unknown
from bench.job import Job
from bench.monitor import Monitor
from bench.recipe import ALL_PROTOCOLS
from bench.record import Diagnosis, Record, load_record
from bench.run.command import unfinished
from bench.run.examination import new_patient
from bench.run.execution import kept_encoder, trained_classifier
from bench.run.finished import Finished, finished_in, finished_protocols, run_folder
from bench.run.preparation import Run
from bench.zoo import digest


class Visit(NamedTuple):
    """What the doctor found on one classifier."""

    run: str
    """The name of the run's folder."""
    protocol: str
    diagnoses: tuple[Diagnosis, ...]


def visit_finished(
    finished: Finished, *, data_dir: Path, device: torch.device, monitor: Monitor, deep: bool = False
) -> Visit:
    """Return the verdicts on ``finished``, whose measurements are read from its record; ``deep``: of all checks.

    Raises:
        BenchError: its weights or data are missing, damaged, or not those of the record.
        InterruptedRunError: a stop was requested.
    """
    record = finished.record
    patient = new_patient(
        finished.classifier(device),
        finished.dataset(data_dir),
        finished.recipe,
        protocol=finished.protocol,
        seed=record.seed,
        device=device,
        weights=(record.encoder_sha256, record.classifier_sha256),
        measured=record,
        deep=deep,
    )
    return Visit(finished.folder.path.name, finished.protocol, examine(patient, monitor))


def visit_encoder(run: Run, monitor: Monitor, *, deep: bool = False) -> Iterator[Visit]:
    """Yield the verdicts on the classifier of each protocol of ``run``, whose encoder is trained already.

    ``deep``: of all checks.

    A classifier that is not trained yet is trained as for an evaluation, which continues from it later. What was
    measured is read from its record, if it has one.

    Raises:
        BenchError: as :func:`bench.run.execute`.
        InterruptedRunError: a stop was requested; the same call continues.
    """
    with run.folder.claimed(monitor):
        file = kept_encoder(run, monitor)
        assert file is not None, "the encoder is trained already"
        encoder = file.encoder(run.recipe).to(run.device)
        for protocol in run.protocols:
            folder, before = run.protocol_folder(protocol), digest(encoder.state_dict())
            job = Job(folder.path, folder.fingerprint, run.seed, run.device, monitor, before)
            classifier = trained_classifier(run, protocol, encoder, job).classifier
            weights = before, digest(classifier.state_dict())
            record = load_record(folder.record) if folder.record.exists() else None
            if record and record.classifier_sha256 != weights[1]:
                raise BenchError(
                    f"the weights in {folder.path} are not those that its record was made with. Move {folder.path} "
                    "away; `bench run` or `bench evaluate` makes it again."
                )
            patient = new_patient(
                classifier,
                run.target,
                run.recipe.downstream,
                protocol=protocol,
                seed=run.seed,
                device=run.device,
                weights=weights,
                measured=record,
                deep=deep,
            )
            yield Visit(run.folder.path.name, protocol, examine(patient, monitor))


def finished_of(given: str, runs_dir: Path, protocols: Sequence[str] | None = None) -> list[Finished]:
    """Return the finished protocols that ``given`` means: a run by its name or folder, or the file of a record.

    Args:
        given: what the user typed.
        runs_dir: where runs, and the weights of records, are kept.
        protocols: only these of a run; None: all.

    Raises:
        BenchError: there is no such run or protocol, one of them is not finished or not the record's, or the weights of
            the record are not there.
    """
    for name in protocols or ():
        if name not in ALL_PROTOCOLS:
            raise unknown("protocol", name, ALL_PROTOCOLS)
    if given.endswith(".json"):
        record = load_record(Path(given))
        if protocols is not None and {*protocols} != {record.protocol}:
            raise BenchError(
                f"{given} is a record of {record.protocol}, and of no other protocol. Leave --protocols out, or type "
                "the name of its run."
            )
        return [_weights_of(record, given, runs_dir)]
    folder = run_folder(runs_dir, given)
    found = list(finished_in(folder))
    missing = [name for name in protocols or () if name not in {one.protocol for one in found}]
    if missing or not found:
        raise unfinished(folder, next(iter(missing), None))
    return [one for one in found if protocols is None or one.protocol in protocols]


def _weights_of(record: Record, path: str, runs_dir: Path) -> Finished:
    """Return the finished protocol under ``runs_dir`` whose classifier ``record`` describes, with that record."""
    same = [one for one in finished_protocols(runs_dir) if _recipe(one.record) == _recipe(record)]
    for one in same:
        if one.record.classifier_sha256 == record.classifier_sha256:
            return replace(one, record=record)
    if same:
        held = ", ".join(f"{one.folder.path} ({one.record.classifier_sha256[:12]})" for one in same)
        raise BenchError(
            f"the weights of {path} have the SHA-256 {record.classifier_sha256[:12]}, and those of the same recipe and "
            f"seed are others: {held}. Name the --runs-dir that this record was made in."
        )
    raise BenchError(
        f"the weights of {path} are not in {runs_dir}. Name the --runs-dir of its run, or make them again: its "
        "page of `bench site` has the command."
    )


def _recipe(record: Record) -> tuple[str, str, int, int | None]:
    return record.pretraining_sha256, record.protocol_sha256, record.seed, record.encoder_seed
