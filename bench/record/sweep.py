"""The sweep: one classifier under PGD along a grid of eps or of steps (DeACL, figure 3)."""

import base64
from collections.abc import Sequence
from itertools import pairwise
from math import isclose
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from bench.recipe import Norm, Settings, Start, canonical_digest, radius_fault
from bench.recipe.fields import DatasetName, Digest, Name, Seed, Text, Year
from bench.record.cost import PhaseCost
from bench.record.environment import Environment
from bench.record.outcome import Drawn, NoGradient, Outcome
from bench.record.sealed import Sealed

SWEEP_SCHEMA: Literal[3] = 3
"""Version 2 adds the environments of the sweep, which are empty in version 1. Version 3 adds how the random starts were
drawn, which is per batch in older ones."""

SweepKind = Literal["eps", "steps"]


def grid_fault(grid: Sequence[float]) -> str | None:
    """Return what is wrong with the values of a grid, which must be 0 or more and ascend, or None."""
    if not grid:
        return "is empty; give at least one value"
    if min(grid) < 0:
        return f"has the negative value {min(grid):g}; values are 0 or more"
    for earlier, later in pairwise(grid):
        if isclose(later, earlier, rel_tol=1e-6):  # such as 0.0156862745 and 4/255, one radius in a table
            return f"has the value {later:g} twice; give each once"
        if later < earlier:
            return f"is not in ascending order: {later:g} comes after {earlier:g}"
    return None


class SweepSettings(Settings):
    """How a sweep attacks: by PGD on the log-margin, one start. One of ``eps`` and ``steps`` is the grid."""

    kind: SweepKind
    norm: Norm = "linf"
    eps: tuple[float, ...]
    """Radii in pixels on the [0, 1] scale; a single one when the steps vary."""
    steps: tuple[int, ...]
    """Numbers of steps; a single one when eps varies."""
    step_size: float = Field(default=0.25, gt=0)
    """In units of eps, so it grows with eps: 0.25 is 2/255 at 8/255, the step of RA."""
    start: Start = "uniform"
    batch_size: int = Field(default=256, ge=1, le=10**9)
    """Images attacked together."""

    @model_validator(mode="after")
    def _one_grid(self) -> Self:
        for name, values in (("eps", self.eps), ("steps", self.steps)):
            if fault := grid_fault(values):
                raise ValueError(f"the grid of {name} {fault}")
            if name != self.kind and len(values) != 1:
                raise ValueError(f"a sweep of {self.kind} has one value of {name}, not {len(values)}")
        if fault := radius_fault(self.norm, self.eps[-1]):
            raise ValueError(fault)
        if self.steps[-1] > 10**9:
            raise ValueError("steps are at most 1,000,000,000")
        if self.steps[0] < 1:
            raise ValueError("0 steps are no attack; the smallest number of steps is 1")
        return self

    @property
    def grid(self) -> tuple[float, ...]:
        """The values that vary."""
        return self.eps if self.kind == "eps" else self.steps


class Sweep(Sealed):
    """One classifier along one grid. Schema version 3."""

    schema_version: Literal[1, 2, 3] = SWEEP_SCHEMA
    method: Name
    title: Text
    year: Year
    dataset: DatasetName
    dataset_sha256: Digest
    pretrained_on: Name | None = None
    """As in the record: another dataset that the encoder was pre-trained on."""
    tier: Name
    fidelity: Literal["uniform", "native"]
    seed: Seed
    protocol: Name
    overrides: dict[str, Any]
    """Settings of the run that differ from the tier's recipe, without its evaluation, which a sweep does not use."""
    pretraining_sha256: Digest
    protocol_sha256: Digest
    classifier_sha256: Digest
    record_sha256: Digest
    """Of the record that the attacked classifier belongs to."""
    settings: SweepSettings
    start_drawn: Drawn = "per batch"
    """The default is that of sweeps older than this field."""
    outcomes: tuple[Outcome, ...]
    """One a grid value, in its order: the images that are right under the attack of exactly that size."""
    worst: tuple[Outcome, ...] | None = None
    """Of steps only: the images that are right at every iterate up to there. It never rises."""
    no_gradient: tuple[NoGradient, ...] | None = None
    """One a grid value; None: not counted, as in sweeps older than this field."""
    cost: PhaseCost
    environment: Environment
    """Of the process that wrote the sweep."""
    environments: tuple[Environment | None, ...] = ()
    """As for a phase of a record: its environments, in order, each once; null: not recorded."""
    finished: AwareDatetime

    @model_validator(mode="after")
    def _one_outcome_a_value(self) -> Self:
        if (self.worst is None) != (self.settings.kind == "eps"):
            raise ValueError("worst belongs to a sweep of steps, and to no other")
        for outcomes in (self.outcomes, self.worst or self.outcomes):
            if len(outcomes) != len(self.settings.grid):
                raise ValueError(f"{len(outcomes)} outcomes for {len(self.settings.grid)} values of the grid")
        if self.no_gradient is not None and len(self.no_gradient) != len(self.settings.grid):
            raise ValueError(f"{len(self.no_gradient)} counts for {len(self.settings.grid)} values of the grid")
        if len({outcome.n for outcome in self.outcomes + (self.worst or ())}) != 1:
            raise ValueError("the outcomes are not all of the same images")
        worst = self.worst or ()
        if not all(map(_contains, self.outcomes, worst)) or not all(_contains(*pair) for pair in pairwise(worst)):
            raise ValueError("an image that was lost earlier counts as right in worst")
        return self

    @property
    def identity(self) -> str:
        """The digest of all that decides the outcomes; see :func:`sweep_identity`."""
        return sweep_identity(self.classifier_sha256, self.dataset_sha256, self.seed, self.settings)


def sweep_identity(classifier_sha256: str, dataset_sha256: str, seed: int, settings: SweepSettings) -> str:
    """Return the digest of all that decides a sweep's outcomes: a sweep with the same one is not measured again."""
    return canonical_digest([classifier_sha256, dataset_sha256, seed, settings.model_dump(mode="json")])


def _contains(larger: Outcome, smaller: Outcome) -> bool:
    """Return whether every image that is right in ``smaller`` is right in ``larger``."""
    return not _bits(smaller) & ~_bits(larger)


def _bits(outcome: Outcome) -> int:
    return int.from_bytes(base64.b64decode(outcome.bits))
