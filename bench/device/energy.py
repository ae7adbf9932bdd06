"""The energy meter: what a device says it has drawn, where it says so."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

RAPL = Path("/sys/class/powercap")
"""Where Linux shows the counters of the processor's packages."""


class Counter(NamedTuple):
    """A counter of energy that only ever grows, until it starts again from 0."""

    read: Callable[[], int]
    joules: float
    """What one unit of it is."""
    wraps_at: int | None = None
    """How many units it counts before it starts again; None: it never does."""


class EnergyMeter:
    """Adds up what counters say between two looks at them.

    A counter that wraps has to be looked at more than once in each of its rounds: :meth:`look` costs
    microseconds.

    Args:
        counters: of one device; none where it does not report its energy.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._joules: float | None = 0.0 if counters else None
        self._last = self._values()

    @property
    def joules(self) -> float | None:
        """What was drawn since the meter was made; None where the device does not say."""
        self.look()
        return self._joules

    def look(self) -> None:
        """Add what was drawn since the last look."""
        values = self._values()
        if values is None or self._last is None or self._joules is None:
            self._joules = None  # once a stretch is missing there is no total
            return
        for counter, now, before in zip(self._counters, values, self._last, strict=True):
            drawn = now - before if counter.wraps_at is None else (now - before) % counter.wraps_at
            self._joules += drawn * counter.joules
        self._last = values

    def _values(self) -> list[int] | None:
        try:
            return [counter.read() for counter in self._counters]
        except Exception:  # whatever a driver raises: without its word there is no number
            return None


def energy_counters(device: torch.device, rapl: Path = RAPL) -> list[Counter]:
    """Return the counters of ``device``: NVML's of a GPU (needs ``pynvml``), RAPL's of all CPU packages, or none.

    RAPL counts whole packages, whatever else runs on them, and most systems show it to root alone.
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
    # Of intel-rapl:0 and its parts intel-rapl:0:0, the whole alone; AMD's processors use the same names.
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
