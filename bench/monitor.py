"""Progress of long work, requests to stop it, and plurals."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from bench.errors import InterruptedRunError

_ONE_REQUEST_SECONDS = 1.0


class Reporter(Protocol):
    """Receives the events of one phase at a time: a screen, a log, or a tracker of experiments."""

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Open ``phase`` of ``total`` units, ``done`` of which were finished before (a resumed run)."""

    def advance(self, amount: int, detail: str = "") -> None:
        """Count ``amount`` more units of the open phase, and show ``detail`` ("epoch 3/20, loss 1.2")."""

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Receive the values, by name, that the open phase measured in ``epoch``, counted from 1."""

    def end(self) -> None:
        """Close the open phase."""

    def note(self, message: str) -> None:
        """Show a message that stays on the screen."""


class Monitor:
    """Passes every event on to ``reporters`` and keeps whether a stop was requested."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters
        self._under = ""
        self.stop_requested = False

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """See :meth:`Reporter.begin`."""
        for reporter in self._reporters:
            reporter.begin(f"{self._under}{phase}", total, done=done, unit=unit)

    def advance(self, amount: int, detail: str = "") -> None:
        """See :meth:`Reporter.advance`."""
        for reporter in self._reporters:
            reporter.advance(amount, detail)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See :meth:`Reporter.scalars`."""
        for reporter in self._reporters:
            reporter.scalars(values, epoch)

    def end(self) -> None:
        """See :meth:`Reporter.end`."""
        for reporter in self._reporters:
            reporter.end()

    def note(self, message: str) -> None:
        """See :meth:`Reporter.note`."""
        for reporter in self._reporters:
            reporter.note(message)

    @contextmanager
    def under(self, name: str) -> Iterator[None]:
        """Begin the names of the phases of this block with ``name``."""
        self._under = f"{name}: "
        try:
            yield
        finally:
            self._under = ""

    @contextmanager
    def heard_by(self, reporter: Reporter) -> Iterator[None]:
        """Pass the events of this block on to ``reporter`` too."""
        before = self._reporters
        self._reporters = (*before, reporter)
        try:
            yield
        finally:
            self._reporters = before

    def check(self) -> None:
        """Raise InterruptedRunError if a stop was requested. Call it where no work would be lost."""
        if self.stop_requested:
            raise InterruptedRunError("interrupted; what is finished is saved. The same command continues from there.")

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Make the first SIGINT or SIGTERM in this block request a stop; a later one ends the process at once.

        Signals within a second are one request: a scheduler signals every process of a job, and a launcher passes the
        signal that it received on.
        """
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        requested: float | None = None

        def request(number: int, frame: FrameType | None) -> None:
            nonlocal requested
            now = time.monotonic()
            if requested is not None and now - requested > _ONE_REQUEST_SECONDS:
                for each, handler in previous.items():
                    signal.signal(each, handler)
                signal.raise_signal(number)
            requested = requested or now
            self.stop_requested = True

        for number in previous:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def plural(number: int, noun: str) -> str:
    """Return "1 epoch", "2 epochs", "3 batches"."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "sh", "tch", "x")) else "s"
    return f"{number} {noun}{ending}"
