"""What a matrix will take: jobs, device-hours, time on several devices, disk and energy, from measured steps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.cost import PhaseEstimate, Profile, Projector, data_like
from bench.data import DATASETS, Dataset, PixelFacts, Split, load_dataset
from bench.device import EnergyMeter, device_name, energy_counters, starvation
from bench.matrix.cells import SHARED, Matrix, MatrixRequest, plan_matrix
from bench.matrix.schedule import Timed, critical_path, time_on
from bench.monitor import plural
from bench.recipe import Settings, canonical_digest
from bench.record import COST_REFERENCE
from bench.run import Run, kept_bytes, project

Part = tuple[Run, PhaseEstimate]
"""A phase, and the first run that has it."""

_HOUR = 3600
_FEW = 4
"""From so many methods on, a message counts them instead of naming them."""


class TimedSteps(Settings):
    """The images of a step that was timed, from which steps of the recipe's batch are extrapolated."""

    images: int
    batch: int


class PlanRow(Settings):
    """One method on one dataset, over all seeds; its part of a shared stage is in a row of its own."""

    method: str
    dataset: str
    jobs: int
    hours_each: float | None
    """Device-hours of one job; None: a phase was not measured."""
    hours: float | None
    """Of all."""
    not_measured: tuple[str, ...] = ()
    """The phases without a measurement."""


class EqualCompute(Settings):
    """The same matrix if every method's pre-training spent as many operations as the reference's, by ``--budget``."""

    reference: str
    hours: float
    saved_hours: float
    """Negative: it would take longer."""


class GridPlan(Settings):
    """The projection for a matrix. A number that is not known is None, and ``absent`` has the reason."""

    tier: str
    fidelity: str
    measured_on: str
    source: str
    """"this machine", or the files of the measurements."""
    busy: str | None
    """A warning that other programs left the measurement too little of the CPU; None: it had enough, or was none."""
    includes: tuple[str, ...]
    """The phases that are projected."""
    steps: Mapping[str, TimedSteps]
    """By phase and method, in all of its runs: "stage ssl of simclr"."""
    gpus: int
    jobs: int
    rows: tuple[PlanRow, ...]
    hours: float | None
    """Device-hours of all jobs."""
    known_hours: float
    """Device-hours of the phases that were measured."""
    wall_hours: float | None
    """With ``gpus`` devices."""
    critical_path: tuple[str, ...]
    """The jobs that follow each other and take longest."""
    critical_hours: float | None
    disk_bytes: int
    """Of weights and states."""
    energy_kwh: float | None
    """At the mean power of the device while steps were timed."""
    equal_compute: EqualCompute | None
    left_out: tuple[str, ...]
    absent: Mapping[str, str]


def plan_costs(
    request: MatrixRequest, gpus: int, profile: Sequence[Path] = (), said: Callable[[str], None] = lambda message: None
) -> GridPlan:
    """Return the projection for ``request``; named data are replaced by noise of their size, so nothing is downloaded.

    Args:
        gpus: how many devices work at once.
        profile: files of ``make gpu-check`` or ``bench timing --output``; none: steps are timed on this machine.
        said: called with messages on progress.

    Raises:
        BenchError: cells that cannot be run, a device that is not here, or a bad profile.
    """
    known = Profile(profile, said) if profile else None
    # Steps are timed on the device that is named, so it must be here; unless a profile has their times.
    elsewhere = request.device != "cpu" if profile else request.device is None and not torch.cuda.is_available()
    request = replace(request, elsewhere=elsewhere)
    matrix = plan_matrix(request, Path("grid"), load=_noise)
    runs = matrix.runs[: len(matrix.runs) // len(request.seeds)]
    projector = known or Projector(runs[0].device, said, many=True)
    meter, start = EnergyMeter(energy_counters(projector.device)), time.perf_counter()
    starved = starvation(projector.device)
    estimates = []
    for number, run in enumerate(runs, 1):
        said(f"{number} of {len(runs)}: {run.recipe.method} on {run.recipe.dataset.name}")
        estimates.append(project(run, projector))
    joules, seconds, busy = meter.joules, time.perf_counter() - start, starved()
    parts = [(run, phase) for run, phases in zip(runs, estimates, strict=True) for phase in phases]
    jobs = _timed(matrix, estimates)
    total, path = sum(job.seconds for job in jobs), critical_path(jobs)
    lost = _lost(parts)
    reason = f"not measured: {'; '.join(lost)}"
    absent = dict.fromkeys(("hours", "wall_hours", "critical_hours"), reason) if lost else {}
    if joules is None or known:
        absent["energy_kwh"] = "no power was measured"
    equal = _equal_compute(runs, estimates, len(request.seeds), total)
    if equal is None:
        absent["equal_compute"] = "not all phases were measured" if lost else _no_equal_compute(runs)
    return GridPlan(
        tier=runs[0].recipe.tier,
        fidelity=request.fidelity,
        measured_on=known.device_name if known else device_name(projector.device),
        source=", ".join(map(str, profile)) or "this machine",
        busy=None if known else busy,
        includes=tuple(dict.fromkeys(phase.phase for _, phase in parts if not math.isnan(phase.seconds))),
        steps={
            f"{phase.phase} of {run.recipe.method}": TimedSteps(images=phase.timed, batch=phase.batch)
            for run, phase in parts
            if phase.timed is not None and phase.batch is not None
        },
        gpus=gpus,
        jobs=len(jobs),
        rows=tuple(_rows(matrix, jobs, parts)),
        hours=_hours(total),
        known_hours=sum(job.seconds for job in _timed(matrix, estimates, unknown=0.0)) / _HOUR,
        wall_hours=None if lost else time_on(jobs, gpus) / _HOUR,
        critical_path=() if lost else tuple(job.name for job in path),
        critical_hours=None if lost else sum(job.seconds for job in path) / _HOUR,
        disk_bytes=len(request.seeds) * sum(map(kept_bytes, runs)),
        energy_kwh=None if joules is None or known or lost else joules / seconds * total / 3.6e6,
        equal_compute=equal,
        left_out=matrix.left_out,
        absent=absent,
    )


def _noise(source: str, data_dir: Path) -> Dataset:
    """Return noise of the size of the named dataset ``source``; the user's own data as they are."""
    if source not in DATASETS or source == "digits":  # which ships inside a dependency
        return load_dataset(source, data_dir)
    listed, data = DATASETS.get(source), data_like(source, data_dir)

    def split(count: int) -> Split:
        return Split(data.random_images(count), torch.arange(count) % listed.num_classes)

    pretrain = data.random_images(listed.pretrain) if listed.pretrain else None
    names = tuple(map(str, range(listed.num_classes)))
    # Told, not computed: 2.7 GB of noise take half a minute.
    known = PixelFacts(canonical_digest({"noise": source}), list(zip(data.facts.mean, data.facts.std, strict=True)))
    return Dataset(source, source, split(listed.train), split(listed.test), names, pretrain=pretrain, known=known)


def _timed(matrix: Matrix, estimates: Sequence[Sequence[PhaseEstimate]], unknown: float = math.nan) -> list[Timed]:
    """Return the jobs of ``matrix`` with their seconds; cells of all seeds take as long as those of the first."""
    stages = [job for job in matrix.jobs if job.method == SHARED]
    cells = [job for job in matrix.jobs if job.method != SHARED]
    shared: dict[str, float] = {}
    timed = []
    for number, job in enumerate(cells):
        phases = [unknown if math.isnan(each.seconds) else each.seconds for each in estimates[number % len(estimates)]]
        if job.needs:
            shared[job.needs[0]] = phases[0]
        timed.append(Timed(job.name, sum(phases[1:] if job.needs else phases), job.needs))
    return [*(Timed(job.name, shared[job.name]) for job in stages), *timed]


def _lost(parts: Sequence[Part]) -> list[str]:
    """Return the phases without a measurement, each with the methods that lack it."""
    methods: dict[str, dict[str, None]] = {}
    for run, phase in parts:
        if math.isnan(phase.seconds):
            methods.setdefault(phase.phase, {})[run.recipe.method] = None
    return [
        f"{phase} of {' and '.join(own) if len(own) < _FEW else plural(len(own), 'method')}"
        for phase, own in methods.items()
    ]


def _rows(matrix: Matrix, jobs: Sequence[Timed], parts: Sequence[Part]) -> Iterator[PlanRow]:
    """Yield a row a method and dataset, shared stages first."""
    seconds = {job.name: job.seconds for job in jobs}
    lost: dict[tuple[str, str], dict[str, None]] = {}
    for run, phase in parts:
        if math.isnan(phase.seconds):
            lost.setdefault((run.recipe.method, run.recipe.dataset.name), {})[phase.phase] = None
    for key in dict.fromkeys((job.method, job.dataset) for job in matrix.jobs):
        own = [seconds[job.name] for job in matrix.jobs if (job.method, job.dataset) == key]
        yield PlanRow(
            method=key[0],
            dataset=key[1],
            jobs=len(own),
            hours_each=_hours(own[0]),
            hours=_hours(sum(own)),
            not_measured=tuple(lost.get(key, ())),
        )


def _equal_compute(
    runs: Sequence[Run], estimates: Sequence[Sequence[PhaseEstimate]], seeds: int, total: float
) -> EqualCompute | None:
    """Return the hours at equal compute; None if a phase was not measured, or the reference is not among the methods.

    A method's seconds an operation are those of its own steps. A stage that cells share in ``total`` counts once a
    method: with another budget it has other epochs, and is trained for that method alone.
    """
    training = [[phase for phase in phases if phase.phase.startswith("stage ")] for phases in estimates]
    if math.isnan(total) or any(phase.flops is None for stages in training for phase in stages):
        return None
    spent = [sum(phase.flops or 0.0 for phase in stages) for stages in training]
    pairs = list(zip(runs, spent, strict=True))
    budget = {run.recipe.dataset.sha256: flops for run, flops in pairs if run.recipe.method == COST_REFERENCE}
    if not budget:
        return None
    equal = seeds * sum(phase.seconds for phases in estimates for phase in phases)
    for (run, flops), stages in zip(pairs, training, strict=True):
        if flops:
            seconds = sum(phase.seconds for phase in stages)
            equal += seeds * seconds * (budget[run.recipe.dataset.sha256] / flops - 1)
    return EqualCompute(reference=COST_REFERENCE, hours=equal / _HOUR, saved_hours=(total - equal) / _HOUR)


def _no_equal_compute(runs: Sequence[Run]) -> str:
    there = any(run.recipe.method == COST_REFERENCE for run in runs)
    return "the files hold no operations of some steps" if there else f"{COST_REFERENCE} is not among the methods"


def _hours(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds / _HOUR
