"""How the processes of a run are started, find each other, and end together."""

import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate import PartialState
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from bench.errors import BenchError
from bench.parallel.processes import is_first

_WAIT = timedelta(days=7)
"""How long a device waits for the others: the first may measure or cluster for hours. A process that ends is noticed
at once, by its closed connections and by what started it."""
_LAUNCHED = "BENCH_LAUNCHED"
"""Set for the processes that :func:`launch` starts: it reports what they cannot."""
_UNSAID = 76
"""The exit code of a process that :func:`launch` started and that lost its connection to another, which knows why:
sysexits.h's word for a fault in what two programs exchange. No command ends with it."""
_GRACE = 60.0
"""Seconds in which the other processes may end by themselves after one was lost."""


def started_together() -> int | None:
    """Return how many processes ``torchrun`` or ``accelerate launch`` started for this run; None: neither did."""
    return int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ and "RANK" in os.environ else None


def check_devices(count: int, device: str | None) -> None:
    """Raise BenchError unless this machine has ``count`` devices: GPUs; without any, or on "cpu", cores."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    most, kind = (gpus, "GPUs") if gpus else (psutil.cpu_count() or 1, "CPU cores")
    if not 1 <= count <= most:
        raise BenchError(f"--devices {count}: this machine has {most} {kind}. Type --devices 1 to --devices {most}.")
    if count > 1 and device not in (None, "cpu", "cuda"):
        raise BenchError(
            f"--device {device} names one device, but --devices {count} are asked for. Leave out --device, or choose "
            "GPUs with CUDA_VISIBLE_DEVICES."
        )


def launch(count: int, work: Callable[[], int]) -> int:
    """Run ``work`` in ``count`` new processes of this machine, which :func:`joined` brings together.

    A request to stop is passed on to all of them, once. If one is lost, the others end too.

    Returns:
        the exit code: what ``work`` returned in the first process.

    Raises:
        BenchError: a process ended without saying why, as one does that was killed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), _LAUNCHED: "1"}
    # A fork: the program is imported once. CUDA is not in use yet.
    context: Any = start_processes(_child, (count, address, work), nprocs=count, join=False, start_method="fork")
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    for number in previous:
        signal.signal(number, pass_on)
    try:
        while not context.join(timeout=1.0, grace_period=_GRACE):
            pass
    except ProcessExitedException as lost:
        if lost.exit_code == _UNSAID:
            raise BenchError(_lost("another process of this run ended")) from None
        if lost.exit_code > 0 and lost.error_index == 0:
            return int(lost.exit_code)  # the first process has said why
        how = f"signal {lost.signal_name}" if lost.signal_name else f"exit code {lost.exit_code}"
        raise BenchError(_lost(f"the process of device {lost.error_index} ended with {how}")) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _lost(what: str) -> str:
    return f"{what}, so the others were ended too. The same command continues from the state that was saved last."


def _child(rank: int, count: int, address: dict[str, str], work: Callable[[], int]) -> None:
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {**address, **{name: str(number) for name, number in numbers.items()}}
    sys.exit(work())


@contextmanager
def joined(device: str | None, threads: int | None) -> Iterator[None]:
    """Bring the processes of this run together for this block; all but the first are silent.

    Each has a GPU of its own, or its part of the CPU's cores.

    Raises:
        BenchError: fewer devices than processes; or, in the first process, another one was lost.
    """
    if (started_together() or 1) == 1:
        yield
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    check_devices(here, device)
    gpus = device != "cpu" and torch.cuda.is_available()
    PartialState(cpu=not gpus, backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_WAIT)
    if not gpus:  # Accelerate has set another number
        torch.set_num_threads(threads or max(1, (psutil.cpu_count() or 1) // here))
    if not is_first():
        warnings.simplefilter("ignore")
    try:
        yield
    except BenchError:
        if is_first():
            raise
        raise SystemExit(0) from None  # all devices found the same; the first one reports it
    except RuntimeError as error:
        if not _connection_lost(error):
            raise
        if is_first() and _LAUNCHED not in os.environ:
            raise BenchError(_lost("another process of this run ended")) from error
        raise SystemExit(_UNSAID) from None
    finally:
        dist.destroy_process_group()


def _connection_lost(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("Connection", "gloo", "NCCL"))
