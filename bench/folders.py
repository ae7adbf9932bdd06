"""Folders that appear or are replaced as a whole, and only if the bench made all files in them."""

import ctypes
import fcntl
import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.errors import BenchError, warn
from bench.files import UNFINISHED, nearest_folder, refusal

_CONTENTS = "CONTENTS"
"""In a generated folder: a list of its files, one per line. Other files are never replaced."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Arguments of Linux's renameat2."""


@contextmanager
def replaced_folder(path: Path, what: str) -> Iterator[Path]:
    """Yield an empty folder that replaces ``path`` after the block has filled it.

    Until then, and if the block fails, ``path`` is unchanged; no reader sees it half-filled. Another call for a folder
    beside it waits.

    Args:
        path: a folder that this function made before, an empty folder, or a path that does not exist yet.
        what: what the folder is, for the message ("a site").

    Raises:
        BenchError: ``path`` holds other files, or cannot be written.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(path.parent):
            _check_generated(path, what)
            with _filled(path) as unfinished:
                yield unfinished
    except OSError as error:
        raise refusal(path, error) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock ``folder`` itself, so that no file of a lock is left; the system ends the lock with this process."""
    number = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks do not support locks
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                warn(f"waiting for another process, which has locked {folder}")
                fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextmanager
def _filled(path: Path) -> Iterator[Path]:
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        _recover(path, unfinished)
        unfinished.mkdir()
        yield unfinished
        (unfinished / _CONTENTS).write_text("\n".join([*_files(unfinished), ""]), "utf-8")
        if not _exchanged(unfinished, path):
            if path.exists():
                path.rename(_old(unfinished))
            unfinished.rename(path)
    finally:
        with suppress(OSError):
            _recover(path, unfinished)


def check_new(path: Path) -> None:
    """Raise BenchError if ``path`` is a file, or a folder that is not empty."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        what = "is a file" if path.is_file() else "is not empty"
        raise BenchError(f"{path.absolute()} {what}, and stays as it is. Delete it, or name another folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` after the block has filled it; if the block fails, nothing is left.

    What a killed process left of an earlier call for ``path`` is deleted.

    Raises:
        BenchError: ``path`` is a file or a folder that is not empty, or cannot be written.
    """
    path = path.absolute()
    check_new(path)
    try:
        nearest, prefix = nearest_folder(path.parent), f".{path.name}."
        _remove_abandoned(nearest.glob(f"{glob.escape(prefix)}*{UNFINISHED}"))
        with TemporaryDirectory(dir=nearest, prefix=prefix, suffix=UNFINISHED) as parent, _alone_in(Path(parent)):
            unfinished = Path(parent) / path.name
            unfinished.mkdir()
            yield unfinished
            path.parent.mkdir(parents=True, exist_ok=True)
            check_new(path)  # another process may have made it meanwhile
            unfinished.rename(path)
    except OSError as error:
        raise refusal(path, error) from error


def _remove_abandoned(folders: Iterable[Path]) -> None:
    """Delete those of ``folders`` that no running process has locked."""
    for folder in folders:
        with suppress(OSError):
            number = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(number)


def _old(unfinished: Path) -> Path:
    """Return the path of the former folder while it is being replaced."""
    return unfinished.with_name(f"{unfinished.name}.old")


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two folders in one step; False, and nothing done, if the system cannot do it or one is missing.

    With two steps, a process killed between them would leave no folder of that name.
    """
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return done == 0


def _recover(path: Path, unfinished: Path) -> None:
    """Delete what a killed process left, and restore ``path`` if it was killed between two steps."""
    if _old(unfinished).exists() and not path.exists():
        _old(unfinished).rename(path)
    for left_behind in (unfinished, _old(unfinished)):
        if left_behind.exists():
            shutil.rmtree(left_behind)


def _check_generated(path: Path, what: str) -> None:
    """Raise BenchError if ``path`` holds files that :func:`replaced_folder` did not write."""
    if not path.exists():
        return
    try:
        listed = (path / _CONTENTS).read_text("utf-8").splitlines() if (path / _CONTENTS).is_file() else []
        foreign = sorted({*_files(path)} - {*listed, _CONTENTS})
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}. Choose another folder with --output.") from None
    if foreign or not path.is_dir():
        found = f"holds {foreign[0]}" if foreign else "is a file"
        raise BenchError(f"{path} {found}, which is not from {what} made here, so it stays. Choose another --output.")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
