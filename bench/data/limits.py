"""How large data may be: checked from file headers, before memory is allocated."""

import os

from bench.errors import BenchError

VARIABLE = "BENCH_MAX_DATA_GB"
"""The environment variable that raises the limit on one dataset's size in memory."""

_DEFAULT_GB = 32.0
_RATIO = 200  # photographs compress by less than 20, drawings by less than 100; zeros by 1,000
_HARMLESS = 64 * 2**20  # bytes


def check_size(what: str, size: int) -> None:
    """Raise BenchError if ``what``, of ``size`` bytes in memory, is larger than the limit."""
    text = os.environ.get(VARIABLE, "")
    try:
        limit = float(text) if text else _DEFAULT_GB
    except ValueError:
        raise BenchError(
            f"{VARIABLE}={text!r} is not a number of gigabytes. Type, for example, {VARIABLE}=64"
        ) from None
    if size > limit * 1e9:
        raise BenchError(
            f"{what} would take {size / 1e9:,.1f} GB of memory, the limit is {limit:g} GB. If that is right, raise it: "
            f"{VARIABLE}={-(-size // 10**9)}"
        )


def check_expansion(what: str, size: int, stored: int) -> None:
    """Raise BenchError if ``what``, ``stored`` bytes on disk, announces an implausible ``size`` in bytes."""
    if size > _HARMLESS and size > _RATIO * max(stored, 1):
        raise BenchError(
            f"{what} holds {stored / 1e3:,.0f} kB and would become {size / 1e6:,.0f} MB: images do not compress by "
            f"more than {_RATIO} times, so it is damaged, or was made to fill the memory. Make it again."
        )
