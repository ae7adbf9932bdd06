"""The machine: its devices and their names, CPU threads, and the load from other programs."""

import time
import warnings
from collections.abc import Callable

import psutil
import torch
from accelerate import PartialState

from bench.device.memory import keep_freed_memory
from bench.errors import BenchError
from bench.monitor import plural

_ENOUGH = 0.5
"""Of a core, for a measurement: with more, the times of several runs differ as much for other reasons."""


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called ``name`` ("cpu", "cuda", "cuda:1"); None: the best device of this process.

    From then on this process keeps freed memory on the CPU (see :func:`bench.device.memory.keep_freed_memory`), and
    fp32 means float32: no GPU rounds the inputs of convolutions and matrix products to TF32's 10 bits.

    Raises:
        BenchError: the device cannot be used here.
    """
    keep_freed_memory()
    with warnings.catch_warnings():
        # PyTorch 2.9 warns of these switches; later versions have kept them.
        warnings.filterwarnings("ignore", "Please use the new API settings")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if name is None:
        best = PartialState().device
        # Projections are computed in float64, which Apple's GPUs lack.
        return torch.device("cpu") if best.type == "mps" else torch.device(best)
    try:
        device = torch.device(name)
        torch.empty(1, device=device, dtype=torch.float64).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise BenchError(f"device {name!r} cannot be used here. Allowed: {', '.join(found)}.") from error
    return device


def device_name(device: torch.device) -> str:
    """Return the name of ``device`` for tables.

    That of a CPU includes the instructions which PyTorch computes with: with AVX2 the same processor rounds differently
    and takes another time than with AVX-512, and clouds call both by one name.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{_processor()}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def use_threads(count: int | None) -> None:
    """Set the number of CPU threads of this process; None: PyTorch's default.

    Raises:
        BenchError: more than eight per core, which is not faster on any machine and fails on many.
    """
    cores = psutil.cpu_count() or 1
    if count is not None and count > 8 * cores:
        raise BenchError(f"--threads {count} is too many for {plural(cores, 'core')}. Type --threads {cores} or fewer.")
    if count is not None:
        torch.set_num_threads(count)


def crowding(device: torch.device) -> str | None:
    """Return a warning if other programs keep the CPU busy that ``device`` computes on; None: they do not.

    The load is measured for 0.2 seconds, during which the caller must not compute.
    """
    threads, cores = torch.get_num_threads(), psutil.cpu_count() or 1
    if device.type != "cpu" or threads == 1:
        return None
    busy, free = busy_cores()
    if threads <= free:
        return None
    return (
        f"Other programs keep {busy:.1f} of {cores} CPU cores busy. A thread that waits for a core delays all others: "
        f"--threads {free} may be faster than {threads}."
    )


def starvation(device: torch.device) -> Callable[[], str | None]:
    """Return a function that warns if this process had too little of the CPU since this call; None: it had enough.

    What computes on a CPU without a pause takes at least one core, whatever the number of its threads. Beside a GPU a
    process may wait, so nothing is said.
    """
    began, spent = time.perf_counter(), time.process_time()

    def said() -> str | None:
        share = (time.process_time() - spent) / (time.perf_counter() - began)
        if device.type != "cpu" or share > _ENOUGH:
            return None
        return (
            f"This machine is busy: the measurement had {share:.2g} of a CPU core. On an idle one the times would be "
            f"up to {1 / share:.0f} times shorter."
        )

    return said


def busy_cores() -> tuple[float, int]:
    """Return how many CPU cores other programs keep busy, and how many are free, at least 1; takes 0.2 seconds."""
    cores = psutil.cpu_count() or 1
    busy = psutil.cpu_percent(interval=0.2) / 100 * cores
    return busy, max(1, round(cores - busy))


def _processor() -> str:
    instructions = torch.backends.cpu.get_cpu_capability()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "CPU"
    return name if instructions == "DEFAULT" else f"{name} ({instructions})"
