"""Files that are either whole or absent: atomic writes, and readers that notice damage."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import BenchError

_UNFINISHED = ".unfinished"
_CONTENTS = "CONTENTS"
"""In a generated folder: the files in it, one a line, so that nobody else's are ever replaced."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that no reader, and no crash, ever sees half of it.

    Raises:
        BenchError: the folder cannot be made or written, or the disk is full; ``path`` is as it was before.
    """
    write_stream(path, [content])


def write_stream(path: Path, parts: Iterable[bytes]) -> None:
    """Write what would not fit into memory at once, part by part, as :func:`write_bytes` does."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED, delete=False
        ) as file:
            temporary = file.name
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Write plain ``values`` as indented JSON, atomically; see :func:`write_bytes`."""
    write_bytes(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


@contextmanager
def replaced_folder(path: Path, what: str) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` once the block has filled it.

    Until then, and if the block fails, ``path`` is as it was before; no reader sees it half-filled.

    Args:
        path: a folder made by this function before, an empty one, or nothing yet.
        what: what the folder is, as in "a site", for the message.

    Raises:
        BenchError: ``path`` holds files of others, or it cannot be written.
    """
    path = path.resolve()
    _check_generated(path, what)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in path.parent.glob(f"{unfinished.name}*"):
            shutil.rmtree(left_behind)
        unfinished.mkdir()
        yield unfinished
        (unfinished / _CONTENTS).write_text("\n".join([*_files(unfinished), ""]))
        if path.exists():
            path.rename(unfinished.with_name(f"{unfinished.name}.old"))
        unfinished.rename(path)
        shutil.rmtree(unfinished.with_name(f"{unfinished.name}.old"), ignore_errors=True)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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


def _check_generated(path: Path, what: str) -> None:
    """Raise BenchError if ``path`` holds what :func:`replaced_folder` has not put there."""
    if not path.exists():
        return
    try:
        listed = (path / _CONTENTS).read_text().splitlines() if (path / _CONTENTS).is_file() else []
        foreign = sorted({*_files(path)} - {*listed, _CONTENTS})
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}. Choose another folder with --output.") from None
    if foreign or not path.is_dir():
        found = f"holds {foreign[0]}" if foreign else "is a file"
        raise BenchError(f"{path} {found}, which is not from {what} made here, so it stays. Choose another --output.")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _refusal(path: Path, error: OSError) -> BenchError:
    return BenchError(
        f"cannot write {path}: {error.strerror or error}. Free some space or make the folder writable, "
        "or choose another with --runs-dir, --results-dir, --data-dir or --output; then run the same command again."
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
