"""The cost meter: what a phase of a run took, in the same units for every method."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.recipe import Settings
from bench.train.energy import EnergyMeter, energy_counters


class Cost(Settings):
    """Time and work of one phase; a number that was not measured is absent."""

    seconds: float = Field(ge=0)
    """Wall-clock of the work itself, added up over interruptions."""
    images: int = Field(ge=0)
    """Dataset images processed, each counted once an epoch however many views it had."""
    flops_per_image: float | None = None
    """Floating-point operations (two a multiply-add) of one training step, divided by its images."""
    peak_memory_bytes: int | None = None
    """Of the device where it reports that, of the whole process otherwise."""
    energy_joules: float | None = None
    """Where the device reports it, added up over interruptions; absent once any part of it was not measured."""
    device: str

    @property
    def images_per_second(self) -> float | None:
        """Throughput, or None when no time was measured."""
        return self.images / self.seconds if self.seconds > 0 else None

    def plus(self, clock: "Clock") -> "Cost":
        """Return this cost with the time and energy of ``clock`` added."""
        energy = None
        if self.energy_joules is not None and clock.joules is not None:
            energy = self.energy_joules + clock.joules
        return self.model_copy(update={"seconds": self.seconds + clock.seconds, "energy_joules": energy})


class Clock:
    """A stopwatch, with an energy meter beside it where a device is given that has one."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._meter = EnergyMeter([] if device is None else energy_counters(device))
        self._start = time.perf_counter()

    def look(self) -> None:
        """Look at the energy meter, which must happen now and then."""
        self._meter.look()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    @property
    def joules(self) -> float | None:
        """Energy so far; None where the device does not report it."""
        return self._meter.joules


def device_name(device: torch.device) -> str:
    """Return what a reader of a table would call ``device``."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{_processor()}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the CUDA device, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def count_flops(work: Callable[[], Any]) -> tuple[Any, int]:
    """Run ``work`` once and return its result and the floating-point operations that it took."""
    with _FlopCounter() as counter:
        result = work()
    return result, counter.total


class _FlopCounter(TorchDispatchMode):
    """Adds up PyTorch's own formulas.

    Its FlopCounterMode also follows modules with autograd hooks, which refuse the ``autograd.grad`` of an attack.
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
    """Yield a clock of ``device``, whose queue is drained before the block and at its end."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = Clock(device)
    yield clock
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return "CPU"
