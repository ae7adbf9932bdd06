"""Trackers of experiments, fed by the events that the screen gets; each is an extra that is imported when asked for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from bench.errors import BenchError, unknown
from bench.monitor import Monitor


class _Tracker:
    """Knows the open phase, under whose name its scalars go; progress and time are nothing to it."""

    phase = ""

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

    def close(self) -> None:
        raise NotImplementedError


class TensorBoard(_Tracker):
    """Event files in ``place / run``."""

    def __init__(self, place: str, run: str) -> None:
        self._writer = _extra("torch.utils.tensorboard", "tensorboard").SummaryWriter(f"{place}/{run}")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a point to the curve of each value."""
        for name, value in values.items():
            self._writer.add_scalar(f"{self.phase}/{name}", value, epoch)
        self._writer.flush()

    def note(self, message: str) -> None:
        """Add a text."""
        self._writer.add_text("notes", message)

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()


class WeightsAndBiases(_Tracker):
    """A run of the project ``place``, which a later call with the same name continues."""

    def __init__(self, place: str, run: str) -> None:
        self._run = _extra("wandb", "wandb").init(project=place, name=run, id=run, resume="allow")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Log each value, with the epoch as a value of its own: phases count from 1, a run's steps only upwards."""
        self._run.log({f"{self.phase}/{name}": value for name, value in {**values, "epoch": epoch}.items()})

    def note(self, message: str) -> None:
        """Add a line to the run's notes."""
        self._run.notes = "\n".join(filter(None, [self._run.notes, message]))

    def close(self) -> None:
        """Send what is held back."""
        self._run.finish()


TRACKERS: dict[str, Callable[[str, str], _Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


@contextmanager
def tracked(monitor: Monitor, where: str | None, run: str) -> Iterator[None]:
    """Let a tracker hear what ``monitor`` is told in this block: ``tensorboard:FOLDER``, ``wandb:PROJECT``, or none.

    Args:
        monitor: of the work.
        where: what ``--track`` says.
        run: what to call it there.

    Raises:
        BenchError: an unknown tracker, no place, or a package that is not installed.
    """
    if where is None:
        yield
        return
    name, _, place = where.partition(":")
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if not place:
        raise BenchError(
            f"--track {where} does not say where. Type --track tensorboard:FOLDER or --track wandb:PROJECT"
        )
    tracker = TRACKERS[name](place, run)
    try:
        with monitor.heard_by(tracker):
            yield
    finally:
        tracker.close()


def _extra(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise BenchError(
            f"--track {extra} needs a package that is not here ({error}). "
            f"Type: pip install 'ssl-robustness-bench[{extra}]'"
        ) from None
