"""What a measurement has finished so far, on disk after every batch."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, Field

from bench.errors import BenchError
from bench.files import read_json, set_aside, write_json
from bench.monitor import Monitor
from bench.recipe import Settings, canonical_digest
from bench.record import Environment, NoGradient

Environments = tuple[Environment | None, ...]
"""All that a measurement ran with, in order, each once; None: with what a state does not say that was written before
this was kept."""


class SavedState(Settings):
    """Outcomes image by image, in test-split order, of the batches done."""

    fingerprint: str = Field(validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of all that decides the outcomes: no other measurement may continue this state."""

    def save(self, path: Path) -> None:
        """Write this state to ``path``, atomically, under a checksum."""
        values = self.model_dump(mode="json")
        write_json(path, {"sha256": canonical_digest(values), "state": values})


class CorruptionCounts(Settings):
    """Images classified correctly under one corruption, at the severities done, from 1 on."""

    sha256: str
    """Digest of the corrupted images; counts on others are of no use."""
    correct: tuple[int, ...] = ()


class EvaluationState(SavedState):
    """Of SA, RA, AA and corruptions; the fingerprint is that of protocol, encoder and seed."""

    clean: tuple[bool, ...] = ()
    answers: tuple[int, ...] | None = None
    """The classes that clean images were taken for, ascending; None: not noted from the first image on."""
    robust: tuple[bool, ...] = ()
    """Under PGD."""
    no_gradient: NoGradient | None = None
    """Of those; None: the first of them were attacked by a program that did not count."""
    autoattack: dict[str, Any] | None = None
    """The adapter's own state."""
    corruptions: dict[str, CorruptionCounts] = {}
    """By corruption."""
    seconds: dict[str, float] = {}
    """Wall-clock by measurement, added up over interruptions."""
    peak_memory: dict[str, int | None] = {}
    """Bytes by measurement, as in its cost."""
    environments: dict[str, Environments] = {}
    """By measurement."""

    def ran_with(self, measurement: str) -> Environments:
        """Return what ``measurement`` has run with so far."""
        return self.environments.get(measurement, (None,) if measurement in self.seconds else ())


S = TypeVar("S", bound=SavedState)


def load_state(path: Path, fresh: S, monitor: Monitor) -> S:
    """Return the state in ``path``, or ``fresh`` if there is none, or if it is damaged.

    A damaged file is set aside, which ``monitor`` is told.

    Raises:
        BenchError: the state there has another fingerprint than ``fresh``.
    """
    if not path.exists():
        return fresh
    try:
        values = read_json(path)
        if canonical_digest(values["state"]) != values["sha256"]:
            raise BenchError("its checksum does not match")
        state = type(fresh).parse(values["state"], str(path))
    except (BenchError, KeyError, TypeError) as error:
        aside = set_aside(path)
        monitor.note(f"{path} is damaged ({error}). It is now {aside.name}, and this evaluation starts again.")
        return fresh
    if state.fingerprint != fresh.fingerprint:
        raise BenchError(f"{path} belongs to another run. Move it away, or choose another --runs-dir.")
    return state
