"""Memory on a CPU: how much is available, and that of tensors, kept between steps and returned between phases.

If it is not kept, glibc returns a step's memory to the system as the step frees it, and the next step gets it back page
by page. That took a fifth of the time of an attack step of a ResNet-18 of width 16, batches of 128 (AMD EPYC).
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_SIZES = (2**30, 2**25)
"""Allocations below this are kept; older versions of glibc accept no more than the second."""


@cache
def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors, where the C library is glibc; only the speed changes."""
    mallopt = _of_glibc("mallopt")
    if mallopt:
        any(mallopt(_MMAP_THRESHOLD, size) for size in _SIZES)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return memory that was kept to the system, so that it does not count as memory in use."""
    trim = _of_glibc("malloc_trim")
    if trim:
        trim(0)


@cache
def _of_glibc(function: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


def available_memory() -> int:
    """Return the bytes that this process may still take: of the machine, or of its control group where that has less.

    Memory of a group that only caches files counts as available.
    """
    machine: int = psutil.virtual_memory().available
    return max(0, min([machine, *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """Yield the bytes left to each control group (version 2, or 1) that this process is in and that has a limit."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _GROUPS / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                with suppress(OSError, ValueError):  # a group without a limit says "max", or is not visible from here
                    limit, used = (int((folder / name).read_text()) for name in names)
                    yield limit - used + _cached_files(folder)


def _cached_files(folder: Path) -> int:
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
