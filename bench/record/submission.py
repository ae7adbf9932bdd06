"""Submissions: folders with records that somebody offers for the board, and the digests of their weights."""

from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime

from bench.errors import BenchError
from bench.files import file_digest, inside, read_json
from bench.recipe import Settings
from bench.recipe.fields import Count, Digest, Listed, Text
from bench.record.sealed import Sealed, load_sealed

SUBMISSION_SCHEMA: Literal[1] = 1
SUBMISSIONS = "submissions"
"""The folder below the results for submissions."""
_DESCRIPTION = "submission.json"


class SubmittedWeights(Settings):
    """One file of weights, which need not be in the folder."""

    sha256: Digest
    """Of the tensors, as in the record."""
    file_sha256: Digest
    """Of the file."""
    size: Count
    """Of the file, in bytes."""
    included: bool
    """Whether the file is in the folder."""


class Submission(Sealed):
    """The content of ``submission.json``."""

    schema_version: Literal[1] = SUBMISSION_SCHEMA
    by: Text
    records: dict[Listed, Digest]
    """The digest of each record by its path in the folder."""
    weights: dict[Listed, SubmittedWeights]
    """By their paths, in the folder if they are included."""
    files: dict[Listed, Digest] = {}
    """The digest of the card, and of each file of code, by its path in the folder; empty in older versions."""
    commands: tuple[Text, ...]
    """What makes the records again, and what verifies them."""
    date: AwareDatetime

    def save(self, folder: Path) -> None:
        """Write it to ``folder``."""
        (folder / _DESCRIPTION).write_text(self.model_dump_json(indent=1) + "\n", "utf-8")


def load_submission(folder: Path) -> Submission:
    """Return the description of the submission in ``folder``; the records themselves are not read.

    Raises:
        BenchError: it is missing or damaged, or a file in the folder is missing, is not listed or has changed. A record
            may be published instead: :func:`submitted_record`.
    """
    submission = load_sealed(folder / _DESCRIPTION, Submission, schema=SUBMISSION_SCHEMA)
    weights = {name: each.file_sha256 for name, each in submission.weights.items() if each.included}
    for name, digest in {**weights, **submission.files}.items():
        if _digest(folder, name) != digest:
            what = "is not the file that was submitted" if (folder / name).exists() else "is missing"
            raise BenchError(f"{name} {what}. Submit the run again.")
    missing = {
        name for name, sha256 in submission.records.items() if not submitted_record(folder, name, sha256).is_file()
    }
    if missing:
        raise BenchError(f"{min(missing)} is missing, and listed in {_DESCRIPTION}. Submit the run again.")
    described = submission.files or {"README.md", *(f"code/{path.name}" for path in folder.glob("code/*.py"))}
    if foreign := _foreign(folder, {_DESCRIPTION, *submission.records, *weights, *described}):
        raise BenchError(f"{min(foreign)} is not listed in {_DESCRIPTION}. Delete it, or submit the run again.")
    return submission


def _foreign(folder: Path, listed: set[str]) -> set[str]:
    """Return the files in ``folder`` that are not ``listed``; verifications may be added, and hidden files are none."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    verifications = {path for path in files if path.match("records/*/verifications/*.json")}
    return {path.as_posix() for path in {*files} - verifications if not path.name.startswith(".")} - listed


def submitted_record(folder: Path, name: str, sha256: str) -> Path:
    """Return the file of the record ``name`` of the submission in ``folder``: in it, or where it was published.

    A published one may have a number behind its name, where another record had the name; ``sha256``, its digest, tells.
    """
    parts = Path(name).parts
    there = inside(folder, *parts)
    if there.is_file():
        return there
    published = inside(folder.parent.parent, *parts[1:])
    numbered = sorted(published.parent.glob(f"{escape(published.stem)}.*.json"))
    return next((path for path in (published, *numbered) if _is_record(path, sha256)), there)


def _is_record(path: Path, sha256: str) -> bool:
    try:
        values = read_json(path)
    except BenchError:
        return False
    return isinstance(values, dict) and values.get("sha256") == sha256


def published_from(record: Path) -> Path:
    """Return where the record is that a submission has, or had, at ``record``; another path is returned as it is."""
    *_, submissions, _, records, dataset, name = (*[""] * 5, *record.parts)
    if (submissions, records) != (SUBMISSIONS, "records"):
        return record
    folder, listed = record.parents[2], f"{records}/{dataset}/{name}"
    if not (folder / _DESCRIPTION).is_file():
        return record
    digests = load_sealed(folder / _DESCRIPTION, Submission, schema=SUBMISSION_SCHEMA).records
    return submitted_record(folder, listed, digests[listed]) if listed in digests else record


def submission_folders(results_dir: Path) -> Iterator[Path]:
    """Yield the folders of submissions under ``results_dir``, by name."""
    return (path for path in sorted((results_dir / SUBMISSIONS).glob("*/")) if not path.name.startswith("."))


def weights_needed(records: Mapping[str, tuple[str, str]], weights: Mapping[str, SubmittedWeights]) -> str | None:
    """Return the first of ``records`` whose weights are not among ``weights``, or None.

    ``records`` gives, by name, the digests of encoder and classifier.
    """
    held = {each.sha256 for each in weights.values()}
    return next((name for name, digests in records.items() if not held.issuperset(digests)), None)


def _digest(folder: Path, name: str) -> str | None:
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    return file_digest(path) if inside and path.is_file() else None
