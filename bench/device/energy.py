"""The energy meter: reads the energy counters of a device, if it has any."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

RAPL = Path("/sys/class/powercap")
"""The folder of the processor packages' counters on Linux."""


class Counter(NamedTuple):
    """A counter of energy that only grows, until it wraps to 0."""

    read: Callable[[], int]
    joules: float
    """Joules per unit of the counter."""
    wraps_at: int | None = None
    """The number of units at which it wraps; None: never."""


class EnergyMeter:
    """Adds up the energy between readings of the counters.

    A counter that wraps must be read more than once per wrap; :meth:`look` takes microseconds.

    Args:
        counters: of one device; empty if it does not report its energy.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._joules: float | None = 0.0 if counters else None
        self._last = self._values()

    @property
    def joules(self) -> float | None:
        """Energy since the meter was created; None if the device does not report it."""
        self.look()
        return self._joules

    def look(self) -> None:
        """Read the counters and add the energy since the last reading."""
        values = self._values()
        if values is None or self._last is None or self._joules is None:
            self._joules = None  # the total is unknown once a reading is missing
            return
        for counter, now, before in zip(self._counters, values, self._last, strict=True):
            drawn = now - before if counter.wraps_at is None else (now - before) % counter.wraps_at
            self._joules += drawn * counter.joules
        self._last = values

    def _values(self) -> list[int] | None:
        try:
            return [counter.read() for counter in self._counters]
        except Exception:  # drivers may raise anything; without a reading there is no value
            return None


def energy_counters(device: torch.device, rapl: Path = RAPL) -> list[Counter]:
    """Return the counters of ``device``: NVML for a GPU (needs ``pynvml``), RAPL for all CPU packages, or none.

    RAPL counts whole packages, including other programs, and on most systems only root can read it.
    """
    if device.type == "cuda":
        return _nvml(device)
    return _rapl(rapl) if device.type == "cpu" else []


def _nvml(device: torch.device) -> list[Counter]:
    with suppress(Exception):  # not installed, no driver, or a GPU older than the counter
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle: Any = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        counter = Counter(lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)), joules=1e-3)
        counter.read()
        return [counter]
    return []


def _rapl(folder: Path) -> list[Counter]:
    # Only whole packages (intel-rapl:0), not their parts (intel-rapl:0:0); AMD's processors use the same names.
    packages = sorted(folder.glob("intel-rapl:[0-9]*"))
    try:
        return [_package(path) for path in packages if path.name.count(":") == 1]
    except (OSError, ValueError):
        return []


def _package(path: Path) -> Counter:
    def read() -> int:
        return int((path / "energy_uj").read_text())

    read()
    return Counter(read, joules=1e-6, wraps_at=int((path / "max_energy_range_uj").read_text()))
