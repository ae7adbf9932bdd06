"""The errors, sorted by who has to act, and warnings. The command line maps each class to an exit code."""

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_stack
from types import TracebackType
from typing import Self, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class BenchError(Exception):
    """A mistake the user can mend: printed as one message without a traceback, exit code 1.

    The message gives the wrong value, what is allowed, and what to type.
    """

    exit_code = 1


class DamagedFileError(BenchError):
    """A file that the bench wrote is damaged: it is cut short, or its content has changed."""


class UnwritableError(BenchError):
    """A file or folder cannot be written.

    Args:
        path: of the file or folder.
        why: the reason, and what to do about it.
        options: those of the command that say where ``path`` is; the command line knows them.
    """

    def __init__(self, path: Path, why: str, options: Sequence[str] = ()) -> None:
        elsewhere = f", or choose another with {' or '.join(options)}" if options else ""
        super().__init__(f"cannot write {path}: {why}{elsewhere}; then run the same command again.")
        self.path, self.why, self.options = path, why, tuple(options)

    def __reduce__(self) -> tuple[type[BenchError], tuple[Path, str, Sequence[str]]]:
        return UnwritableError, (self.path, self.why, self.options)  # pickled between the processes of a run


class BusyRunError(BenchError):
    """Another process is working on the run: exit code 75, sysexits.h's word for "try again later"."""

    exit_code = 75


class NotLoadedError(BenchError):
    """An object comes from a user's own file, which is not loaded.

    Args:
        what: the sentences that say so.
        kind: of the object, as in ``bench --encoder``.
        typed: how it is named, with FILE.py for its file.
    """

    def __init__(self, what: str, kind: str, typed: str) -> None:
        super().__init__(
            f"{what} Type `bench --{kind} {typed} COMMAND ...` with the path of the file for FILE.py; its code must be "
            "what it was."
        )
        self.what, self.kind, self.typed = what, kind, typed

    def __reduce__(self) -> tuple[type[BenchError], tuple[str, str, str]]:
        return NotLoadedError, (self.what, self.kind, self.typed)  # pickled between the processes of a run


class CheckFailedError(BenchError):
    """A check that the user asked for failed (for example, a stale leaderboard): exit code 3."""

    exit_code = 3


class InterruptedRunError(BenchError):
    """The user or the system stopped the run; what is finished is saved: exit code 130."""

    exit_code = 130


_LINE = 400
"""A message quotes so many characters of another program's error: all of one of ``requests``, which has about 300."""


def short(error: BaseException) -> str:
    """Return the type and the first line of an error of another program, to be quoted in a message of ours."""
    text = str(error).strip().partition("\n")[0].removesuffix(".")
    return f"{type(error).__name__}: {text if len(text) <= _LINE else f'{text[:_LINE]}...'}"


def warn(message: str) -> None:
    """Warn at the line that called the bench, whichever part of the bench and of other packages lies between."""
    inside = [str(frame.f_globals.get("__name__")).startswith("bench.") for frame, _ in walk_stack(sys._getframe())]
    outermost = len(inside) - inside[::-1].index(True)
    warnings.warn(message, stacklevel=outermost + 1)


_LISTED = 160
"""A message lists all names up to this many characters."""


def unknown(kind: str, name: str, allowed: Iterable[str], hint: str = "") -> BenchError:
    """Return the error for a name that does not exist: up to three near names, then all names if the list is short.

    Near is what is written almost alike or, failing that, what contains the name. Names are case-sensitive, but this
    search is not.

    Args:
        kind: the kind of the name, in the singular ("method").
        name: what the user wrote.
        allowed: every name that would have worked.
        hint: a closing sentence, such as the command that lists the names.
    """
    names = {name.casefold(): name for name in sorted(allowed)}
    if not names:
        return BenchError(f"unknown {kind} {name!r}. No {kind} is available.{' ' + hint if hint else ''}")
    listed = len(", ".join(names.values())) <= _LISTED
    wanted = name.casefold()
    near = [wanted] if wanted in names else get_close_matches(wanted, names, n=3)
    near = near or [each for each in names if len(wanted) > 1 and wanted in each][:3]
    parts = [f"unknown {kind} {name!r}."]
    if near:
        parts.append(f"Did you mean {' or '.join(repr(names[each]) for each in near)}?")
    parts.append(f"Allowed: {', '.join(names.values())}." if listed else f"There are {len(names)}.")
    return BenchError(" ".join([*parts, *([hint] if hint else [])]))


def listed(what: str, faults: list[str]) -> str:
    """Return one message for all ``faults``, one per line if there are several."""
    return f"{what}: " + (faults[0] if len(faults) == 1 else "\n  - ".join([f"{len(faults)} faults", *faults]))


class Faults:
    """The faults of several parts of a request, so that one message names all of them.

    Each part is a ``with`` block of the same object, which a BenchError ends; :meth:`refuse` then raises what was
    collected::

        for name in names:
            with faults:
                METHODS.get(name)
        faults.refuse()
    """

    def __init__(self) -> None:
        self._found: dict[str, BenchError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if isinstance(error, _SeveralError):
            self._found |= error.found
        elif isinstance(error, BenchError):
            self._found.setdefault(str(error), error)
        return isinstance(error, BenchError)

    def refuse(self) -> None:
        """Raise what was collected, if anything was: a single error as it is."""
        if self._found:
            raise next(iter(self._found.values())) if len(self._found) == 1 else _SeveralError(self._found)


class _SeveralError(BenchError):
    """What :class:`Faults` collected, by message."""

    def __init__(self, found: dict[str, BenchError]) -> None:
        super().__init__("\n- ".join([f"{len(found)} faults:", *found]))
        self.found = found

    def __reduce__(self) -> tuple[type[BenchError], tuple[str]]:
        return BenchError, (str(self),)  # pickled between the processes of a run


def together(items: Sequence[A], work: Callable[[A], B], label: Callable[[A], str]) -> list[B]:
    """Return ``work`` of each of ``items``, cells of a grid; raises one BenchError with each fault once."""
    done, faults = [], dict[str, list[str]]()
    for item in items:
        try:
            done.append(work(item))
        except BenchError as error:
            for fault in error.found if isinstance(error, _SeveralError) else [str(error)]:
                faults.setdefault(fault, []).append(label(item))
    if not faults:
        return done
    count = len(items) - len(done)
    if len(faults) == 1 and not done:
        raise BenchError(next(iter(faults)))
    alike: dict[str, list[str]] = {}
    for fault, cells in faults.items():
        alike.setdefault("every cell" if len(cells) == len(items) else "; ".join(cells), []).append(fault)
    lines = [listed(where, found) for where, found in alike.items()]
    raise BenchError("\n- ".join([f"{count} of {len(items)} cells cannot be run:", *lines]))
