"""The saved state of a measurement, written after every batch."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, Field

from bench.errors import BenchError
from bench.files import read_json, set_aside, write_json
from bench.monitor import Monitor
from bench.recipe import Settings, canonical_digest
from bench.record import Drawn, Environment, NoGradient

Environments = tuple[Environment | None, ...]
"""All environments of a measurement, in order, each once; None: one that is not known, in states of older versions."""


class SavedState(Settings):
    """The outcome of each image in the finished batches, in test-split order."""

    fingerprint: str = Field(validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of everything that determines the outcomes: no other measurement may continue this state."""
    classifier_sha256: str | None = None
    """Digest of the weights that were measured; None: the fingerprint includes it, or an older version left it out."""

    def save(self, path: Path) -> None:
        """Write this state to ``path``, atomically, under a checksum."""
        values = self.model_dump(mode="json")
        write_json(path, {"sha256": canonical_digest(values), "state": values})


class CorruptionCounts(Settings):
    """Numbers of images classified correctly under one corruption, at the finished severities, from 1 on."""

    sha256: str
    """Digest of the corrupted images; counts for other images are not reused."""
    correct: tuple[int, ...] = ()


class AttackProgress(Settings):
    """How far one attack of the list has come through the images that it tries, in test-split order."""

    tried: int = 0
    broken: tuple[int, ...] = ()
    """Positions in the test split of the images that it broke."""
    sizes: tuple[float | None, ...] = ()
    """Of a minimum-norm attack: the perturbation of each image tried; None where none misleads the classifier."""


class EvaluationState(SavedState):
    """The state of SA, RA, AA and corruptions; the fingerprint is that of protocol, recipe and seed."""

    clean: tuple[bool, ...] = ()
    answers: tuple[int, ...] | None = None
    """All classes predicted for clean images, ascending; None: not recorded from the first image on."""
    robust: tuple[bool, ...] = ()
    """Under PGD."""
    start_drawn: Drawn = "per batch"
    """For the images in ``robust``; the default is that of states older than this field."""
    no_gradient: NoGradient | None = None
    """Counts for the images under PGD; None: an older version attacked the first of them and did not count."""
    autoattack: dict[str, Any] | None = None
    """The state of the AutoAttack adapter."""
    attacks: dict[str, AttackProgress] = {}
    """By attack of the list."""
    corruptions: dict[str, CorruptionCounts] = {}
    """By corruption."""
    seconds: dict[str, float] = {}
    """Wall-clock seconds by measurement, summed over interruptions."""
    peak_memory: dict[str, int | None] = {}
    """Bytes by measurement, as in its cost."""
    environments: dict[str, Environments] = {}
    """By measurement."""

    def ran_with(self, measurement: str) -> Environments:
        """Return the environments of ``measurement`` so far."""
        return self.environments.get(measurement, (None,) if measurement in self.seconds else ())


S = TypeVar("S", bound=SavedState)


def read_state(path: Path, kind: type[S]) -> S:
    """Return the state in ``path``; raises BenchError if it is missing or damaged."""
    values = read_json(path)
    try:
        if canonical_digest(values["state"]) != values["sha256"]:
            raise BenchError("its checksum does not match")
    except (KeyError, TypeError) as error:
        raise BenchError(str(error)) from error
    return kind.parse(values["state"], str(path))


def load_state(path: Path, fresh: S, monitor: Monitor) -> S:
    """Return the state in ``path``, or ``fresh`` if the file is missing, damaged, or of another classifier.

    The latter two are renamed and reported to ``monitor``.

    Raises:
        BenchError: the state there has another fingerprint than ``fresh``.
    """
    if not path.exists():
        return fresh
    try:
        state = read_state(path, type(fresh))
    except BenchError as error:
        aside = set_aside(path)
        monitor.note(f"{path} is damaged ({error}). It was renamed to {aside.name}, and this evaluation starts again.")
        return fresh
    if state.fingerprint != fresh.fingerprint:
        raise BenchError(f"{path} belongs to another run. Move it away, or choose another --runs-dir.")
    if state.classifier_sha256 not in (None, fresh.classifier_sha256):
        aside = set_aside(path)
        monitor.note(
            f"{path} is of other weights: the classifier has changed since. It was renamed to {aside.name}, and this "
            "evaluation starts again."
        )
        return fresh
    return state
