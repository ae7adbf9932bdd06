"""Whether a run can be kept where it is to be kept, asked before anything takes long and without leaving a trace."""

import fcntl
import shutil
from pathlib import Path

from bench.errors import BenchError, BusyRunError
from bench.files import check_writable, nearest_folder
from bench.run.encoder import plain_encoder
from bench.run.prepare import Run

_COPIES = 4
"""Encoders that a run keeps at once: the state of training with its momenta, the result, and a classifier's."""


def check_ready(run: Run, results_dir: Path) -> None:
    """Return if ``run`` could start now.

    Raises:
        BenchError: its folder or ``results_dir`` cannot be made or written, or the disk has no room.
        BusyRunError: another process works on it.
    """
    for folder in (run.folder.path, results_dir):
        check_writable(folder)
    _check_lock(run.folder.path)
    encoder = plain_encoder(run.recipe)
    needed = _COPIES * sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    free = shutil.disk_usage(nearest_folder(run.folder.path)).free
    if free < needed:
        raise BenchError(
            f"{run.folder.path} has {free / 2**20:.0f} MiB of disk left, and the run keeps about "
            f"{needed / 2**20:.0f} MiB there. Free some space, or choose another --runs-dir."
        )


def _check_lock(folder: Path) -> None:
    lock = folder / ".lock"
    if not lock.is_file():
        return
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyRunError(f"another process is working on this run ({folder}). Wait for it, or stop it.") from None
