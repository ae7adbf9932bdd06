"""Times methods side by side, and projects the cost of their whole pre-training."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from bench.cost.probe import StageProbe
from bench.cost.projection import step_digest
from bench.cost.step_times import Effort, StepTimes, time_in_turn
from bench.cost.subject import Subject
from bench.cost.timing import PaperCosts, StageTiming, Timing, compare
from bench.data import on_device
from bench.device import device_name
from bench.errors import BenchError
from bench.method import METHODS, Stage
from bench.record import COST_REFERENCE

_PREPARED_IMAGES = 512
"""Preparation before the first step is timed on this many images; its time is assumed to grow with their number."""


def time_methods(
    subjects: Sequence[Subject],
    effort: Effort,
    *,
    device: torch.device,
    papers: PaperCosts,
    reference: str = COST_REFERENCE,
) -> Timing:
    """Time methods side by side, and compare their projected pre-training with the costs reported in papers.

    Args:
        subjects: the methods, under recipes of one tier for one dataset. Those that cannot be measured in time, or
            cannot train their encoder, are left out.

    Raises:
        BenchError: no method could be measured, or no method is called ``reference``.
    """
    unit = METHODS.get(reference).info.title
    timed = time_pretraining(subjects, effort, device=device)
    if not timed.stages:
        reasons = dict.fromkeys(timed.left_out.values())
        raise BenchError(f"no step of {' or '.join(timed.left_out)} could be measured: {' '.join(reasons)}")
    recipe = subjects[0].recipe
    encoders = {each.recipe.encoder.described for each in subjects}
    return Timing(
        dataset=recipe.dataset.name,
        tier=recipe.tier,
        fidelity=recipe.fidelity,
        encoder=encoders.pop() if len(encoders) == 1 else "",
        width=recipe.encoder.width,
        device=device_name(device),
        torch=torch.__version__,
        rounds=effort.rounds,
        reference=unit,
        left_out=timed.left_out,
        methods=compare(timed.stages, papers, reference),
    )


class Timed(NamedTuple):
    """The stages of methods, by the names of the methods."""

    stages: dict[str, list[StageTiming]]
    left_out: dict[str, str]
    """The reasons why methods could not be timed."""


class _Part(NamedTuple):
    """A stage of a method; its step is measured by the first probe of that digest."""

    owner: Subject
    own: StageProbe
    step: str
    """Digest of its step."""
    preparation: float | None


def time_pretraining(subjects: Sequence[Subject], effort: Effort, *, device: torch.device) -> Timed:
    """Time the stages of all ``subjects``, one a method, alternately, and project the whole cost of each stage.

    Stages with the same step, such as a first stage that methods share, are measured once.
    """
    end = time.perf_counter() + effort.seconds
    probes: dict[str, StageProbe] = {}
    parts: list[_Part] = []
    left_out: dict[str, str] = {}

    def in_time() -> None:
        if time.perf_counter() >= end:
            raise BenchError("the time was up. Raise --time-limit, or choose a smaller encoder with --width.")

    for owner in subjects:
        effort.said(f"building {owner.recipe.method} and counting its operations")
        try:
            in_time()
            images = owner.data.random_images()
            own = [StageProbe(stage, images, device=device) for stage in owner.stages(device)]
            steps = [step_digest(probe.stage, owner.recipe.encoder, owner.data.facts.image_shape) for probe in own]
            measured = {step: probes.get(step, probe) for step, probe in zip(steps, own, strict=True)}
            for probe in measured.values():
                probe.count(in_time)
            in_time()
            prepared = _preparations(owner, device)
        except BenchError as error:  # the time is up, or the method cannot train such an encoder
            left_out[owner.recipe.method] = str(error)
            continue
        probes |= measured
        parts += [_Part(owner, *each) for each in zip(own, steps, prepared, strict=True)]
    if not probes:
        return Timed({}, left_out)
    times = time_in_turn([*probes.values()], replace(effort, seconds=end - time.perf_counter()))
    times_of = dict(zip(probes, times, strict=True))
    stages: dict[str, list[StageTiming]] = {}
    for part in parts:
        timing = _timing(part, probes[part.step], times_of[part.step])
        stages.setdefault(part.owner.recipe.method, []).append(timing)
    return Timed(stages, left_out)


def _timing(part: _Part, measured: StageProbe, times: StepTimes) -> StageTiming:
    stage, plan = part.own.stage, part.own.plan
    images = len(stage.positions(part.owner.data.images))
    passes = measured.passes()
    return StageTiming(
        stage=stage.name,
        epochs=plan.epochs,
        images_per_epoch=plan.images_per_epoch(images),
        published_batch=plan.batch_size,
        precision=stage.plan.precision,
        step=part.step,
        batch=times.batch,
        seconds={size: tuple(values) for size, values in times.seconds.items()},
        step_seconds=times.at(times.batch),
        images_per_second=plan.batch_size / times.step(plan, plan.batch_size),
        forward_backward=passes.both,
        forward=passes.forward,
        flops_per_image=measured.flops_per_image(),
        peak_memory_bytes=measured.memory(plan.batch_size, plan.parts(plan.batch_size)),
        preparation_seconds=part.preparation,
        training_seconds=times.of(plan, images),
    )


def _preparations(owner: Subject, device: torch.device) -> list[float | None]:
    """Return the projected seconds before the first step of each stage; None for a stage without preparation."""
    idle = [type(stage).before_training is Stage.before_training for stage in owner.stages(device)]
    if all(idle):
        return [None] * len(idle)
    few = min(owner.data.images, _PREPARED_IMAGES)
    seconds: list[float | None] = []
    for stage, nothing in zip(owner.stages(device, few), idle, strict=True):
        images = on_device(owner.data.random_images(few), device)
        prepare = partial(stage.before_training, images)
        seconds.append(None if nothing else _second_call(prepare) * owner.data.images / few)
    return seconds


def _second_call(work: Callable[[], None]) -> float:
    """Return the seconds of the second call of ``work``; the first also includes imports."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
