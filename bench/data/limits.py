"""How large data may be: checked from file headers, before memory is allocated."""

import os
from typing import Literal

from bench.device import available_memory
from bench.errors import BenchError
from bench.parallel import devices

DataIn = Literal["auto", "memory", "disk"]
"""Where images of one's own are kept during a run; auto: in memory if they fit."""

VARIABLE = "BENCH_MAX_DATA_GB"
"""The environment variable that raises the limit on one dataset's size in memory."""

_DEFAULT_GB = 32.0
_SHARE = 1 / 3
"""Of the available memory: what images may take. While they are read there are two copies for a moment."""
_RATIO = 200  # photographs compress by less than 20, drawings by less than 100; zeros by 1,000
_HARMLESS = 64 * 2**20  # bytes


def stay_on_disk(size: int, data_in: DataIn) -> bool:
    """Return whether images of ``size`` bytes in memory are to be decoded batch by batch."""
    if data_in == "auto":
        return size > min(_SHARE * available_memory() / devices(), _limit() * 1e9)
    return data_in == "disk"


def check_size(what: str, size: int) -> None:
    """Raise BenchError if ``what``, of ``size`` bytes in memory, is larger than the limit."""
    limit = _limit()
    if size > limit * 1e9:
        raise BenchError(
            f"{what} would take {size / 1e9:,.1f} GB of memory, the limit is {limit:g} GB. If that is right, raise it: "
            f"{VARIABLE}={-(-size // 10**9)}"
        )


def _limit() -> float:
    text = os.environ.get(VARIABLE, "")
    try:
        return float(text) if text else _DEFAULT_GB
    except ValueError:
        raise BenchError(
            f"{VARIABLE}={text!r} is not a number of gigabytes. Type, for example, {VARIABLE}=64"
        ) from None


def check_expansion(what: str, size: int, stored: int) -> None:
    """Raise BenchError if ``what``, ``stored`` bytes on disk, announces an implausible ``size`` in bytes."""
    if size > _HARMLESS and size > _RATIO * max(stored, 1):
        raise BenchError(
            f"{what} holds {stored / 1e3:,.0f} kB and would become {size / 1e6:,.0f} MB: images do not compress by "
            f"more than {_RATIO} times, so it is damaged, or was made to fill the memory. Make it again."
        )
