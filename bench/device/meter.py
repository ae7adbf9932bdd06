"""Cost meters: time, memory, operations and energy of a phase, in the same units for every method."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.device.energy import EnergyMeter, energy_counters
from bench.device.memory import return_freed_memory


class Clock:
    """A stopwatch that also measures peak memory, and energy if the device reports it.

    Args:
        device: the device to measure; None: only time.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._meter = EnergyMeter([] if device is None else energy_counters(device))
        self._memory = None if device is None else PeakMemory(device)
        self._start = time.perf_counter()
        self._kept: tuple[float, float | None, int | None] | None = None

    def stop(self) -> None:
        """Keep what was measured so far: nothing after this counts, and another clock may measure memory."""
        self._kept = self.seconds, self.joules, self.peak_bytes

    def look(self) -> None:
        """Read the energy meter; call it regularly, because its counters wrap."""
        self._meter.look()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._kept[0] if self._kept else time.perf_counter() - self._start

    @property
    def joules(self) -> float | None:
        """Energy so far; None if the device does not report it."""
        return self._kept[1] if self._kept else self._meter.joules

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory so far; None if it is not measured."""
        if self._kept:
            return self._kept[2]
        return None if self._memory is None else self._memory.bytes


class PeakMemory:
    """Peak memory since this object was created; only one such object may measure at a time.

    CUDA: the memory of tensors. CPU on Linux: the resident memory of the whole process, from the kernel's high-water
    mark, which can be reset (``man 5 proc``, ``/proc/pid/clear_refs``). Elsewhere it is not measured.
    """

    def __init__(self, device: torch.device, process: Path = Path("/proc/self")) -> None:
        self._device, self._process = device, process
        self._counts = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif device.type == "cpu":
            return_freed_memory()
            try:
                (process / "clear_refs").write_text("5")
                self._counts = True
            except OSError:
                pass

    @property
    def bytes(self) -> int | None:
        """The peak so far; None if it cannot be measured."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        if not self._counts:
            return None
        status = (self._process / "status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.M)
        return int(found[1]) * 1024 if found else None


def count_flops(work: Callable[[], Any]) -> tuple[Any, int]:
    """Run ``work`` once and return its result and its number of floating-point operations."""
    with FlopCounter() as counter:
        result = work()
    return result, counter.total


class FlopCounter(TorchDispatchMode):
    """Counts the floating-point operations of a block by PyTorch's formulas, in ``total``.

    PyTorch's FlopCounterMode also adds autograd hooks to modules, which fail in the ``autograd.grad`` of an attack.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def timed(device: torch.device) -> Iterator[Clock]:
    """Yield a clock of ``device``, which is synchronised before the block and at its end, where the clock stops."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = Clock(device)
    yield clock
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock.stop()
