"""Sealed files: results that carry the digest of all else in them, so that a cut or edited one is noticed."""

from pathlib import Path
from typing import Any, Self, TypeVar

from bench.errors import BenchError
from bench.files import read_json, write_json
from bench.recipe import Settings, canonical_digest


class Sealed(Settings):
    """What a results file holds. A subclass gives ``schema_version`` the versions that it can read."""

    sha256: str = ""
    """Digest of everything else; empty until the file is written."""

    def sealed(self) -> Self:
        """Return this with its digest filled in."""
        return self.model_copy(update={"sha256": self.content_digest()})

    def content_digest(self) -> str:
        """Return the digest of everything but ``sha256``."""
        return canonical_digest(self.model_dump(mode="json", exclude={"sha256"}))


S = TypeVar("S", bound=Sealed)


def save_sealed(path: Path, result: S) -> Path:
    """Seal ``result``, write it to ``path`` and return where it is.

    A file that is there already stays: another content gets a number behind its name, the same content nothing.

    Raises:
        BenchError: the folder cannot be written.
    """
    result, first, number = result.sealed(), path, 1
    while path.exists():
        values = read_json(path)
        if isinstance(values, dict) and values.get("sha256") == result.sha256:
            return path
        number += 1
        path = first.with_name(f"{first.stem}.{number}.json")
    write_json(path, result.model_dump(mode="json"))
    return path


def load_sealed(path: Path, kind: type[S], *, schema: int) -> S:
    """Return the ``kind`` in ``path``, of a schema version from 1 to ``schema``.

    Raises:
        BenchError: unreadable, of an unknown schema version, incomplete, or edited after it was written.
    """
    values = read_json(path)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version not in range(1, schema + 1):
        raise BenchError(f"{path}: schema version {version!r}, this program reads 1 to {schema}. Update the bench.")
    try:
        result = kind.parse(values, str(path))
    except RecursionError:
        raise BenchError(f"{path}: nested too deeply to be a {kind.__name__.lower()}. Restore or remove it.") from None
    if _digest(values) != result.sha256:
        raise BenchError(f"{path}: its checksum does not match; it was edited or damaged. Restore or remove it.")
    return result


def _digest(values: dict[str, Any]) -> str | None:
    """Return the digest of the file as it stands: an older version lacks fields that this one would add."""
    try:
        return canonical_digest({key: value for key, value in values.items() if key != "sha256"})
    except ValueError:  # NaN, which is no JSON and which no result was written with
        return None
