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
    device: str

    @property
    def images_per_second(self) -> float | None:
        """Throughput, or None when no time was measured."""
        return self.images / self.seconds if self.seconds > 0 else None


class Clock:
    """A stopwatch that can start at what earlier, interrupted attempts took."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._start = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start


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
    """Yield a clock; the device's queue is drained before the block and at its end."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = Clock()
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
