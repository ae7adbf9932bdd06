"""A submission: the records of a run with its card, the digests of its weights and the commands, in one folder."""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from bench.errors import BenchError, listed
from bench.files import file_digest
from bench.folders import new_folder
from bench.recipe import RELEASED
from bench.record import Submission, SubmittedWeights, save_record, signed
from bench.report.model_export.card import card
from bench.report.model_export.write import model_of
from bench.report.reproduce import reproduction
from bench.run import Finished, finished_in, load_encoder, run_folder, to_finish, unfinished
from bench.zoo import Loading

LARGEST = 1_000_000
"""Bytes of a file of weights that goes into the folder; a larger one is described alone."""

_ENCODER = "weights/encoder.safetensors"


class Submitted(NamedTuple):
    """What was written."""

    folder: Path
    submission: Submission


def write_submission(runs_dir: Path, run: str, folder: Path, *, by: str) -> Submitted:
    """Write the submission of every finished protocol of ``run`` to the new ``folder``.

    Raises:
        BenchError: an unknown run, one that is not finished, has an evaluation that failed a check of the doctor, or
            whose weights are missing or not those of its records, or a folder that is not empty. Nothing is written.
    """
    by, path = signed(by), run_folder(runs_dir, run)
    found = sorted(finished_in(path), key=lambda each: each.path)
    if not (path / "encoder.safetensors").is_file():
        raise BenchError(
            f"the run {path.name} has no encoder.safetensors: it is not finished, or its weights were removed, and "
            f"nobody could verify it. {to_finish(path, 'slf')}"
        )
    if not found:
        raise unfinished(path, "slf")
    _refuse_failed(path, found)
    weights = _weights(path, found)
    with new_folder(folder) as made:
        records = {}
        for each in found:
            file = save_record(made / "records", each.record)
            records[file.relative_to(made).as_posix()] = each
        for name, (file, described) in weights.items():
            if described.included:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, made / name)
        descriptions = {name: described for name, (_, described) in weights.items()}
        submission = Submission(
            by=by,
            records={name: each.record.sha256 for name, each in records.items()},
            weights=descriptions,
            commands=tuple(_commands(folder, records, descriptions)),
            date=datetime.now(UTC).replace(microsecond=0),
        )
        submission.save(made)
        (made / "README.md").write_text(_card(path, found, submission))
    return Submitted(folder, submission)


def _refuse_failed(path: Path, found: Sequence[Finished]) -> None:
    failed = [f"{each.protocol}, {one.check}: {one.found}" for each in found for one in each.record.diagnosed("fail")]
    if failed:
        raise BenchError(
            f"{listed('the evaluation cannot be believed, so it is no result to submit', failed)}\n"
            f"What to do says: {shlex.join(['bench', 'doctor', str(path)])}"
        )


def _weights(path: Path, found: Sequence[Finished]) -> dict[str, tuple[Path, SubmittedWeights]]:
    """Return each file of weights of the run in ``path``, by its name in the submission, with its description.

    Raises BenchError if one is missing or is not that of its record.
    """
    encoder = load_encoder(path / "encoder.safetensors").sha256
    files = {_ENCODER: (path / "encoder.safetensors", encoder)}
    for each in found:
        if each.record.encoder_sha256 != encoder:
            raise BenchError(
                f"{path / 'encoder.safetensors'} is not the encoder of {each.path / 'record.json'}. Run it again."
            )
        each.classifier(torch.device("cpu"))
        sha256 = each.record.classifier_sha256
        if each.protocol != RELEASED:
            file = each.path / f"{each.protocol}.safetensors"
            files[_weights_name(each)] = file, sha256
    return {name: (file, _described(file, sha256)) for name, (file, sha256) in files.items()}


def _weights_name(each: Finished) -> str:
    """Return where the weights of the classifier are in a submission."""
    return _ENCODER if each.protocol == RELEASED else f"weights/{each.path.name}/{each.protocol}.safetensors"


def _described(file: Path, sha256: str) -> SubmittedWeights:
    size = file.stat().st_size
    return SubmittedWeights(sha256=sha256, file_sha256=file_digest(file), size=size, included=size <= LARGEST)


def _commands(folder: Path, records: Mapping[str, Finished], weights: Mapping[str, SubmittedWeights]) -> Iterator[str]:
    """Yield what makes each of ``records`` again, then what verifies each."""
    yield from dict.fromkeys(reproduction(each.record).command for each in records.values())
    for name, each in records.items():
        file = _weights_name(each)
        where = str(folder / file) if weights[file].included else Path(file).name
        yield shlex.join(["bench", "verify", str(folder / name), "--weights", where, "--by", "NAME"])


def _card(path: Path, found: Sequence[Finished], submission: Submission) -> str:
    files = [
        (name, f"{each.size:,} bytes, SHA-256 `{each.file_sha256}`{'' if each.included else '; not in this folder'}")
        for name, each in submission.weights.items()
    ]
    loading = Loading(
        'import bench\n\nencoder = bench.load_encoder("weights/encoder.safetensors")\n',
        "pytorch",
        "ssl-robustness-bench",
        (*files, *((name, "a record") for name in submission.records)),
    )
    records = [each.record for each in found]
    text = card(model_of(path, None), loading, records)
    verify = "\n".join(command for command in submission.commands if command.startswith("bench verify"))
    return f"{text}\n## Verify it\n\nSubmitted by {submission.by}.\n\n```bash\n{verify}\n```\n"
