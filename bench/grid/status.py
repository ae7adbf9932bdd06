"""The status of a grid's jobs, from their files and Slurm's queue."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from bench.errors import BenchError
from bench.files import read_json
from bench.grid.grid import GridFolder, GridJob, JobFolder, JobState
from bench.grid.progress import Progress
from bench.grid.slurm import Queued, in_queue, submissions
from bench.recipe import Settings

Status = Literal["waiting", "queued", "running", "stopped", "done", "failed", "cancelled"]

_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED")
"""Slurm's words for a job that has a node."""


class JobStatus(Settings):
    """A line of ``bench matrix status``."""

    name: str
    method: str
    dataset: str
    status: Status
    progress: Progress | None = None
    """Of the open phase, while it runs."""
    began: datetime | None = None
    ended: datetime | None = None
    failures: int = 0
    number: str | None = None
    """Slurm's number of the job, while it is in the queue."""
    reason: str = ""
    """Why it failed, or why it still waits in the queue."""
    log: str = ""
    """The path of its log."""


def grid_status(folder: GridFolder) -> list[JobStatus]:
    """Return the status of every job, in the grid's order.

    Raises:
        BenchError: Slurm, which has some of the jobs, does not answer.
    """
    queue = in_queue(folder)
    submitted = {name for _, names in submissions(folder) for name in names}
    cancelled = folder.cancelled
    return [_status(folder, job, queue.get(job.name), job.name in submitted, cancelled) for job in folder.grid.jobs]


def to_start(folder: GridFolder, statuses: Sequence[JobStatus], *, again: bool = False) -> list[GridJob]:
    """Return the jobs that nobody works on and that are not finished; those that failed only with ``again``."""
    wanted = {"waiting", "stopped", "cancelled", *(["failed"] if again else [])}
    return [folder.jobs[each.name] for each in statuses if each.status in wanted]


def _status(folder: GridFolder, job: GridJob, queued: Queued | None, submitted: bool, cancelled: bool) -> JobStatus:
    own = folder.job(job.name)
    state = own.state
    status, reason = _judge(job, own, state, queued, submitted, cancelled)
    if status == "failed" and state is None:
        lost = [need for need in job.needs if folder.job(need).failed]
        reason = f"{lost[0]}, which it needs, failed" if lost else reason
    return JobStatus(
        name=job.name,
        method=job.method,
        dataset=job.dataset,
        status=status,
        progress=_progress(own.progress) if status == "running" else None,
        began=state.began if state else None,
        ended=state.ended if state else None,
        failures=state.failures if state else 0,
        number=queued.number if queued else None,
        reason=reason,
        log=str(own.log) if state else "",
    )


def _judge(
    job: GridJob, own: JobFolder, state: JobState | None, queued: Queued | None, submitted: bool, cancelled: bool
) -> tuple[Status, str]:
    """Return the status and its reason."""
    if job.finished and (state is None or state.status == "done"):
        return "done", ""
    if queued and (queued.state not in _RUNNING or (state and state.status == "stopped")):
        return "queued", queued.reason
    if state is None:
        if queued:
            return "running", ""
        if cancelled:
            return "cancelled", ""
        if not submitted:
            return "waiting", ""
        return "failed", (
            "it left Slurm's queue before it began. Cancelled by hand? If not, its node does not see this folder: "
            "choose a --grid on a disk that all nodes share"
        )
    if state.status == "done":
        return "waiting", "its files are gone"
    if state.status == "running":
        if queued or (state.slurm is None and _held(own)):
            return "running", ""
        if job.finished:  # by its command, after the worker was killed
            return "done", ""
        if cancelled:
            return "cancelled", ""
        return "failed", f"its worker ended on {state.host} without a word\n{own.last_lines()}"
    if state.status == "stopped" and cancelled:
        return "cancelled", ""
    return state.status, state.reason


def _held(own: JobFolder) -> bool:
    """Return whether a worker, or the command of one that was killed, holds the lock."""
    lock = FileLock(own.lock, timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True


def _progress(path: Path) -> Progress | None:
    try:
        return Progress.parse(read_json(path), str(path), from_file=True)
    except BenchError:
        return None
