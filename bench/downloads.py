"""Downloads that several processes may begin at once: one downloads, the others wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import warn


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Carry out this block, which downloads ``path`` unless it is there by then, in one process at a time.

    A hidden lock file stays beside it. Where none can be made, as on some network disks, nothing is locked.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warn(f"waiting for another process, which downloads {path}")
            lock.acquire()
    except (OSError, NotImplementedError):  # the download itself says whether the folder can be written
        pass
    try:
        yield
    finally:
        lock.release()
