"""The record: the results of one protocol on one run. Every number of the board comes from one."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationInfo, field_validator, model_validator

from bench.own_code import own_objects
from bench.recipe import Precision, Settings
from bench.recipe.fields import Amount, Count, DatasetName, Digest, Epochs, Name, Radius, Seed, Text, Year
from bench.record.attacks import AttackList
from bench.record.corruption import CorruptionEvaluation
from bench.record.cost import PhaseCost
from bench.record.diagnosis import Diagnosis, Verdict
from bench.record.environment import Environment
from bench.record.inventory import Inventory
from bench.record.outcome import Drawn, NoGradient, Outcome
from bench.record.phase import Phase
from bench.record.recipe import RecordedRecipe
from bench.record.sealed import Sealed

SCHEMA: Literal[4] = 4
"""Version 2 adds fields that are null in version 1. Version 3 adds the code and the machine of each phase, which are
empty in older ones, and counts RA's images without a gradient. Version 4 adds the doctor's verdicts, the list of
attacks, how RA's random starts were drawn, which is per batch in older ones, and the labelled images of protocols with
few labels. Older records are never filled in."""

IMPORTED = "imported"
"""The method of records of encoders that no run of the bench has trained: *re-evaluated*, not retrained."""

Known = Literal["claimed", "re-evaluated", "retrained"]
"""How a number is known: *claimed* by a paper; *re-evaluated*, others' weights under our protocol and attacks;
*retrained*, the method trained by the bench."""

Doubt = Literal["constant features", "constant classifier", "one test class"]
"""Reasons to doubt a record that is older than version 4: the encoder gives all training images the same features, the
classifier gives all test images the same answer, or all test images are of one class."""


class LabelledSubset(Settings):
    """The training images whose labels a protocol used, where those are not all."""

    images: int = Field(ge=1, le=10**9)
    sha256: Digest
    """Of the list of their positions in the training split, ascending, in JSON."""


class PGDEvaluation(Settings):
    """RA: accuracy under PGD or another attack, and that attack's settings in pixel units."""

    outcome: Outcome
    eps: Radius
    steps: int | None = Field(ge=1, le=10**9)
    """None: the attack names no number of steps."""
    step_size: Amount | None
    """None, as ``start``: the attack is not made from the recipe's numbers of PGD, and has its own."""
    start: Name | None
    start_drawn: Drawn = "per batch"
    """The default is that of records older than this field."""
    restarts: Count
    attack: Name = "pgd"
    precision: Precision = "fp32"
    """Of the gradients; every outcome is judged in fp32."""
    no_gradient: NoGradient | None = None
    """None: not counted, as in records older than this field."""


class AutoAttackEvaluation(Settings):
    """AA: accuracy under AutoAttack, with its per-attack breakdown and its own warnings."""

    outcome: Outcome
    eps: Radius
    version: Name
    package: Name
    package_version: Name
    targets: Count
    """Target classes of the targeted attacks: 9, or one less than the number of classes."""
    survivors: dict[Name, Count]
    """Images still classified correctly after each attack, in the order of the attacks."""
    warnings: list[Text]
    precision: Precision = "fp32"
    """Of the gradients; every outcome is judged in fp32."""

    @model_validator(mode="after")
    def _agrees_with_survivors(self) -> Self:
        left = list(self.survivors.values())
        if left and left[-1] != self.outcome.correct:
            raise ValueError("the last attack's survivors disagree with the per-image outcomes")
        if left != sorted(left, reverse=True) or max(left, default=0) > self.outcome.n:
            raise ValueError(f"an attack cannot mend images: {left} of {self.outcome.n} are standing after each")
        return self


class Record(Sealed):
    """One (run, protocol). Schema version 4."""

    schema_version: Literal[1, 2, 3, 4] = SCHEMA
    method: Name
    title: Text
    year: Year
    """Of the method's paper."""
    dataset: DatasetName
    """The data that the classifier was trained and evaluated on."""
    pretrained_on: DatasetName | None = None
    """The data that the encoder was pre-trained on, where they are others (transfer); of an encoder that was trained
    elsewhere, as its file names them."""
    tier: Name
    tier_sha256: Digest
    """Digest of the tier's file, which distinguishes a changed ``mini.toml`` from the shipped one."""
    fidelity: Literal["uniform", "native"]
    seed: Seed
    encoder_seed: Seed | None = None
    """The seed of pre-training, where protocol and evaluation used another. An encoder that was trained elsewhere has
    none."""
    protocol: Name
    overrides: dict[str, Any]
    """Settings that differ from the tier's recipe; empty: none."""
    recipe: dict[str, Any]
    """The resolved recipe: method configuration, dataset facts, encoder, threat, protocol, evaluation."""
    data: Inventory | None = None
    """Counts of images of ``dataset`` that were read, skipped, converted or doubtful; None: not counted."""
    pretraining_data: Inventory | None = None
    """The same of ``pretrained_on``, where it was read."""
    pretraining_sha256: Digest
    protocol_sha256: Digest
    encoder_sha256: Digest
    """Digest of the pre-trained encoder's weights."""
    classifier_sha256: Digest
    selected_epoch: int | None = Field(default=None, ge=1, le=10**9)
    """The protocol's epoch, from 1 on, whose classifier was evaluated, where one was selected; None: the last."""
    labelled: LabelledSubset | None = None
    """None: the protocol used all labels, or none."""
    sa: Outcome
    ra: PGDEvaluation
    aa: AutoAttackEvaluation | None = None
    attacks: AttackList | None = None
    """Accuracy under the list of attacks in ``evaluate.attacks``; None: the list is empty."""
    corruptions: CorruptionEvaluation | None = None
    doctor: tuple[Diagnosis, ...] | None = None
    """What the checks of the evaluation found; None: they were not made, as in records older than version 4."""
    doubts: tuple[Doubt, ...] = ()
    """Of records older than version 4; later ones have ``doctor``."""
    cost: dict[Text, PhaseCost]
    """By phase: each training stage, the protocol, each attack."""
    history: dict[Text, Epochs]
    """By phase: one entry an epoch."""
    environment: Environment
    """Of the process that wrote the record."""
    environments: dict[Text, tuple[Environment | None, ...]] = {}
    """By phase: its environments, in order, each once; null: not recorded. A phase that was stopped and continued
    elsewhere, or with other code, has several."""
    code: dict[Text, Digest] = {}
    """By phase: the digest that its modules had in the code that wrote the record (:func:`bench.code.code_digest`).
    A phase whose environments have another digest ran with other code."""
    started: AwareDatetime
    finished: AwareDatetime
    """To the microsecond, in older records to the second. Of several records of one run the latest counts."""

    @field_validator("encoder_seed")
    @classmethod
    def _brought_encoders_have_none(cls, seed: int | None, info: ValidationInfo) -> int | None:
        return None if info.data.get("method") == IMPORTED else seed  # older records say 0

    def diagnosed(self, *verdicts: Verdict) -> tuple[Diagnosis, ...]:
        """Return what the checks found that ended in one of ``verdicts``, in their order."""
        return tuple(one for one in self.doctor or () if one.verdict in verdicts)

    @property
    def known(self) -> Known:
        """How its numbers are known."""
        return "re-evaluated" if self.method == IMPORTED else "retrained"

    @property
    def pretraining_seed(self) -> int:
        """The seed of the encoder's training, which further seeds of a protocol share; 0 where there is none."""
        if self.method == IMPORTED:
            return 0
        return self.seed if self.encoder_seed is None else self.encoder_seed

    @property
    def foreign_phases(self) -> list[str]:
        """The phases that ran, as a whole or in part, with other code than that which wrote the record."""
        return [
            phase
            for phase, ran in self.environments.items()
            if any(one is not None and one.code != self.code.get(phase) for one in ran)
        ]

    @property
    def unknown_phases(self) -> list[str]:
        """The phases whose code, as a whole or in part, is not recorded."""
        return [phase for phase, ran in self.environments.items() if None in ran]

    @property
    def own_code(self) -> dict[str, str]:
        """The objects from a user's own files that it was made with: "method", "encoder" or "attack", by name."""
        return own_objects(self.method, self.recipe)

    def without_history(self) -> Self:
        """Return this without its histories of training, which take most of its memory; its digest no longer fits."""
        return self.model_copy(update={"history": {}})

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """Yield each measurement that was made, by its name in tables."""
        yield "SA", self.sa
        yield "RA", self.ra.outcome
        if self.aa:
            yield "AA", self.aa.outcome
        for one in self.attacks.attacks if self.attacks else ():
            yield f"attacks, {one.attack},", one.outcome

    def read_recipe(self) -> RecordedRecipe:
        """Return the recipe, typed as far as all methods share it; raises BenchError that lists every fault."""
        return RecordedRecipe.read(self.recipe)

    @property
    def stage_costs(self) -> dict[str, PhaseCost]:
        """The cost of each training stage, by its name."""
        phases = {Phase.read(key): cost for key, cost in self.cost.items()}
        return {phase.name: cost for phase, cost in phases.items() if phase.kind == "stage"}

    @property
    def pretraining_seconds(self) -> float:
        """Wall-clock of all training stages, protocol and evaluation excluded."""
        return sum(cost.seconds for cost in self.stage_costs.values())

    @property
    def pretraining_flops(self) -> float | None:
        """Floating-point operations of all training stages; None without one, or where one was not counted."""
        total = 0.0
        for cost in self.stage_costs.values():
            if cost.flops_per_image is None or cost.images is None:
                return None
            total += cost.flops_per_image * cost.images
        return total or None
