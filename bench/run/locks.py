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
"""How often, and after what time, the name of a holder is looked for again that has just locked the file."""


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
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            busy(_holder(path))
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
    try:
        if path.is_file():
            with locked(path, refusing("at work")):
                pass
    except BusyRunError:
        return True
    except BenchError:
        pass
    return False


def _holder(path: Path) -> str:
    """Return a description of the process that holds the lock file ``path``, which writes its name after locking it."""
    for _ in range(_ATTEMPTS):
        with suppress(OSError, ValueError):
            number, host, *_ = path.read_text().split("\n")
            if number.isdecimal():
                return f"another process ({number} on {host})"
        time.sleep(_POLL_SECONDS)
    return "another process"
