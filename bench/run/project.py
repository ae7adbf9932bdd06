"""What a run will do and how long that takes here: measured on a throw-away copy before anything starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import rng
from bench.attack import Threat, cross_entropy_objective, pgd
from bench.evaluate import autoattack_images
from bench.method import Stage
from bench.nn import Classifier
from bench.protocol import build_protocol
from bench.recipe import TrainPlan, canonical_digest
from bench.run.folder import ProtocolFolder
from bench.run.prepare import Run
from bench.run.stages import StageFolder
from bench.train import check_plan, forward, stage_progress

_PROBE_IMAGES = 64
"""Images a timed batch holds on a CPU, where time is proportional to images and a full batch takes minutes."""

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


def project(run: Run, timings: dict[str, float] | None = None) -> list[PhaseEstimate]:
    """Return an estimate for each phase of ``run``, from timing a few steps of each on untrained weights.

    Args:
        run: what to project.
        timings: what was measured for earlier runs, and is not measured again; this run's are added.

    Raises:
        BenchError: a plan that cannot work on this dataset or device.
    """
    timings = {} if timings is None else timings
    method = run.method(run.recipe.config)
    images = run.dataset.pretraining_images
    estimates = []
    for stage in method.stages(run.context):
        place = StageFolder.of(run, stage).path
        estimates.append(_stage(run, stage, images, f"stage {stage.name}", place, timings))
    encoder = method.result().to(run.device)
    for protocol in run.protocols:
        stage = build_protocol(protocol, run.recipe, encoder, run.dataset.train.labels, run.seed)
        home = run.folder.protocol(protocol)
        estimates.append(_stage(run, stage, run.dataset.train.images, f"protocol {protocol}", home.path, timings))
        estimates += _evaluation(run, stage.classifier(), home, timings)
    return estimates


def _left(folder: Path, stage: Stage) -> float:
    done = stage_progress(folder, stage.name)
    return 1.0 if done is None else 1 - done.epoch / stage.plan.epochs


def _stage(run: Run, stage: Stage, images: Tensor, phase: str, place: Path, timings: dict[str, float]) -> PhaseEstimate:
    plan, stage = stage.plan, stage.to(run.device).train()
    if plan.precision == "fp16" and run.device.type == "cpu":
        stage.plan = plan.model_copy(update={"precision": "fp32"})  # a CPU can tell how long, but not do it
    check_plan(stage, len(images), run.device)
    steps = plan.steps_per_epoch(len(images))
    probe = plan.batch_size if run.device.type != "cpu" else min(plan.batch_size, _PROBE_IMAGES)
    index = torch.arange(probe, device=run.device)
    batch = images[:probe].to(run.device)

    def step() -> None:
        generator = rng.generator(run.seed, "projection", device=run.device)
        forward(stage, batch, generator, index).total.backward()

    key = _speed_key(run, stage)
    if key not in timings:
        timings[key] = _seconds(step, run.device) / probe
    processed = plan.epochs * (steps * plan.batch_size if plan.drop_last else len(images))
    work = f"{plan.epochs} epochs of {steps} batches of {plan.batch_size}"
    return PhaseEstimate(phase, work, timings[key] * processed, _left(place, stage), place)


def _speed_key(run: Run, stage: Stage) -> str:
    """Return what steps of equal speed have in common; how long and how fast a stage learns is no part of it."""
    same_speed = TrainPlan.model_fields.keys() - {"batch_size", "optimizer", "precision"}
    return canonical_digest(
        {
            "class": f"{type(stage).__module__}.{type(stage).__qualname__}",
            "plan": stage.plan.model_dump(mode="json", exclude=set(same_speed)),
            "encoder": run.recipe.encoder.model_dump(mode="json"),
            "parameters": sum(parameter.numel() for parameter in stage.parameters()),
        }
    )


def _evaluation(
    run: Run, classifier: Classifier, home: ProtocolFolder, timings: dict[str, float]
) -> list[PhaseEstimate]:
    settings, test = run.recipe.evaluate, run.dataset.test
    count = min(len(test.labels), _PROBE_IMAGES)
    images = test.images[:count].to(run.device).float().div(255)
    objective = cross_entropy_objective(classifier.prepared(), test.labels[:count].to(run.device))
    threat = Threat(norm=run.recipe.threat.norm, eps=run.recipe.eval_eps)

    def gradient() -> Tensor:
        return pgd(objective, images, threat=threat, steps=1, step_size=0.0, start="clean")

    @torch.no_grad()
    def value() -> Tensor:
        return objective(images)

    key = canonical_digest([run.recipe.encoder.model_dump(mode="json"), count])
    for name, work in (("forward", value), ("gradient", gradient)):
        if name + key not in timings:
            timings[name + key] = _seconds(work, run.device) / count
    forward_seconds, gradient_seconds = timings["forward" + key], timings["gradient" + key]
    left = 0.0 if home.record.exists() else 1.0
    passes = settings.pgd_steps * settings.pgd_restarts
    estimates = [
        PhaseEstimate(
            f"RA, PGD-{settings.pgd_steps}",
            f"{len(test.labels)} test images, {settings.pgd_restarts} restart(s)",
            len(test.labels) * (passes * gradient_seconds + 2 * forward_seconds),
            left,
            home.path,
        )
    ]
    if settings.autoattack:
        attacked = len(autoattack_images(run.recipe))
        survivor = _AA_GRADIENTS * gradient_seconds + _AA_FORWARDS * forward_seconds
        seconds = attacked * _AA_SURVIVORS * survivor
        estimates.append(PhaseEstimate("AA, AutoAttack", f"standard, {attacked} test images", seconds, left, home.path))
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
