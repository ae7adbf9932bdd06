"""Sections in shares of one time limit: what fails and what does not fit is a row, never silence."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch

Outcome = Literal["done", "failed", "left out"]


class Finding(NamedTuple):
    """The result of a part."""

    text: str
    """For the table."""
    figures: Mapping[str, Any] = {}
    """For the JSON: numbers, by name."""


class Part(NamedTuple):
    """A measurement that can fail, or be left out, without the others."""

    name: str
    work: Callable[[float], Finding]
    """Given the seconds left for it."""


class Section(NamedTuple):
    """Parts with a common share of the time, the most important first."""

    name: str
    share: float
    """In units of the sum of all shares; what a section does not use is left to the following ones."""
    parts: Sequence[Part]


@dataclass(frozen=True)
class Row:
    """A line of the table: what became of a part."""

    section: str
    part: str
    outcome: Outcome
    text: str
    seconds: float
    """Of the part itself."""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


class TimeIsUpError(BaseException):
    """Raised in the middle of a part; not an Exception, so that no library takes it for a fault of its own."""


class LeftOutError(Exception):
    """Raised by a part that cannot be carried out here, with the reason."""


def rows(sections: Sequence[Section], seconds: float) -> Iterator[Row]:
    """Carry out all ``sections`` within ``seconds`` and yield a row for each of their parts."""
    end = time.perf_counter() + seconds
    for number, section in enumerate(sections):
        now = time.perf_counter()
        until = now + (end - now) * section.share / sum(later.share for later in sections[number:])
        for part in section.parts:
            yield _row(section.name, part, until - time.perf_counter())


def _row(section: str, part: Part, left: float) -> Row:
    start = time.perf_counter()

    def row(outcome: Outcome, finding: Finding) -> Row:
        return Row(section, part.name, outcome, finding.text, time.perf_counter() - start, finding.figures)

    if left <= 0:
        return row("left out", Finding("no time left"))
    try:
        with _limited(left):
            return row("done", part.work(left))
    except TimeIsUpError:
        return row("left out", Finding(f"not finished in the {left:.0f} s left for it"))
    except LeftOutError as reason:
        return row("left out", Finding(str(reason)))
    except Exception as error:  # whatever it is, the other parts are still of use
        traceback.print_exc(file=sys.stderr)
        return row("failed", Finding(f"{type(error).__name__}: {error}"))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeIsUpError in this block after ``seconds``."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
