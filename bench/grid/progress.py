"""The progress of a command as a file, which others may read while it runs."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import Field

from bench.files import write_json
from bench.grid.grid import JobFolder, now
from bench.recipe import Settings

_WRITE_EVERY_SECONDS = 5.0


class Progress(Settings):
    """The progress of the open phase, or of the last one."""

    run: str = ""
    """The name of the run's folder."""
    finished: bool = False
    """Whether all of the run is done."""
    phase: str
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    unit: str
    seconds_left: float | None = Field(default=None, ge=0)
    """Of the phase, by its speed so far; None: too early to tell."""
    written: datetime


class ProgressFile:
    """A reporter that writes the :class:`Progress` of ``run`` to the file ``path``.

    It writes at the beginning and the end of a phase, and at most every five seconds within.
    """

    stop = False
    """Whether the grid of the command was cancelled; the command's own worker may have been killed."""

    def __init__(self, path: str, run: str) -> None:
        self._path, self._run, self._finished = Path(path), run, False
        self._phase, self._total, self._unit, self._done, self._first = "", 0, "", 0, 0
        self._start = self._written = 0.0

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Write that a phase begins."""
        self._phase, self._total, self._unit, self._done, self._first = phase, total, unit, done, done
        self._start = time.monotonic()
        self._write()

    def advance(self, amount: int, detail: str = "") -> None:
        """Count, and write if the last time is long ago."""
        self._done += amount
        if time.monotonic() - self._written > _WRITE_EVERY_SECONDS:
            self._write()

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Nothing: the file holds counts."""

    def end(self) -> None:
        """Write how far the phase came."""
        self._write()

    def note(self, message: str) -> None:
        """Nothing: the log has it."""

    def finish(self) -> None:
        """Write that the run is finished."""
        self._finished = True
        self._write()

    def close(self) -> None:
        """Nothing is open."""

    def _write(self) -> None:
        self._written = time.monotonic()
        done, seconds = self._done - self._first, self._written - self._start
        left = seconds / done * max(0, self._total - self._done) if done else None
        found = Progress(
            run=self._run,
            finished=self._finished,
            phase=self._phase,
            done=self._done,
            total=self._total,
            unit=self._unit,
            seconds_left=left,
            written=now(),
        )
        self.stop = JobFolder(self._path.parent).cancelled
        write_json(self._path, found.model_dump(mode="json"))
