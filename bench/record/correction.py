"""Corrections: records that no longer count, each with its reason; the records stay as they are."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import AwareDatetime

from bench.errors import BenchError, unknown
from bench.files import create_bytes, inside, json_bytes
from bench.recipe import protocol_title
from bench.recipe.fields import Digest, Listed, Text
from bench.record.record import Record
from bench.record.sealed import Sealed, load_sealed
from bench.record.store import LOCAL, load_record
from bench.record.submission import SUBMISSIONS

CORRECTION_SCHEMA: Literal[1] = 1
_FOLDER = "corrections"

CorrectionReason = Literal["evaluation", "training", "data", "weights", "rerun", "authors"]
REASONS: Mapping[CorrectionReason, str] = {
    "evaluation": "the evaluation was wrong",
    "training": "the training was wrong",
    "data": "the data were wrong",
    "weights": "the weights are lost, or are not those of the record",
    "rerun": "it was run again",
    "authors": "its authors asked for it",
}
"""Why a record no longer counts."""


class Correction(Sealed):
    """One record that is withdrawn, or superseded by another one."""

    schema_version: Literal[1] = CORRECTION_SCHEMA
    record: Listed
    """Its path below the results folder."""
    record_sha256: Digest
    about: Text
    """What it is the record of."""
    reason: CorrectionReason
    note: Text
    """The reason in the words of whoever corrects it."""
    superseded_by: Listed | None = None
    """The path of the record that counts instead; None: withdrawn."""
    date: AwareDatetime

    @property
    def folder(self) -> str:
        """The folder of the record below the results: its dataset's name, after ``local/`` for a user's own one."""
        return self.record.rpartition("/")[0]

    @property
    def dataset(self) -> str:
        """The name of the dataset, as the record's folder has it."""
        return self.folder.rpartition("/")[2]

    @property
    def said(self) -> str:
        """What became of the record, and why: "withdrawn: the data were wrong. Wrong labels."."""
        state = f"superseded by {self.superseded_by}" if self.superseded_by else "withdrawn"
        return f"{state}: {REASONS[self.reason]}. {self.note}"


_SAME = {"title": "", "dataset": "", "protocol": "", "tier": "tier ", "fidelity": "fidelity ", "seed": "seed "}
"""What a record that counts instead has in common with the one it supersedes, and how it is called: with another seed
in its place, one could choose the best of several."""


def correct(
    record: Path, read: Record, results_dir: Path, *, reason: str, note: str, superseded_by: Path | None = None
) -> Path:
    """Write the correction of ``read``, the content of the file ``record``, and return its path.

    Raises:
        BenchError: an unknown reason, no note, a record outside ``results_dir`` or corrected already, or a record that
            cannot count in its place.
    """
    if reason not in get_args(CorrectionReason):
        raise unknown("reason", reason, REASONS)
    if not note.strip():
        raise BenchError("--note is empty. Say in a sentence why the record no longer counts.")
    if _below(record, results_dir).startswith(f"{SUBMISSIONS}/"):
        raise BenchError(
            f"{record} is submitted, and no published record yet. Correct the record of the run itself, remove this "
            "submission, and type bench submit again, which leaves that record out."
        )
    if superseded_by is not None and (fault := _cannot_count(superseded_by, record, read, results_dir)):
        raise BenchError(f"{superseded_by} {fault}. Name another record, or leave --superseded-by out.")
    values = {
        "record": _below(record, results_dir),
        "record_sha256": read.sha256,
        "about": f"{read.title} {read.year}, {protocol_title(read.protocol)}, tier {read.tier}, seed {read.seed}",
        "reason": reason,
        "note": note,
        "superseded_by": superseded_by and _below(superseded_by, results_dir),
        "date": datetime.now(UTC).replace(microsecond=0),
    }
    made = Correction.parse(values, "the correction").sealed()
    path = _file(record)
    if not create_bytes(path, json_bytes(made.content())):
        raise BenchError(f"{record} is corrected already: {path}. Remove that file to correct it in another way.")
    return path


def load_correction(path: Path) -> Correction:
    """Return the correction in ``path``; errors are those of :func:`bench.record.sealed.load_sealed`."""
    return load_sealed(path, Correction, schema=CORRECTION_SCHEMA)


def correction_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be corrections, in a stable order."""
    return (path for path in sorted(folder.glob(f"*/{_FOLDER}/*.json")) if not path.name.startswith("."))


def _cannot_count(other: Path, record: Path, read: Record, results_dir: Path) -> str:
    """Return why ``other`` cannot count in the place of ``record``, whose content is ``read``; empty: it can."""
    if other.resolve() == record.resolve():
        return "cannot supersede itself"
    if _file(other).exists():
        return f"does not count itself: {_file(other)} corrects it"
    local, other_local = (_below(path, results_dir).startswith(f"{LOCAL}/") for path in (record, other))
    if other_local and not local:
        return "is a local record, which no reader of the published board has"
    counts = load_record(other)
    pairs = ((called, getattr(counts, part), getattr(read, part)) for part, called in _SAME.items())
    return next((f"is of {called}{its}, not of {called}{wanted}" for called, its, wanted in pairs if its != wanted), "")


def _file(record: Path) -> Path:
    return inside(record.parent, _FOLDER, f"{record.stem}.json")


def _below(path: Path, results_dir: Path) -> str:
    try:
        return path.resolve().relative_to(results_dir.resolve()).as_posix()
    except ValueError:
        raise BenchError(
            f"{path} is not below the results folder {results_dir}. Name that of the record with --results-dir."
        ) from None
