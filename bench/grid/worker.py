"""The worker: runs the command of one job, stops it on a signal, tries again after a failure, and writes its state."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Literal

from filelock import FileLock, Timeout

from bench.errors import BenchError, BusyRunError, CheckFailedError, InterruptedRunError
from bench.files import make_writable
from bench.grid.grid import MAKE_ANEW, GridFolder, GridJob, JobFolder, JobState, now

Outcome = Literal["done", "stopped", "failed", "busy"]
Launch = Callable[[Sequence[str], JobFolder, Mapping[str, str], Callable[[], bool]], int]
"""Runs a command of the bench: its arguments, the job's folder, additions to the environment, and whether to stop;
returns the exit code."""

_POLL_SECONDS = 0.2
_BUSY_SECONDS = 30.0
"""Between two looks at a run on which another command works."""


def work(
    folder: GridFolder,
    name: str,
    stop: Event,
    *,
    environment: Mapping[str, str] | None = None,
    launch: Launch | None = None,
    starts: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run the job called ``name`` to its end, unless it is finished or another worker has it.

    Args:
        stop: when it is set, the command is asked to stop; it saves its state, and continues when it is run again.
        environment: additions to the environment of the command.
        launch: runs the command; None: as a process.
        starts: called once the job is this worker's and its command is about to be run.

    Raises:
        BenchError: no such job, or jobs that it needs are not finished.
    """
    job = _known(folder, name)
    own = folder.job(name)
    make_writable(own.path)
    lock = FileLock(own.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return "busy"
    try:
        return _attempts(folder, job, stop, environment or {}, launch or partial(_run_process, held=lock), starts)
    finally:
        lock.release()


def _known(folder: GridFolder, name: str) -> GridJob:
    job = folder.jobs.get(name)
    if job is None:
        raise BenchError(f"{folder.path} has no job {name!r}. `bench matrix status {folder.path} --all` lists them.")
    missing = [need for need in job.needs if not folder.jobs[need].finished]
    if missing:
        raise BenchError(
            f"{name} needs {missing[0]}, which is not finished. Type bench matrix work {folder.path} {missing[0]}"
        )
    return job


def _attempts(
    folder: GridFolder,
    job: GridJob,
    stop: Event,
    environment: Mapping[str, str],
    launch: Launch,
    starts: Callable[[], None],
) -> Outcome:
    own = folder.job(job.name)
    before = own.state
    if job.finished and (before is None or before.status == "done"):
        return "done"
    failures = before.failures if before and before.status != "failed" else 0
    began = now()

    def write(status: Literal["running", "stopped", "done", "failed"], reason: str = "") -> None:
        ended = None if status == "running" else now()
        slurm, host = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURMD_NODENAME", platform.node())
        own.write(
            JobState(status=status, failures=failures, host=host, slurm=slurm, began=began, ended=ended, reason=reason)
        )

    def stopping() -> bool:
        return stop.is_set() or folder.cancelled

    if not stopping():
        starts()
    while True:
        if stopping():
            write("stopped")
            return "stopped"
        if why := job.outdated:
            write("failed", why)
            return "failed"
        write("running")
        code = launch(job.command, own, environment, stopping)
        # A record whose evaluation failed a check is finished, and says so; another attempt would find the same.
        if code in (0, CheckFailedError.exit_code) and job.finished:
            write("done")
            return "done"
        if stopping() or code == InterruptedRunError.exit_code:
            write("stopped")
            return "stopped"
        if code == BusyRunError.exit_code:  # such as one that a user typed
            _wait(_BUSY_SECONDS, stopping)
            continue
        failures += 1
        if failures > folder.grid.retries:
            why = f"exit code {code}" + ("" if code else f", without {next(job.missing)}")
            advice = "" if code else f"Its data may have changed since this grid was made. {MAKE_ANEW}.\n"
            write("failed", f"{why}, attempt {failures}\n{advice}{own.last_lines()}")
            return "failed"


def _wait(seconds: float, stopping: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stopping():
        time.sleep(_POLL_SECONDS)


def program() -> list[str]:
    """Return the words that start ``bench`` in the environment of this process, from any folder."""
    beside = Path(sys.executable).with_name("bench")
    return [str(beside)] if beside.exists() else [sys.executable, "-P", "-m", "bench"]


def _run_process(
    command: Sequence[str],
    own: JobFolder,
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
    *,
    held: FileLock,
) -> int:
    """Run ``bench`` with ``command`` in a session of its own, so that a Ctrl-C reaches it through the worker alone.

    It inherits the lock ``held``, so that the job counts as running as long as it does, even if the worker is killed.
    """
    lock = held._context.lock_file_fd
    with own.log.open("ab") as log:
        process = subprocess.Popen(
            [*program(), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
        asked = False
        try:
            while (code := process.poll()) is None:
                if stopping() and not asked:
                    process.send_signal(signal.SIGTERM)
                    asked = True
                time.sleep(_POLL_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                if process.poll() is None:  # this worker itself is ending
                    process.send_signal(signal.SIGTERM)
    return code
