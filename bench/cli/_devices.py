"""Commands that several devices carry out together, each in a process that runs the whole command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from bench.cli._streams import ReportedExit
from bench.errors import BenchError

Devices = Annotated[
    int | None,
    typer.Option(
        "--devices", metavar="N", min=1, help="GPUs, or without GPUs processes on the CPU, that work together."
    ),
]


@contextmanager
def together(devices: int | None, device: str | None, threads: int | None) -> Iterator[int | None]:
    """Carry out this block on so many ``devices``; None: on one, or as ``torchrun`` or ``accelerate launch`` says.

    Yields:
        the number of CPU threads that each computes with; None: it is open, and may be chosen by measurement.

    Raises:
        BenchError: this machine has fewer devices, or another number of processes was started.
    """
    import torch

    from bench.device import use_threads
    from bench.parallel import check_devices, joined, launch, started_together

    use_threads(threads)
    started = started_together()
    if devices is not None and started is None:
        check_devices(devices, device)
        if devices > 1:
            raise ReportedExit(launch(devices, _again))
    if devices is not None and started not in (None, devices):
        raise BenchError(f"--devices {devices}, but {started} processes were started. Leave out --devices.")
    with joined(device, threads):
        yield threads if started is None else torch.get_num_threads()


def screen() -> Console:
    """Return standard error, on which the first device alone prints."""
    from bench.parallel import is_first

    return Console(stderr=True, quiet=not is_first())


def _again() -> int:
    """Run this command again, in a process of its own, and return its exit code."""
    from bench.cli import main

    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
