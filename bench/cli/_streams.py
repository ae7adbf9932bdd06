"""Standard output and error that never end a run: full disks, closed pipes, and screens that are not UTF-8."""

import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_PLAIN = {
    "–": "-",
    "—": "-",
    "…": "...",
    "±": "+/-",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "·": "-",
    "•": "-",
    "⚑": "!",
}


class ReportedExit(SystemExit):
    """Ends the command with the exit code of another process, which has said why."""


class Stream:
    """A text stream that keeps its first error in ``fault`` and discards all that follows."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="bench.plain")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.fault = self.fault or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


class Streams:
    """Both streams of a command."""

    def __init__(self, out: Stream | None, err: Stream | None) -> None:
        self._out, self._err = out, err
        self.work_is_kept = False

    def lost(self) -> str | None:
        """Flush; return the message for output that could not be printed, None where nothing is lost."""
        for stream in (self._out, self._err):
            if stream is not None:
                stream.flush()
        fault = self._out and self._out.fault
        if not fault or fault.errno == errno.EPIPE:  # `| head -1` has read all that it needs
            return None
        done = "The work is done and kept" if self.work_is_kept else "The output is lost"
        return f"cannot print to standard output: {fault.strerror}. {done}; the same command prints it again."


_CURRENT = [Streams(None, None)]


def work_is_kept() -> None:
    """Note that the results of this command are in files, so that a stream that fails now loses nothing."""
    _CURRENT[-1].work_is_kept = True


@contextmanager
def guarded() -> Iterator[Streams]:
    """Guard ``sys.stdout`` and ``sys.stderr`` in this block."""
    codecs.register_error("bench.plain", _plain)
    before = sys.stdout, sys.stderr
    out, err = (None if stream is None else Stream(stream) for stream in before)
    _CURRENT.append(Streams(out, err))
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield _CURRENT[-1]
    finally:
        sys.stdout, sys.stderr = before
        _CURRENT.pop()


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement for characters that an encoding lacks, and the position to continue at."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = ""
    for one in error.object[error.start : error.end]:
        known = _PLAIN.get(one) or unicodedata.normalize("NFKD", one).encode("ascii", "ignore").decode()
        shown += known or one.encode("ascii", "backslashreplace").decode()
    return shown, error.end
