"""Files that are either whole or absent: atomic writes, and readers that notice damage."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.errors import BenchError

_UNFINISHED = ".unfinished"


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that no reader, and no crash, ever sees half of it.

    Raises:
        BenchError: the folder cannot be made or written, or the disk is full; ``path`` is as it was before.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED, delete=False
        ) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise _refusal(path, error) from error
    _sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Write plain ``values`` as indented JSON, atomically; see :func:`write_bytes`."""
    write_bytes(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def make_writable(folder: Path) -> None:
    """Make ``folder`` and try it with a file, so that long work need not end to learn that it cannot be kept.

    Raises:
        BenchError: the folder cannot be made or written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise _refusal(folder, error) from error


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of their writes under ``folder``, which no living one may be writing."""
    for path in folder.rglob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename the damaged file ``path`` to ``<name>.damaged``, with a number if need be, and return where it is now.

    Raises:
        BenchError: the folder cannot be written.
    """
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged.{number}")
    try:
        path.rename(aside)
    except OSError as error:
        raise _refusal(path, error) from error
    return aside


def read_json(path: Path) -> Any:
    """Return the plain values in ``path``; raises BenchError if it is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error


def _refusal(path: Path, error: OSError) -> BenchError:
    return BenchError(
        f"cannot write {path}: {error.strerror or error}. Free some space or make the folder writable, "
        "or choose another with --runs-dir or --results-dir; then run the same command again."
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # Without this a crash of the machine may forget the rename itself. Some network disks know no such call.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
