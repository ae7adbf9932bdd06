"""A grid: jobs in a folder, each one command of the bench, with what it needs and what it leaves."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field

from bench.errors import BenchError
from bench.files import inside, read_json, remove, write_bytes, write_json
from bench.own_code import changed_files
from bench.recipe import Settings

Resource = str | int | bool
_FILE = "grid.json"
_LOCK_SECONDS = 60.0
MAKE_ANEW = "Type the bench matrix command again"


class GridJob(Settings):
    """One command of the bench that a worker runs to its end."""

    name: str
    """Plain name of its folder; unique in the grid."""
    command: tuple[str, ...]
    """The arguments of ``bench``."""
    leaves: tuple[str, ...]
    """Absolute paths of the files that exist when it is finished."""
    needs: tuple[str, ...] = ()
    """Jobs that must be finished before it starts: shared stages."""
    method: str
    dataset: str
    code: dict[str, str] = {}
    """The files of the user's own code that it runs, absolute paths, with the digits of their digests."""
    memory: int | None = Field(default=None, ge=0)
    """Bytes on the device at its peak, estimated; None: not known."""
    resources: dict[str, Resource] = {}
    """What it asks Slurm for instead of, or beside, what every job of the grid does."""

    @property
    def finished(self) -> bool:
        """Whether everything that it leaves exists."""
        return not any(self.missing)

    @property
    def missing(self) -> Iterator[str]:
        """The paths of what it leaves that do not exist."""
        return (path for path in self.leaves if not Path(path).exists())

    @property
    def outdated(self) -> str:
        """Why it would not leave what the grid expects: its code has changed since; empty if it has not."""
        files = " and ".join(changed_files(self.code))
        return files and f"the code of {files} has changed since this grid was made. {MAKE_ANEW}."


class JobState(Settings):
    """What the worker of a job wrote last."""

    status: Literal["running", "stopped", "done", "failed"]
    failures: int = Field(default=0, ge=0)
    """How many attempts failed; an interruption is no failure."""
    host: str = ""
    slurm: str | None = None
    """Slurm's number of the job; None: it is not Slurm's."""
    began: datetime
    ended: datetime | None = None
    reason: str = ""
    """Of a failure: the exit code and the last lines of the log."""


class Grid(Settings):
    """The content of ``grid.json``."""

    asked: dict[str, Any]
    """The options that determine the jobs."""
    on: Literal["local", "slurm"] = "local"
    """Where the jobs run."""
    jobs: tuple[GridJob, ...]
    retries: int = Field(default=1, ge=0)
    """How often a job that failed is tried again."""
    folders: tuple[str, ...] = ()
    """Absolute paths of further folders that every node must see."""
    resources: dict[str, Resource] = {}
    """What each job asks Slurm for."""


@dataclass(frozen=True)
class GridFolder:
    """The folder of a grid."""

    path: Path
    grid: Grid

    @classmethod
    def open(cls, path: Path) -> "GridFolder":
        """Return the grid in ``path``; raises BenchError if there is none, or its file is damaged."""
        file = path / _FILE
        if not file.is_file():
            raise BenchError(
                f"there is no grid in {path}. `bench matrix --methods deacl --datasets digits --grid {path}` makes one."
            )
        return cls(path.absolute(), Grid.parse(read_json(file), str(file), from_file=True))

    @classmethod
    def planned(cls, path: Path, grid: Grid) -> "GridFolder":
        """Return ``grid`` as it would begin or continue in ``path``; nothing is written.

        Raises:
            BenchError: another grid has begun there.
        """
        if (path / _FILE).exists():
            there = cls.open(path)
            present = there.grid.asked
            differing = sorted(key for key in present | grid.asked if present.get(key) != grid.asked.get(key))
            if differing and there.begun:
                shown = "; ".join(
                    f"{_as_options(key, present.get(key))} there, {_as_options(key, grid.asked.get(key))} here"
                    for key in differing
                )
                raise BenchError(
                    f"{path} holds another grid, which has begun ({shown}). Type another folder with --grid, or the "
                    "options of that grid to continue it."
                )
        return cls(path.absolute(), grid)

    @classmethod
    def create(cls, path: Path, grid: Grid) -> "GridFolder":
        """Write ``grid`` to ``path``, or continue it if it is there already.

        Raises:
            BenchError: another grid has begun there, or the folder cannot be written.
        """
        folder = cls.planned(path, grid)
        write_json(folder.path / _FILE, grid.model_dump(mode="json"))
        return folder

    @property
    def begun(self) -> bool:
        """Whether any job was submitted or started."""
        return any(self.slurm.glob("*.json")) or any((self.path / "jobs").glob("*/state.json"))

    @property
    def slurm(self) -> Path:
        """The folder of what belongs to Slurm: scripts, their output, and a file a submission."""
        return self.path / "slurm"

    @cached_property
    def jobs(self) -> Mapping[str, GridJob]:
        """The jobs by name."""
        return {job.name: job for job in self.grid.jobs}

    def job(self, name: str) -> "JobFolder":
        """Return the folder of the job called ``name``."""
        return JobFolder.of(self.path, name)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the grid against another command that submits its jobs; raises BenchError if that takes a minute."""
        lock = FileLock(self.path / ".lock", timeout=_LOCK_SECONDS)
        try:
            with lock:
                yield
        except Timeout:
            raise BenchError(f"another command is submitting the jobs of {self.path}. Wait for it.") from None

    def failures(self) -> Iterator[str]:
        """Return the names of the jobs that failed."""
        return (name for name in self.jobs if self.job(name).failed)

    @property
    def cancelled(self) -> bool:
        """Whether the grid was cancelled; workers look here before and during a job."""
        return (self.path / "cancelled").exists()

    def cancel(self) -> None:
        """Let no further job start, and running ones stop."""
        write_bytes(self.path / "cancelled", b"")

    def resume(self) -> None:
        """Let jobs start again after :meth:`cancel`."""
        remove(self.path / "cancelled")


def _as_options(key: str, value: Any) -> str:
    """Return the ``value`` of ``key`` among what was asked as a user types it: ``--methods simclr,deacl``."""
    option = {"settings": "--set", "own_settings": "--set METHOD:", "options": "--run-option"}.get(
        key, f"--{key.replace('_', '-')}"
    )
    if not value:
        return f"no {option}"
    if key == "settings":
        words = value
    elif key == "own_settings":
        words = [f"{method}:{item}" for method, items in value.items() for item in items]
    elif key == "options":
        words = [word.replace(" ", "=", 1) for word in f" {' '.join(value)}".split(" --")[1:]]
    else:
        words = [",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join(shlex.join([option.removesuffix(" METHOD:"), word]) for word in words)


@dataclass(frozen=True)
class JobFolder:
    """The folder of a job: its state, log and progress."""

    path: Path

    @classmethod
    def of(cls, grid: Path, name: str) -> "JobFolder":
        """Return the folder of the job called ``name`` of the grid in the folder ``grid``."""
        return cls(inside(grid.absolute() / "jobs", name))

    @property
    def log(self) -> Path:
        """What the command printed, in all attempts."""
        return self.path / "log.txt"

    @property
    def progress(self) -> Path:
        """The progress of the command, which it writes itself; see :class:`bench.grid.ProgressFile`."""
        return self.path / "progress.json"

    @property
    def lock(self) -> Path:
        """Held by the worker and by its command."""
        return self.path / ".lock"

    @property
    def state(self) -> JobState | None:
        """What its worker wrote last; None: it has not begun, or the file is damaged, which a worker mends."""
        path = self.path / "state.json"
        try:
            return JobState.parse(read_json(path), str(path), from_file=True)
        except BenchError:
            return None

    @property
    def cancelled(self) -> bool:
        """Whether its grid was cancelled, as :attr:`GridFolder.cancelled`."""
        jobs = self.path.parent
        return jobs.name == "jobs" and (jobs.parent / "cancelled").exists()

    @property
    def failed(self) -> bool:
        """Whether the job failed for good."""
        return (state := self.state) is not None and state.status == "failed"

    def write(self, state: JobState) -> None:
        """Replace the state."""
        write_json(self.path / "state.json", state.model_dump(mode="json"))

    def forget(self) -> None:
        """Forget the state, as if the job had never begun; its log stays."""
        remove(self.path / "state.json")

    def last_lines(self, count: int = 5) -> str:
        """Return the last lines of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - 8192))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join([line for line in lines if line.strip()][-count:])


def now() -> datetime:
    """Return the time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
