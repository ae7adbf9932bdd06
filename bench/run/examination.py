"""The doctor's visit at the end of an evaluation, and later to a run that is finished."""

from typing import NamedTuple, Protocol

import torch

from bench.code import modules_of
from bench.data import Dataset
from bench.device import Clock, PeakMemory, device_name
from bench.doctor import Patient, examine
from bench.job import Job
from bench.nn import Classifier
from bench.recipe import Recipe
from bench.record import (
    AutoAttackEvaluation,
    Diagnosis,
    Environment,
    Outcome,
    PGDEvaluation,
    Phase,
    PhaseCost,
    describe_environment,
)


class Measurements(Protocol):
    """What was measured: an evaluation, or its record."""

    @property
    def sa(self) -> Outcome:
        """On clean images."""

    @property
    def ra(self) -> PGDEvaluation:
        """Under PGD."""

    @property
    def aa(self) -> AutoAttackEvaluation | None:
        """Under AutoAttack."""


def new_patient(
    classifier: Classifier,
    data: Dataset,
    recipe: Recipe,
    *,
    protocol: str,
    seed: int,
    device: torch.device,
    weights: tuple[str, str],
    measured: Measurements | None,
    deep: bool = False,
) -> Patient:
    """Return what the checks may read about ``classifier``.

    Args:
        recipe: of protocol and evaluation.
        weights: digests of the encoder before the protocol, and of the classifier before its evaluation.
        measured: None: it is not evaluated.
        deep: also for the checks that cost too much for the end of every evaluation.
    """
    outcomes = {} if measured is None else {"sa": measured.sa, "ra": measured.ra, "aa": measured.aa}
    return Patient(
        classifier.to(device).eval(),
        data.test,
        recipe,
        seed,
        device,
        protocol,
        *weights,
        train=data.train,
        inventory=data.inventory,
        deep=deep,
        **outcomes,  # type: ignore[arg-type]  # by the names above
    )


class Examined(NamedTuple):
    """What the doctor found, and what it cost."""

    diagnoses: tuple[Diagnosis, ...]
    cost: dict[str, PhaseCost]
    """By phase."""
    environments: dict[str, tuple[Environment | None, ...]]
    """By phase."""


def examined(patient: Patient, job: Job) -> Examined:
    """Return the verdicts on ``patient``; raises InterruptedRunError if a stop was requested."""
    memory, clock, phase = PeakMemory(patient.device), Clock(), str(Phase("evaluate", "doctor"))
    diagnoses = examine(patient, job.monitor)
    for one in diagnoses:
        if one.verdict == "fail":
            job.monitor.note(
                f"the evaluation under {patient.protocol} failed a check of the doctor, {one.check!r}. The record says "
                "so, and no board shows it as a result."
            )
    device = device_name(patient.device)
    cost = PhaseCost(
        seconds=clock.seconds,
        images=len(patient.sample.labels),
        peak_memory_bytes=memory.bytes,
        device=device,
    )
    modules = ("bench.doctor.examination", *modules_of(patient.classifier))
    environment = describe_environment(device, torch.get_num_threads(), modules=modules)
    return Examined(diagnoses, {phase: cost}, {phase: (environment,)})
