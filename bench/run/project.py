"""What a run will do and how long that takes here: measured on a throw-away copy before anything starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.attack import Threat, cross_entropy_objective, pgd
from bench.evaluate import autoattack_images
from bench.method import Stage
from bench.nn import Classifier
from bench.protocol import build_protocol
from bench.run.encoder import plain_encoder
from bench.run.prepare import Run
from bench.run.stages import StageFolder
from bench.train import StageProbe, check_plan, stage_progress, time_in_turn

_ROUNDS = 2
_STAGE_SECONDS = 5.0
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


def project(run: Run) -> list[PhaseEstimate]:
    """Return an estimate for each phase of ``run``, from timing a few steps of each on untrained weights.

    Raises:
        BenchError: a plan that cannot work on this dataset or device.
    """
    estimates = [] if run.checkpoint else _pretraining(run)
    encoder = plain_encoder(run.recipe).to(run.device)
    for protocol in run.protocols:
        stage = build_protocol(protocol, run.recipe.downstream, encoder, run.target.train.labels, run.seed)
        place = run.place(protocol)
        left = _left(place.path, stage)
        estimates.append(_stage(run, stage, run.target.train.images, f"protocol {protocol}", left))
        estimates += _evaluation(run, stage.classifier(), left=0.0 if place.record.exists() else 1.0)
    return estimates


def _pretraining(run: Run) -> list[PhaseEstimate]:
    method, images = run.method(run.recipe.config), run.dataset.pretraining_images
    estimates = []
    for stage in method.stages(run.context):
        left = _left(StageFolder.of(run, stage).path, stage)
        estimates.append(_stage(run, stage, images, f"stage {stage.name}", left))
    return estimates


def _left(folder: Path, stage: Stage) -> float:
    done = stage_progress(folder, stage.name)
    return 1.0 if done is None else 1 - done.epoch / stage.plan.epochs


def _stage(run: Run, stage: Stage, images: Tensor, phase: str, left: float) -> PhaseEstimate:
    plan, count = stage.plan, len(stage.positions(len(images)))
    probe = StageProbe(stage, images, device=run.device, seed=run.seed)
    check_plan(stage, count, run.device)
    (times,) = time_in_turn([probe], rounds=_ROUNDS, seconds=_STAGE_SECONDS)
    work = f"{plan.epochs} epochs of {plan.steps_per_epoch(count)} batches of {plan.batch_size}"
    return PhaseEstimate(phase, work, times.of(plan, count), left)


def _evaluation(run: Run, classifier: Classifier, *, left: float) -> list[PhaseEstimate]:
    recipe, test = run.recipe.downstream, run.target.test
    settings = recipe.evaluate
    count = min(len(test.labels), _PROBE_IMAGES)
    images = test.images[:count].to(run.device).float().div(255)
    objective = cross_entropy_objective(classifier.prepared(), test.labels[:count].to(run.device))
    threat = Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)

    def gradient() -> Tensor:
        return pgd(objective, images, threat=threat, steps=1, step_size=0.0, start="clean")

    @torch.no_grad()
    def value() -> Tensor:
        return objective(images)

    forward_seconds = _seconds(value, run.device) / count
    gradient_seconds = _seconds(gradient, run.device) / count
    passes = settings.pgd_steps * settings.pgd_restarts
    estimates = [
        PhaseEstimate(
            f"RA, PGD-{settings.pgd_steps}",
            f"{len(test.labels)} test images, {settings.pgd_restarts} restart(s)",
            len(test.labels) * (passes * gradient_seconds + 2 * forward_seconds),
            left,
        )
    ]
    if settings.autoattack:
        attacked = len(autoattack_images(recipe))
        survivor = _AA_GRADIENTS * gradient_seconds + _AA_FORWARDS * forward_seconds
        work = f"standard, {attacked} test images"
        estimates.append(PhaseEstimate("AA, AutoAttack", work, attacked * _AA_SURVIVORS * survivor, left))
    return estimates


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
