"""Locks between processes; a lock file names the process that holds it."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from bench.errors import BenchError, BusyRunError

_ATTEMPTS, _POLL_SECONDS = 20, 0.05
"""How often, and after what time, a file is tried again that is locked without a name in it: its holder has just locked
it, or only asks whether it is held."""


@contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file ``path``; the system releases it when its holder ends, even after a crash.

    On a disk without locks, the existence of the file is the lock; that of a process which has ended is taken over.

    Args:
        path: created if necessary.
        busy: called repeatedly while another process holds the lock, with a description of that process; it waits a
            little, or raises.

    Raises:
        BenchError: the file cannot be made or locked.
    """
    lock = FileLock(path, timeout=0)
    attempts = 0
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            holder, attempts = _holder(path), attempts + 1
            if holder or attempts > _ATTEMPTS:
                busy(holder or "another process")
            else:
                time.sleep(_POLL_SECONDS)
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BenchError(
                f"cannot lock {path}: {reason}. Make it writable, or choose another --runs-dir."
            ) from error
    native = isinstance(lock, UnixFileLock)  # the other kind writes these lines itself, and deletes the file
    try:
        if native:
            with suppress(OSError):  # a full disk
                path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        if native:
            with suppress(OSError):
                os.truncate(path, 0)  # the next holder must not be taken for this one before it has written its name
        lock.release()


def refusing(doing: str) -> Callable[[str], None]:
    """Return what :func:`locked` calls to refuse: a BusyRunError that names the holder and what it is ``doing``."""

    def refuse(holder: str) -> None:
        raise BusyRunError(f"{holder} is {doing}. Wait for it, or stop it.")

    return refuse


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file ``path``; one that cannot be opened is free."""
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _holder(path: Path) -> str | None:
    """Return a description of the process that holds the lock file ``path``; None: it has not written its name."""
    with suppress(OSError, ValueError):
        number, host, *_ = path.read_text().split("\n")
        if number.isdecimal():
            return f"another process ({number} on {host})"
    return None
