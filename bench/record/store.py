"""Records on disk: one file each, written once, never edited."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import read_json, write_json
from bench.recipe import canonical_digest
from bench.record.record import SCHEMA, Record


def record_path(folder: Path, record: Record) -> Path:
    """Return where ``record`` belongs under ``folder``, whether or not it is there."""
    name = "-".join(
        [
            record.method,
            *([] if record.pretrained_on is None else ["from", record.pretrained_on]),
            record.tier,
            record.fidelity,
            *([] if record.encoder_seed is None else [f"e{record.encoder_seed}"]),
            f"s{record.seed}",
            record.protocol,
            record.protocol_sha256[:8],
        ]
    )
    return folder / record.dataset / f"{name}.json"


def save_record(folder: Path, record: Record) -> Path:
    """Write ``record`` under ``folder`` and return its path.

    A record of the same run that is there already stays: the new one gets a number behind its name.

    Raises:
        BenchError: the folder cannot be written.
    """
    record = record.sealed()
    first = path = record_path(folder, record)
    number = 1
    while path.exists():
        values = read_json(path)
        if isinstance(values, dict) and values.get("sha256") == record.sha256:
            return path
        number += 1
        path = first.with_name(f"{first.stem}.{number}.json")
    write_json(path, record.model_dump(mode="json"))
    return path


def load_record(path: Path) -> Record:
    """Return the record in ``path``.

    Raises:
        BenchError: unreadable, of an unknown schema version, incomplete, or edited after it was written.
    """
    values = read_json(path)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version not in range(1, SCHEMA + 1):
        raise BenchError(f"{path}: schema version {version!r}, this program reads 1 to {SCHEMA}. Update the bench.")
    try:
        record = Record.parse(values, str(path))
    except RecursionError:
        raise BenchError(f"{path}: nested too deeply to be a record. Restore or remove it.") from None
    if _digest(values) != record.sha256:
        raise BenchError(f"{path}: its checksum does not match; it was edited or damaged. Restore or remove it.")
    return record


def _digest(values: dict[str, Any]) -> str | None:
    """Return the digest of the file as it stands: an older version lacks fields that this one would add."""
    try:
        return canonical_digest({key: value for key, value in values.items() if key != "sha256"})
    except ValueError:  # NaN, which is no JSON and which no record was written with
        return None


def record_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be records, in a stable order."""
    for path in sorted(folder.glob("*/*.json")):
        if path.parent.name != "published" and not path.name.startswith("."):
            yield path
