"""Progress on the screen: a live bar with time left on a terminal, a line now and then in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.reporting import Reporter

_LOG_EVERY_SECONDS = 30.0


@contextmanager
def reporting(console: Console) -> Iterator[Reporter]:
    """Yield the reporter that suits ``console``."""
    if not console.is_terminal:
        yield _Log(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, speed_estimate_period=60) as progress:
        yield _Live(progress)


class _Phase:
    """The count and speed of the open phase."""

    def __init__(self, name: str, total: int, done: int, unit: str) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self.first, self.start = done, time.monotonic()
        self.detail = ""

    @property
    def rate(self) -> str:
        seconds = time.monotonic() - self.start
        return f"{(self.done - self.first) / seconds:.0f} {self.unit}/s" if seconds > 0.5 else ""


class _Live:
    """Bars of rich's; finished phases stay above the open one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._phase = _Phase("", 0, 0, "")

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Open a bar."""
        self.end()
        self._phase = _Phase(phase, total, done, unit)
        self._task = self._progress.add_task(phase, total=total, completed=done, rate="", detail="")

    def advance(self, amount: int, detail: str = "") -> None:
        """Move the bar."""
        phase = self._phase
        phase.done += amount
        phase.detail = detail or phase.detail
        if self._task is not None:
            self._progress.update(self._task, completed=phase.done, rate=phase.rate, detail=phase.detail)

    def end(self) -> None:
        """Leave the bar as it stands."""
        if self._task is not None:
            self._progress.stop_task(self._task)
            self._task = None

    def note(self, message: str) -> None:
        """Print above the bars."""
        self._progress.console.print(message, highlight=False)


class _Log:
    """One line when a phase begins and ends, and one every half minute between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase: _Phase | None = None
        self._last = 0.0

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Say that a phase begins."""
        self.end()
        self._phase, self._last = _Phase(phase, total, done, unit), time.monotonic()
        self.note(f"{phase}: {done}/{total} {unit}")

    def advance(self, amount: int, detail: str = "") -> None:
        """Count, and speak if it has been quiet for long."""
        phase = self._phase
        assert phase is not None, "advance() outside a phase"
        phase.done += amount
        phase.detail = detail or phase.detail
        if time.monotonic() - self._last > _LOG_EVERY_SECONDS:
            self._line(phase)

    def end(self) -> None:
        """Say how the phase ended."""
        if self._phase is not None:
            self._line(self._phase)
            self._phase = None

    def note(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, highlight=False, soft_wrap=True)

    def _line(self, phase: _Phase) -> None:
        self._last = time.monotonic()
        facts = [f"{phase.name}: {phase.done}/{phase.total} {phase.unit}", phase.rate, phase.detail]
        self.note(", ".join(fact for fact in facts if fact))
