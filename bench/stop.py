"""Stopping on request: SIGINT and SIGTERM become a question that long loops ask at safe points."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bench.errors import InterruptedRunError


class Stop:
    """Whether someone asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise InterruptedRunError if a stop was requested. Call where nothing would be lost."""
        if self.requested:
            raise InterruptedRunError("interrupted; the run's state is saved. The same command continues it.")


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield a Stop that the first SIGINT or SIGTERM sets; a second one ends the process at once."""
    stop = Stop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
