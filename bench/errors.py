"""What can go wrong, sorted by who has to act. The command line maps each class to an exit code."""

from collections.abc import Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """A mistake the user can mend: printed as one message without a traceback, exit code 1.

    The message says what was wrong with its value, what is allowed, and what to type.
    """

    exit_code = 1


class DamagedFileError(BenchError):
    """A file of the bench's own cannot be read back as it was written: cut short, or one of its bits has changed."""


class BusyRunError(BenchError):
    """Another process works on the run."""


class CheckFailedError(BenchError):
    """A check the user asked for did not hold (a stale leaderboard, say): exit code 3."""

    exit_code = 3


class InterruptedRunError(BenchError):
    """The user or the system stopped the run; its state is saved: exit code 130."""

    exit_code = 130


def unknown(kind: str, name: str, allowed: Iterable[str], hint: str = "") -> BenchError:
    """Return the error for a name that does not exist, with the nearest names first.

    Args:
        kind: what was looked up, in the singular ("method").
        name: what the user wrote.
        allowed: every name that would have worked.
        hint: a closing sentence, such as the command that lists the names.
    """
    names = sorted(allowed)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listing = f" Allowed: {', '.join(names)}." if names else f" No {kind} is available."
    return BenchError(f"unknown {kind} {name!r}.{guess}{listing}{' ' + hint if hint else ''}")
