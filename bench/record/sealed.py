"""Sealed files: results with a digest of their content, so that a truncated or edited file is detected."""

from pathlib import Path
from typing import Any, Self, TypeVar

from bench.errors import BenchError, DamagedFileError
from bench.files import create_bytes, json_bytes, read_json, set_aside
from bench.monitor import Monitor
from bench.recipe import Settings, canonical_digest


class Sealed(Settings):
    """The content of a results file. A subclass gives ``schema_version`` the versions that it can read."""

    sha256: str = ""
    """Digest of everything else; empty until the file is written."""

    def sealed(self) -> Self:
        """Return this with its digest filled in."""
        return self.model_copy(update={"sha256": self.content_digest()})

    def content_digest(self) -> str:
        """Return the digest of everything but ``sha256``."""
        return _digest(self.content())

    def content(self) -> dict[str, Any]:
        """Return the content of the file: of one that was read and not changed since, exactly what was read.

        That lacks the fields that are newer than the file.
        """
        whole = self.model_dump(mode="json")
        if self.sha256 not in ("", _digest(whole)):
            read = self.model_dump(mode="json", exclude_unset=True)
            if _digest(read) == self.sha256:
                return read
        return whole


S = TypeVar("S", bound=Sealed)


def save_sealed(path: Path, result: S, monitor: Monitor | None = None) -> Path:
    """Seal ``result``, write it to ``path`` and return where it is.

    An existing file stays: different content gets a number behind its name, the same content is not written again.
    A file that is truncated or does not match its digest is set aside and reported to ``monitor``.

    Raises:
        BenchError: the folder cannot be written.
    """
    result, first, number = result.sealed(), path, 1
    content = json_bytes(result.content())
    while not create_bytes(path, content):
        held = _held(path, monitor)
        if held is _DAMAGED:
            continue
        if held == result.sha256:
            return path
        number += 1
        path = first.with_name(f"{first.stem}.{number}.json")
    return path


_DAMAGED = object()


def _held(path: Path, monitor: Monitor | None) -> object:
    """Return the digest of the result in ``path``, or ``_DAMAGED`` after a damaged one was set aside."""
    if not path.stat().st_size:  # the name that another process has just taken; see create_bytes
        return None
    try:
        values = read_json(path)
        if isinstance(values, dict) and values.get("sha256") == _digest(values):
            return values["sha256"]
        fault = "its checksum does not match"
    except DamagedFileError as error:
        fault = str(error)
    aside = set_aside(path)
    if monitor:
        monitor.note(f"{path} is damaged ({fault}). It was renamed {aside.name} and is written again.")
    return _DAMAGED


def load_sealed(path: Path, kind: type[S], *, schema: int) -> S:
    """Return the ``kind`` in ``path``, of a schema version from 1 to ``schema``.

    Raises:
        DamagedFileError: not JSON, of another program, incomplete, or edited after it was written.
        BenchError: missing, or of an unknown schema version.
    """
    values = read_json(path)
    if not isinstance(values, dict) or "schema_version" not in values:
        what = f"no {kind.__name__.lower()} of the bench: it has no schema_version"
        raise DamagedFileError(f"{path}: this is {what}. Give another file, or restore this one.")
    version = values["schema_version"]
    if version not in range(1, schema + 1) or type(version) is not int:
        later = isinstance(version, int) and version > schema
        raise (BenchError if later else DamagedFileError)(
            f"{path}: schema version {version!r}, this program reads 1 to {schema}. "
            f"{'Update the bench' if later else 'Restore or remove it'}."
        )
    try:
        result = kind.parse(values, str(path), from_file=True)
    except BenchError as error:
        raise DamagedFileError(str(error)) from None
    if _digest(values) != result.sha256:
        raise DamagedFileError(f"{path}: its checksum does not match; it was edited or damaged. Restore or remove it.")
    return result


def _digest(values: dict[str, Any]) -> str:
    """Return the digest of the file as it stands: an older version lacks fields that this one would add."""
    return canonical_digest({key: value for key, value in values.items() if key != "sha256"})
