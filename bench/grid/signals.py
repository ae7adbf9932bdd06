"""Signals that ask a worker to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set in this block, any number of them.

    Slurm sends SIGTERM before it takes the machine away, at a time limit or for a job of higher priority.
    """
    stop = Event()

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
