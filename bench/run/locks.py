"""Locks between processes, which name who holds them."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from bench.errors import BenchError


@contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file ``path``, which the system lets go of however its holder ends.

    On a disk without locks the file itself is one, and that of a process which has ended is taken over.

    Args:
        path: made if need be.
        busy: called again and again while another process holds the lock, with who that is: it waits a little, or
            raises.

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
        if isinstance(lock, UnixFileLock):  # the other kind holds these lines already
            with suppress(OSError):  # a full disk
                path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Return who holds the lock file ``path``, as far as it says so."""
    try:
        number, host, *_ = path.read_text().split("\n")
    except (OSError, ValueError):
        return "another process"
    return f"another process ({number} on {host})" if number.isdecimal() else "another process"
