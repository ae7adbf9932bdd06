"""Locks between processes; a lock file names the process that holds it."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from bench.errors import BenchError, BusyRunError


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
    try:
        if isinstance(lock, UnixFileLock):  # the other kind writes these lines itself
            with suppress(OSError):  # a full disk
                path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file ``path``; one that cannot be opened is free."""

    def refuse(holder: str) -> None:
        raise BusyRunError(holder)

    try:
        if path.is_file():
            with locked(path, refuse):
                pass
    except BusyRunError:
        return True
    except BenchError:
        pass
    return False


def _holder(path: Path) -> str:
    """Return a description of the process that holds the lock file ``path``."""
    try:
        number, host, *_ = path.read_text().split("\n")
    except (OSError, ValueError):
        return "another process"
    return f"another process ({number} on {host})" if number.isdecimal() else "another process"
