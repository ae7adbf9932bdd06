"""Locks between processes: files that the system lets go of however their holder ends."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bench.errors import BenchError


@contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file ``path``.

    Args:
        path: made if need be, and never removed.
        busy: called again and again while another process holds the lock: it waits a little, or raises.

    Raises:
        BenchError: the file cannot be made or locked.
    """
    try:
        lock = path.open("a")
    except OSError as error:
        raise _unlockable(path, error) from error
    with lock:
        while not _taken(lock, path):
            busy()
        yield


def _taken(lock: TextIO, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _unlockable(path, error) from error
    return True


def _unlockable(path: Path, error: OSError) -> BenchError:
    return BenchError(f"cannot lock {path}: {error.strerror}. Make it writable, or choose another --runs-dir.")
