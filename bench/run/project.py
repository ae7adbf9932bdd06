"""What a run will do and how long that takes here: measured on a throw-away copy before anything starts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import rng
from bench.attack import PGD, margin_objective
from bench.cost import StageProbe, StepTimes, time_in_turn
from bench.data.corruptions import corrupt
from bench.evaluate import autoattack_images
from bench.method import Stage
from bench.nn import Classifier
from bench.protocol import ProtocolStage, build_protocol
from bench.recipe import SEVERITIES, Threat, TrainPlan, canonical_digest
from bench.reporting import plural
from bench.run.encoder import plain_encoder
from bench.run.preparation import Run
from bench.train import check_plan, stage_progress

_ROUNDS = 2
_STAGE_SECONDS = 10.0
"""What timing the steps of a stage may take, about, where the machine can do it in so little."""

_PROBE_IMAGES = 64
"""Images that are attacked to time an evaluation."""

# What AutoAttack standard does to an image that survives it all: APGD-CE and APGD-T take 10 x 100 gradients,
# FAB-T 9 x 100 gradients and about two more forward passes a step, Square 5,000 forward passes.
_AA_GRADIENTS = 1900
_AA_FORWARDS = 6800
_AA_SURVIVORS = 0.5
"""Share of images assumed to survive, for want of knowing."""


@dataclass(frozen=True)
class PhaseEstimate:
    """One line of the announcement."""

    phase: str
    work: str
    """In words: "60 epochs of 22 batches of 64"."""
    seconds: float
    """Of the whole phase on this machine."""
    left: float = 1.0
    """Share of it that is still to do."""
    place: Path = Path()
    """Where its state is kept. Phases of several runs that have it in common are one: it is done once."""


def project(
    run: Run, timings: dict[str, StepTimes] | None = None, said: Callable[[str], None] = lambda message: None
) -> list[PhaseEstimate]:
    """Return an estimate for each phase of ``run``, from timing a few steps of each on untrained weights.

    Args:
        run: what to project.
        timings: of stages of earlier runs, which are not timed again; this run's are added.
        said: is told what is being measured.

    Raises:
        BenchError: a plan that cannot work on this dataset or device.
    """
    timings = {} if timings is None else timings
    estimates = _corrupted(run)
    estimates += [] if run.checkpoint else _pretraining(run, timings, said)
    encoder = plain_encoder(run.recipe).to(run.device)
    for protocol in run.protocols:
        said(f"measuring this machine: protocol {protocol} and its attacks")
        stage = build_protocol(protocol, run.recipe.downstream, encoder, run.target.train.labels, run.seed)
        place = run.place(protocol)
        training = _stage(run, stage, run.target.train.images, f"protocol {protocol}", place.path, timings)
        seconds = _attack_seconds(run, stage.classifier())
        selection = _selection(stage, len(run.target.train.labels), seconds, training.left)
        estimates += [training, *(replace(each, place=place.path) for each in selection)]
        left = 0.0 if place.record.exists() else 1.0
        estimates += [replace(each, left=left, place=place.path) for each in _evaluation(run, seconds)]
    return estimates


def _pretraining(run: Run, timings: dict[str, StepTimes], said: Callable[[str], None]) -> list[PhaseEstimate]:
    method, images = run.method(run.recipe.config), run.dataset.pretraining_images
    estimates = []
    for stage in method.stages(run.context):
        said(f"measuring this machine: stage {stage.name}")
        place = run.folder.stage(stage).path
        estimates.append(_stage(run, stage, images, f"stage {stage.name}", place, timings))
    return estimates


def _left(folder: Path, stage: Stage) -> float:
    done = stage_progress(folder, stage.name)
    return 1.0 if done is None else 1 - done.epoch / stage.plan.epochs


def _stage(
    run: Run, stage: Stage, images: Tensor, phase: str, place: Path, timings: dict[str, StepTimes]
) -> PhaseEstimate:
    plan, count = stage.plan, len(stage.positions(len(images)))
    probe = StageProbe(stage, images, device=run.device, seed=run.seed)
    check_plan(stage, count, run.device)
    key = _speed(run, stage)
    if key not in timings:
        (timings[key],) = time_in_turn([probe], rounds=_ROUNDS, seconds=_STAGE_SECONDS)
    work = f"{plural(plan.epochs, 'epoch')} of {plural(plan.steps_per_epoch(count), 'batch')} of {plan.batch_size}"
    return PhaseEstimate(phase, work, timings[key].of(plan, count), _left(place, stage), place)


def _speed(run: Run, stage: Stage) -> str:
    """Return a digest of what decides how long a step takes: not for how long and at which rate it learns."""
    irrelevant = TrainPlan.model_fields.keys() - {"batch_size", "optimizer", "precision"}
    return canonical_digest(
        {
            "class": f"{type(stage).__module__}.{type(stage).__qualname__}",
            "plan": stage.plan.model_dump(mode="json", exclude=set(irrelevant)),
            "encoder": run.recipe.encoder.model_dump(mode="json"),
            "parameters": sum(parameter.numel() for parameter in stage.parameters()),
        }
    )


class _AttackSeconds(NamedTuple):
    """What attacking a classifier costs an image."""

    forward: float
    gradient: float


def _attack_seconds(run: Run, classifier: Classifier) -> _AttackSeconds:
    recipe, test = run.recipe.downstream, run.target.test
    count = min(len(test.labels), _PROBE_IMAGES)
    images = test.images[:count].to(run.device).float().div(255)
    objective = margin_objective(classifier.prepared(), test.labels[:count].to(run.device))
    threat = Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)

    attack = PGD(steps=1, step_size=0.0, start="clean")

    def gradient() -> Tensor:
        return attack(objective, images, threat=threat)

    @torch.no_grad()
    def value() -> Tensor:
        return objective(images)

    return _AttackSeconds(_seconds(value, run.device) / count, _seconds(gradient, run.device) / count)


def _selection(stage: ProtocolStage[Any], images: int, seconds: _AttackSeconds, left: float) -> Iterator[PhaseEstimate]:
    """Yield the estimate of measuring held-out images after each epoch, where there are any."""
    plan, held_out = stage.plan, images - len(stage.positions(images))
    if held_out:
        work = f"{plural(plan.epochs, 'time')} PGD-{plan.selection_steps} on {plural(held_out, 'held-out image')}"
        each = held_out * (plan.selection_steps * seconds.gradient + seconds.forward)
        yield PhaseEstimate(f"epoch for {stage.name}", work, plan.epochs * each, left)


def _evaluation(run: Run, seconds: _AttackSeconds) -> list[PhaseEstimate]:
    recipe, test = run.recipe.downstream, run.target.test
    settings = recipe.evaluate
    passes = settings.pgd_steps * settings.pgd_restarts
    estimates = [
        PhaseEstimate(
            f"RA, PGD-{settings.pgd_steps}",
            f"{plural(len(test.labels), 'test image')}, {plural(settings.pgd_restarts, 'restart')}",
            len(test.labels) * (passes * seconds.gradient + 2 * seconds.forward),
        )
    ]
    if settings.autoattack:
        attacked = len(autoattack_images(recipe))
        survivor = _AA_GRADIENTS * seconds.gradient + _AA_FORWARDS * seconds.forward
        work = f"standard, {plural(attacked, 'test image')}"
        estimates.append(PhaseEstimate("AA, AutoAttack", work, attacked * _AA_SURVIVORS * survivor))
    if settings.corruptions != "none":
        cells = len(settings.corruption_names) * len(SEVERITIES)
        work = f"{cells} x {plural(len(test.labels), 'image')}"
        estimates.append(PhaseEstimate("common corruptions", work, cells * len(test.labels) * seconds.forward))
    return estimates


def _corrupted(run: Run) -> list[PhaseEstimate]:
    """Return the estimate for making the corrupted images, once a dataset, if they are still to be made."""
    images = run.target.test.images
    missing = run.corruptions.missing(run.target) if run.corruptions and not run.finished else []
    if not missing:
        return []
    few, generator = images[:_PROBE_IMAGES], rng.generator(run.seed, "projection")

    def work() -> None:
        for name in missing:
            corrupt(few, name, 3, generator=generator)

    count = len(missing) * len(SEVERITIES) * len(images)
    seconds = _seconds(work, torch.device("cpu")) / (len(few) * len(missing)) * count
    megabytes = count * images[0].numel() / 1e6
    return [PhaseEstimate("corrupted images", f"{plural(count, 'image')}, {megabytes:.0f} MB", seconds)]


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int = 2) -> float:
    """Return the shortest of ``repeats`` timed calls, after one that is not counted."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
