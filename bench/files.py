"""Files that are either whole or absent: atomic writes, and readers that notice damage."""

import fcntl
import glob
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from bench.errors import BenchError, DamagedFileError, UnwritableError

UNFINISHED = ".unfinished"
"""The ending of the names of files that are still being written."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: the file is never half-written, not even after a crash.

    Raises:
        BenchError: the folder cannot be made or written, or the disk is full; ``path`` is unchanged.
    """
    write_stream(path, [content])


def write_stream(path: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts`` one after the other, as :func:`write_bytes` does: for content larger than the memory."""
    write_with(path, lambda file: file.writelines(parts))


def write_with(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write what ``fill`` writes to the file that it gets, as :func:`write_bytes` does."""
    if _is_special(path):  # renaming a file to its name would destroy it
        raise BenchError(f"cannot write {path}: it is a pipe or a device, not a file. Move it away")
    with _written(path, fill) as temporary:
        os.replace(temporary, path)


def check_output(path: Path) -> None:
    """Check that :func:`write_output` could write ``path``, before the work whose result it gets.

    Raises:
        BenchError: it is a folder, or its folder could not be made or written.
    """
    if path.is_dir():
        raise BenchError(f"cannot write {path}: it is a folder. Name a file in it, such as {path / 'output.json'}")
    if not _is_open(path):
        check_writable(Path(os.path.realpath(path)).parent)


def write_output(path: Path, content: bytes) -> None:
    """Write ``content`` to the file that a user named, as :func:`write_bytes` does; a symbolic link is followed.

    A device, a pipe and what a program has open, such as ``/dev/null`` and ``/dev/stdout``, are written to as they are.

    Raises:
        BenchError: as for :func:`write_bytes`.
    """
    if not _is_open(path):
        write_bytes(Path(os.path.realpath(path)), content)
        return
    try:
        with path.open("ab") as stream:
            stream.write(content)
    except OSError as error:
        raise refusal(path, error) from error


def _is_open(path: Path) -> bool:
    """Return whether ``path`` is a device or a pipe, or the name of an open file."""
    target = path.parent / os.readlink(path) if path.is_symlink() else path
    return _is_special(path) or any(os.path.realpath(one.parent).startswith("/proc/") for one in (path, target))


def _is_special(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir())


def create_bytes(path: Path, content: bytes) -> bool:
    """Write ``content`` to ``path`` as :func:`write_bytes` does, unless the file exists already.

    Returns whether it was written: True in only one of several processes that create the same file.
    """
    with _written(path, lambda file: file.write(content)) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: create the name first, then fill it
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                return False
            os.replace(temporary, path)
    return True


@contextmanager
def _written(path: Path, fill: Callable[[IO[bytes]], object]) -> Iterator[str]:
    """Yield the name of a temporary file beside ``path``, after ``fill``; deleted afterwards unless renamed."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.*{UNFINISHED}"))
        with _open_temporary(path) as file:
            temporary = file.name
            fill(file.file)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            yield temporary
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # a disk that has just become read-only; only the first error is reported
                Path(temporary).unlink(missing_ok=True)
    _sync_folder(path.parent)


def _open_temporary(path: Path) -> "tempfile._TemporaryFileWrapper[bytes]":
    """Return a new file beside ``path``, locked while it is open, so that no other process deletes it as abandoned."""
    while True:
        file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED, delete=False)  # noqa: SIM115 (the caller closes it)
        with suppress(OSError):  # some network disks do not support locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):
            return file
        file.close()  # another process deleted it before it was locked


def _remove_abandoned(paths: Iterable[Path]) -> None:
    """Delete the temporary files among ``paths`` that no running process is writing."""
    for path in paths:
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write plain ``values`` as indented JSON, atomically; see :func:`write_bytes`."""
    write_bytes(path, json_bytes(values))


def json_bytes(values: Any) -> bytes:
    """Return plain ``values`` as the content of a JSON file."""
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def make_writable(folder: Path) -> None:
    """Make ``folder`` and check it, so that long work does not fail at the end, when it is saved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, error) from error
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Check that ``folder`` could be made and written; nothing is left behind.

    Raises:
        BenchError: it could not be made or written, or the disk is full.
    """
    try:
        with tempfile.TemporaryFile(dir=nearest_folder(folder)) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise refusal(folder, error) from error


def nearest_folder(path: Path) -> Path:
    """Return ``path``, or the nearest of its parents that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def remove_unfinished(folder: Path) -> None:
    """Delete the unfinished files of killed processes under ``folder``; those of running processes stay."""
    _remove_abandoned(folder.rglob(f".*{UNFINISHED}"))


def remove(path: Path) -> None:
    """Delete the file ``path`` if it exists; raises BenchError if the disk does not allow it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


def inside(folder: Path, *names: str) -> Path:
    """Return ``folder / names``, each a plain name of one file or folder, so that the path cannot leave ``folder``.

    Raises:
        BenchError: a name is empty, ``.`` or ``..``, or contains a separator.
    """
    for name in names:
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise BenchError(f"{name!r} is not a plain name: the path could leave {folder}. Nothing is written.")
    return folder.joinpath(*names)


def set_aside(path: Path) -> Path:
    """Rename the damaged file ``path`` to ``<name>.damaged``, numbered if that exists, and return the new path.

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
        raise refusal(path, error) from error
    return aside


def is_lost(path: Path) -> bool:
    """Return whether the file ``path`` was set aside, and has not been made again since."""
    return not path.exists() and path.with_name(f"{path.name}.damaged").exists()


def read_json(path: Path) -> Any:
    """Return the plain values in ``path``; see :func:`parse_json`.

    Raises:
        DamagedFileError: it holds something else.
        BenchError: it is missing or cannot be read.
    """
    try:
        if _is_special(path):  # reading it might never end
            raise BenchError(f"cannot read {path}: it is a pipe or a device, not a file")
        return parse_json(path.read_bytes().decode())
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"cannot read {path}: {error}") from error


def _extreme(content: bytes) -> bool:
    """Return whether any number of a JSON text may have 19 digits before its point, or a positive exponent.

    It looks at the whole text in a few passes without looking at each number, which would take longer than reading it.
    """
    framed = b"," + content + b","
    integers = framed.translate(_DIGITS_ALIKE)
    exponents = framed.translate(_SIGNS_ALIKE, delete=b"0123456789.+ \t\n\r")
    return b"," + b"0" * 19 in integers or any(pattern in exponents for pattern in _BARE_EXPONENTS)


_DIGITS_ALIKE = bytes.maketrans(b"123456789 \t\n\r:[-", b"000000000,,,,,,,")
_SIGNS_ALIKE = bytes.maketrans(b"E:[", b"e,,")
_BARE_EXPONENTS = tuple(sign + b"e" + end for sign in (b",", b"-") for end in (b",", b"]", b"}"))


def parse_json(text: str) -> Any:
    """Return the plain values in ``text``: all numbers finite and of at most 64 bits, all text encodable as UTF-8.

    Raises:
        ValueError: it is something else.
        RecursionError: it is nested too deeply.
    """
    content = text.encode()
    with suppress(ValueError):  # the slower reader finds the same fault, and names the number
        values = from_json(content, allow_inf_nan=False)
        if not _extreme(content):
            return values
    values = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    if re.search(r"\\ud[89a-f]", text, re.IGNORECASE):
        json.dumps(values, ensure_ascii=False).encode()  # refuses lone surrogates
    return values


def _integer(text: str) -> int:
    if len(text) > len(str(-(2**64))) or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:20]}... of {len(text)} digits has more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def refusal(path: Path, error: OSError) -> BenchError:
    """Return the error for a failed write of ``path``: the reason, and what to do."""
    there = nearest_folder(path)
    if isinstance(error, FileExistsError | NotADirectoryError) and not there.is_dir():
        return UnwritableError(path, f"{'it' if there == path else there} is not a folder. Move it away")
    return UnwritableError(path, f"{error.strerror or error}. Free some space or make the folder writable")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # Without this a crash of the machine may undo the rename. Some network disks do not support the call.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stamp(file: Path | str | int) -> tuple[int, int]:
    """Return the size of ``file``, a path or an open file, and when it last changed: others once it has changed."""
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file ``path``."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
