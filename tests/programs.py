"""``bench`` in a process of its own, forked from the test: torch is imported already, which saves seconds each."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest
import torch

from bench.cli import main
from bench.code import code_digest
from bench.doctor import examine
from bench.method import METHODS
from bench.run import examination

DEADLINE = 300.0
"""Seconds that a program may take."""


class Ended(NamedTuple):
    """How a program ended: minus the signal that killed it, or its exit code."""

    code: int
    stdout: str
    stderr: str


@cache
def _prepare() -> None:
    """Do once what each program would do anew: import all that training needs, and read the code for its digest."""
    torch.optim.SGD([torch.zeros(1)])
    code_digest("bench.run", *{METHODS.get(name).__module__ for name in METHODS})


class Program:
    """``bench`` with ``arguments`` in ``folder``. Its evaluations end with the doctor's checks, as a user's do."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        _prepare()
        self._streams = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115 (open until it is read)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=self._run, args=(folder, arguments))
        self._process.start()

    def _run(self, folder: Path, arguments: tuple[str, ...]) -> None:
        os.chdir(folder)
        # A shell's background jobs ignore Ctrl-C, and so would what tests that run there start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(self._streams, start=1):
            os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.argv = ["bench", *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(examination, "examine", examine)  # tests leave it out
            main()

    def wait_for(self, event: Callable[[], bool]) -> None:
        """Wait until ``event()`` is true; fails if the program ends before."""
        end = time.monotonic() + DEADLINE
        while not event():
            if not self._process.is_alive() or time.monotonic() > end:
                self._process.kill()
                raise AssertionError(f"it did not happen: {self.end()}")
            time.sleep(0.002)

    def output(self) -> str:
        """Return what it has printed so far."""
        return os.pread(self._streams[0].fileno(), 2**20, 0).decode()

    def end(self, number: signal.Signals | None = None) -> Ended:
        """Send it the signal ``number``, if any, wait until it has ended, and return how."""
        assert self._process.pid is not None
        if number is not None:
            os.kill(self._process.pid, number)
        self._process.join(DEADLINE)
        code = self._process.exitcode
        assert code is not None, f"it did not end: {self.output()}"
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        return Ended(code, *texts)
