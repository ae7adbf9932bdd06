"""Progress on the screen: a live bar with time left on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from bench.monitor import Monitor, Reporter

_LOG_EVERY_SECONDS = 30.0
_FIELDS: dict[str, JustifyMethod] = {"share": "right", "rate": "right", "detail": "left", "clock": "right"}


@contextmanager
def monitored(console: Console) -> Iterator[Monitor]:
    """Yield a monitor that shows progress on ``console`` and that Ctrl-C stops."""
    with reporting(console) as reporter:
        monitor = Monitor(reporter)
        with monitor.stopped_by_signals():
            yield monitor


@contextmanager
def reporting(console: Console) -> Iterator[Reporter]:
    """Yield the reporter that suits ``console``."""
    if not console.is_terminal:
        yield _Log(console)
        return
    # Percent rather than counts: fifty million of them would leave no room for the loss on 80 columns.
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
        *(
            TextColumn(f"{{task.fields[{field}]}}", justify=justify, markup=False, table_column=Column(no_wrap=True))
            for field, justify in _FIELDS.items()
        ),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield _Live(progress)


@contextmanager
def saying(begin: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done, at first ``begin``: in place on a terminal, elsewhere a line each.

    Yields a function to call with what is being done now.
    """
    console = Console(stderr=True)
    with console.status(Text(begin)) as status:

        def said(message: str) -> None:
            if console.is_terminal:
                status.update(Text(message))
            else:
                console.print(message, markup=False, highlight=False)

        if not console.is_terminal:
            said(begin)
        yield said


class _Phase:
    """The count and speed of the open phase."""

    def __init__(self, name: str, total: int, done: int, unit: str) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self.first, self.start = done, time.monotonic()
        self.detail = ""

    @property
    def seconds(self) -> float:
        """How long the phase has been open."""
        return time.monotonic() - self.start

    @property
    def speed(self) -> float | None:
        """Units a second, None while it is too early to tell."""
        done = self.done - self.first
        return done / self.seconds if done and self.seconds > 0.5 else None

    @property
    def share(self) -> str:
        return f"{self.done / self.total:.0%}" if self.total else ""

    @property
    def rate(self) -> str:
        return "" if self.speed is None else f"{self.speed:.{0 if self.speed >= 10 else 1}f} {self.unit}/s"

    @property
    def clock(self) -> str:
        """The time left."""
        if self.speed is None or self.done == self.total:
            return ""
        return f"{rough_time((self.total - self.done) / self.speed)} left"


class _Live:
    """Progress bars of rich; finished phases stay above the open one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._phase = _Phase("", 0, 0, "")

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Open a bar."""
        self.end()
        self._phase = _Phase(phase, total, done, unit)
        blank: dict[str, Any] = dict.fromkeys(_FIELDS, "")
        self._task = self._progress.add_task(phase, total=total, completed=done, **blank)

    def advance(self, amount: int, detail: str = "") -> None:
        """Move the bar."""
        phase = self._phase
        phase.done += amount
        phase.detail = detail or phase.detail
        if self._task is not None:
            fields: dict[str, Any] = {field: getattr(phase, field) for field in _FIELDS}
            self._progress.update(self._task, completed=phase.done, **fields)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Nothing: the bar's detail says enough."""

    def end(self) -> None:
        """Leave the bar as it stands, with the time it took."""
        if self._task is not None:
            self._progress.update(self._task, clock=rough_time(self._phase.seconds))
            self._progress.stop_task(self._task)
            self._task = None

    def note(self, message: str) -> None:
        """Print above the bars."""
        self._progress.console.print(message, markup=False, highlight=False)


class _Log:
    """One line when a phase begins and ends, and one every half minute between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase: _Phase | None = None
        self._last, self._said = 0.0, -1

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Print that a phase begins."""
        self.end()
        self._phase, self._last, self._said = _Phase(phase, total, done, unit), time.monotonic(), done
        self.note(f"{phase}: {done}/{total} {unit}")

    def advance(self, amount: int, detail: str = "") -> None:
        """Count, and print a line if the last one was printed long ago."""
        phase = self._phase
        assert phase is not None, "advance() outside a phase"
        phase.done += amount
        phase.detail = detail or phase.detail
        if time.monotonic() - self._last > _LOG_EVERY_SECONDS:
            self._line(phase)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Nothing: the line's detail says enough."""

    def end(self) -> None:
        """Print how the phase ended."""
        if self._phase is not None:
            if self._said != self._phase.done:
                self._line(self._phase)
            self._phase = None

    def note(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _line(self, phase: _Phase) -> None:
        self._last, self._said = time.monotonic(), phase.done
        facts = [f"{phase.name}: {phase.done}/{phase.total} {phase.unit}", phase.rate, phase.detail, phase.clock]
        self.note(", ".join(fact for fact in facts if fact))


def rough_time(seconds: float) -> str:
    """Return a time, rounded, in a suitable unit: "< 1 s", "45 s", "12 min", "3.5 h", "4.2 days"."""
    if seconds < 0.5:
        return "< 1 s"
    if round(seconds) < 100:
        return f"{seconds:.0f} s"
    if round(seconds / 60) < 100:
        return f"{seconds / 60:.0f} min"
    if round(seconds / 3600, 1) < 48:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
