"""Signals that ask a worker to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an event that SIGINT, SIGTERM and SIGHUP set in this block, any number of them.

    A terminal that closes sends SIGHUP, except under nohup, where it stays ignored.
    Slurm sends SIGTERM before it takes the machine away, at a time limit or for a job of higher priority.
    """
    stop = Event()

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()

    handled = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    previous = {number: signal.signal(number, request) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
