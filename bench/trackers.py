"""Experiment trackers. They receive the same events as the screen; each is an optional extra, imported on use."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bench.errors import BenchError, unknown
from bench.monitor import Monitor


class _Tracker:
    """Logs scalars under the name of the open phase; ignores progress."""

    phase = ""
    stop = False
    """Whether the run should stop."""

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.phase = phase

    def advance(self, amount: int, detail: str = "") -> None:
        pass

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        raise NotImplementedError

    def end(self) -> None:
        pass

    def note(self, message: str) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Receive that the work is done; without it, an error or a stop has ended it."""

    def close(self) -> None:
        raise NotImplementedError


class TensorBoard(_Tracker):
    """Event files in ``place / run``."""

    def __init__(self, place: str, run: str) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(f"{place}/{run}")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a point to the curve of each value."""
        for name, value in values.items():
            self._writer.add_scalar(f"{self.phase}/{name}", value, epoch)
        self._writer.flush()

    def note(self, message: str) -> None:
        """Add a text."""
        self._writer.add_text("notes", message)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class WeightsAndBiases(_Tracker):
    """A run of the project ``place``; a later call with the same name continues it."""

    def __init__(self, place: str, run: str) -> None:
        self._run = import_module("wandb").init(project=place, name=run, id=run, resume="allow")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Log each value, and the epoch as a value: every phase counts from 1, but a run's steps must not decrease."""
        self._run.log({f"{self.phase}/{name}": value for name, value in {**values, "epoch": epoch}.items()})

    def note(self, message: str) -> None:
        """Add a line to the run's notes."""
        self._run.notes = "\n".join(filter(None, [self._run.notes, message]))

    def close(self) -> None:
        """Send what is buffered."""
        self._run.finish()


class _Guarded:
    """Passes events on to ``tracker``; the first error that it raises is a note of ``monitor``."""

    def __init__(self, tracker: _Tracker, where: str, monitor: Monitor) -> None:
        self._tracker, self._where, self._monitor, self._failed = tracker, where, monitor, False

    def __getattr__(self, event: str) -> Callable[..., None]:
        def passed(*args: Any, **named: Any) -> None:
            try:
                getattr(self._tracker, event)(*args, **named)
                self._monitor.stop_requested |= self._tracker.stop
            except Exception as error:
                first, self._failed = not self._failed, True
                if first:
                    self._monitor.note(
                        f"--track {self._where} failed ({type(error).__name__}: {error}). The run goes on; the "
                        "tracker may lack some of its values."
                    )

        return passed


def _progress_file(place: str, run: str) -> Any:
    from bench.grid import ProgressFile

    return ProgressFile(place, run)


TRACKERS: dict[str, Callable[[str, str], _Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "progress": _progress_file,
}
_EXTRAS = ("tensorboard", "wandb")
"""Trackers that are the package of their name, which is installed with the extra of that name."""


def kind_and_place(where: str) -> tuple[str, str]:
    """Return the two parts of the value of ``--track``, ``tensorboard:FOLDER``, ``wandb:PROJECT`` or ``progress:FILE``.

    Raises:
        BenchError: an unknown tracker, no folder, project or file, or a package that is not installed.
    """
    kind, _, place = where.partition(":")
    if kind not in TRACKERS:
        raise unknown("tracker", kind, TRACKERS)
    if not place:
        raise BenchError(
            f"--track {where} lacks a place. Type --track tensorboard:FOLDER, --track wandb:PROJECT or "
            "--track progress:FILE"
        )
    if kind in _EXTRAS and not find_spec(kind):
        raise BenchError(
            f"--track {kind} needs a package that is not installed. Type: pip install 'ssl-robustness-bench[{kind}]'"
        )
    return kind, place


@contextmanager
def tracked(monitor: Monitor, where: str | None, run: str) -> Iterator[None]:
    """Pass the events of ``monitor`` in this block to a tracker as well, if there is one.

    Args:
        where: the value of ``--track``; None: no tracker.

    Raises:
        BenchError: as of :func:`kind_and_place`, or a tracker that cannot be opened. Errors after that are one note of
            ``monitor``, since a tracker ends no run.
    """
    if where is None:
        yield
        return
    kind, place = kind_and_place(where)
    try:
        tracker: Any = _Guarded(TRACKERS[kind](place, run), where, monitor)
    except Exception as error:
        raise BenchError(
            f"--track {where} cannot be opened ({type(error).__name__}: {error}). Name a place that can be written, or "
            "leave out --track."
        ) from error
    try:
        with monitor.heard_by(tracker):
            yield
        tracker.finish()
    finally:
        tracker.close()
