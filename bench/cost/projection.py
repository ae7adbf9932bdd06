"""Projected time of a run's phases on this machine: a few steps and attacks, timed on untrained weights."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import rng
from bench.attack import PGD, NamedAttack, margin_objective
from bench.cost.probe import StageProbe
from bench.cost.step_times import Effort, StepTimes, time_in_turn
from bench.data import Split, unit_pixels
from bench.data.corruptions import corrupt
from bench.doctor import SAMPLE
from bench.evaluation import AUTOATTACK_PASSES, attacked_copy, autoattack_images, evaluation_progress, phase_of
from bench.method import Stage
from bench.monitor import plural
from bench.nn import Classifier
from bench.protocol import FinetuneStage
from bench.recipe import (
    SEVERITIES,
    EncoderSettings,
    MethodConfig,
    Precision,
    Recipe,
    Threat,
    TrainPlan,
    canonical_digest,
)
from bench.train import check_plan, stage_progress

_STEPS = Effort(rounds=2, seconds=10.0, patience=10.0)
"""The time limit for the steps of one stage; a slow machine exceeds it by its first step."""
_FEW_STEPS = Effort(rounds=1, seconds=0.0, patience=2.0)
"""The same for a grid, which has many stages: its first steps are all."""

_PROBE_IMAGES = 64
"""Images that are attacked to time an evaluation."""
_FEW_IMAGES = 16
"""The same for a grid."""

_AA_SURVIVORS = 0.5
"""Assumed share of images that survive; the true share is not known in advance."""
_DOCTOR_GRADIENTS = 80
"""Cost of the doctor's checks for an image of their sample. In the records of ResNets of width 8 they took the time of
60 to 115 gradients of RA's attack, whatever its steps: small batches, and some sums in float64."""


@dataclass(frozen=True)
class PhaseEstimate:
    """The estimate for one phase of a run."""

    phase: str
    work: str
    """In words: "60 epochs of 22 batches of 64"."""
    seconds: float
    """Of the whole phase on this machine."""
    left: float = 1.0
    """Share of the phase that is still to do."""
    place: Path = Path()
    """The folder of its state."""
    flops: float | None = None
    """Operations of the whole phase, from those of a step on a few images; None: not counted."""
    batch: int | None = None
    """Images in a step of a stage; None: it has no steps."""
    timed: int | None = None
    """Images in the largest step that was timed; None: no step was timed."""

    @property
    def identity(self) -> tuple[Path, str]:
        """Phases of several runs with the same identity are one phase, which is carried out once."""
        return self.place, self.phase

    @property
    def seconds_left(self) -> float:
        """Seconds of what is still to do."""
        return self.seconds * self.left


class Step(NamedTuple):
    """A step of one kind."""

    times: StepTimes
    flops: float | None
    """Operations divided by the images; None: not counted."""


class Projector:
    """Times the parts of runs on one device; steps and attacks that cost the same are timed once.

    Args:
        device: where to measure.
        said: called with what is being measured.
        many: whether they are the runs of a grid: then fewer and smaller steps and attacks are timed, each kind of step
            for about two seconds.
        timed: False: nothing is timed, and the seconds of all phases are NaN.
    """

    def __init__(
        self,
        device: torch.device,
        said: Callable[[str], None] = lambda message: None,
        *,
        many: bool = False,
        timed: bool = True,
    ) -> None:
        self.device, self.said, self._many, self._timed = device, said, many, timed
        self._steps: dict[str, Step] = {}
        self._attacks: dict[str, AttackSeconds] = {}

    def training(
        self, stage: Stage, images: Tensor, encoder: EncoderSettings, phase: str, place: Path
    ) -> PhaseEstimate:
        """Return the estimate of training ``stage``, called ``phase``, on uint8 ``images``; its state is in ``place``.

        Raises:
            BenchError: a plan that cannot work on these images or this device.
        """
        count = len(stage.positions(len(images)))
        probe = StageProbe(stage, images, device=self.device)  # which a CPU takes in fp32 where the plan has fp16
        check_plan(stage, count, self.device)
        kind = step_digest(stage, encoder, images.shape[1:])
        if kind not in self._steps and self._timed:
            self.said(f"measuring this machine: {phase}")
            (times,) = time_in_turn([probe], _FEW_STEPS if self._many else _STEPS)
            self._steps[kind] = Step(times, probe.rough_flops)
        done = stage_progress(place, stage.name)
        left = 1.0 if done is None else 1 - done.epochs(stage.plan.steps_per_epoch(count)) / stage.plan.epochs
        return self._estimate(self._steps.get(kind), probe.plan, count, phase, left, place)

    def attacks(self, classifier: Classifier, test: Split, threat: Threat, precision: Precision) -> "AttackSeconds":
        """Return the cost of attacking ``classifier`` on images of ``test``, with gradients in ``precision``."""
        if not self._timed:
            return AttackSeconds(math.nan, math.nan)
        kind = attack_digest(classifier, test.images.shape[1:], precision)
        if kind not in self._attacks:
            self.said("measuring this machine: attacks")
            self._attacks[kind] = self._time_attacks(classifier, test, threat, precision)
        return self._attacks[kind]

    def _time_attacks(
        self, classifier: Classifier, test: Split, threat: Threat, precision: Precision
    ) -> "AttackSeconds":
        count = min(len(test.labels), _FEW_IMAGES if self._many else _PROBE_IMAGES)
        images = unit_pixels(test.images[:count].to(self.device))
        objective = margin_objective(attacked_copy(classifier, precision), test.labels[:count].to(self.device))
        attack = PGD(steps=1, step_size=0.0, start="clean")

        @torch.no_grad()
        def forward() -> Tensor:
            return objective(images)

        def gradient() -> Tensor:
            return attack(objective, images, threat=threat)

        return AttackSeconds(_seconds(forward, self.device) / count, _seconds(gradient, self.device) / count)

    def corrupted_images(self, images: Tensor, missing: Sequence[str]) -> PhaseEstimate:
        """Return the estimate for making the corruptions ``missing`` of uint8 ``images``, done once per dataset."""
        few, generator = images[:_PROBE_IMAGES], rng.generator(0, "projection")

        def work() -> None:
            for name in missing:
                corrupt(few, name, 3, generator=generator)

        count = len(missing) * len(SEVERITIES) * len(images)
        seconds = _seconds(work, torch.device("cpu")) if self._timed else math.nan
        work_text = f"{plural(count, 'image')}, {math.ceil(count * images[0].numel() / 1e6)} MB"
        return PhaseEstimate("corrupted images", work_text, seconds / (len(few) * len(missing)) * count)

    @staticmethod
    def _estimate(
        step: Step | None, plan: TrainPlan, count: int, phase: str, left: float, place: Path
    ) -> PhaseEstimate:
        """Return the estimate of training by ``plan`` on ``count`` images; NaN seconds without a ``step``."""
        work = f"{plural(plan.epochs, 'epoch')} of {plural(plan.steps_per_epoch(count), 'batch')} of {plan.batch_size}"
        if step is None:
            return PhaseEstimate(phase, work, math.nan, left, place)
        flops = None if step.flops is None else step.flops * plan.images_per_epoch(count) * plan.epochs
        seconds, timed = step.times.of(plan, count), step.times.batch
        return PhaseEstimate(phase, work, seconds, left, place, flops, plan.batch_size, timed)


class AttackSeconds(NamedTuple):
    """Seconds per image of a forward pass and of a gradient, for attacks on one classifier."""

    forward: float
    gradient: float

    def selection(self, stage: FinetuneStage[Any], images: int) -> Iterator[PhaseEstimate]:
        """Yield the estimate for attacking the held-out ones of ``images`` after each epoch, if there are any."""
        plan, held_out = stage.plan, images - len(stage.positions(images))
        if held_out:
            work = f"{plural(plan.epochs, 'time')} PGD-{plan.selection_steps} on {plural(held_out, 'held-out image')}"
            each = held_out * (plan.selection_steps * self.gradient + self.forward)
            yield PhaseEstimate(f"epoch for {stage.name}", work, plan.epochs * each)

    def features(self, protocol: str, images: int, place: Path) -> PhaseEstimate:
        """Return the estimate for ``protocol``, which passes each training image through the encoder once."""
        left = 1.0 if stage_progress(place, protocol) is None else 0.0
        work = f"features of {plural(images, 'image')}"
        return PhaseEstimate(f"protocol {protocol}", work, images * self.forward, left, place)

    def evaluation(self, recipe: Recipe, place: Path) -> Iterator[PhaseEstimate]:
        """Yield the estimates for the evaluation of a classifier under ``recipe``; its state is in ``place``."""
        done = evaluation_progress(place, recipe)

        def estimate(measured: str, phase: str, work: str, seconds: float) -> PhaseEstimate:
            return PhaseEstimate(phase, work, seconds, 1 - done.get(measured, 0.0), place)

        settings, count = recipe.evaluate, recipe.dataset.test_images
        attack = NamedAttack(settings.attack, settings)
        passes = attack.gradients * settings.pgd_restarts
        work = f"{plural(count, 'test image')}, {plural(settings.pgd_restarts, 'restart')}"
        seconds = count * (passes * self.gradient + 2 * self.forward)
        yield estimate("ra", f"RA, {attack.title}", work, seconds)
        if settings.autoattack:
            attacked = len(autoattack_images(recipe))
            each = AUTOATTACK_PASSES.values()
            survivor = sum(gradients * self.gradient + forwards * self.forward for gradients, forwards in each)
            work = f"standard, {plural(attacked, 'test image')}"
            yield estimate("aa", "AA, AutoAttack", work, attacked * _AA_SURVIVORS * survivor)
        for name in settings.attacks:
            attacked = len(autoattack_images(recipe))
            seconds = attacked * NamedAttack(name, settings).gradients * self.gradient
            yield estimate(phase_of(name), f"attack {name}", f"at most {plural(attacked, 'test image')}", seconds)
        if settings.corruptions != "none":
            cells = len(settings.corruption_names) * len(SEVERITIES)
            work = f"{cells} x {plural(count, 'image')}"
            yield estimate("corruptions", "common corruptions", work, cells * count * self.forward)
        sample = min(SAMPLE, count)
        seconds = sample * _DOCTOR_GRADIENTS * self.gradient
        yield estimate("doctor", "the doctor's checks", plural(sample, "test image"), seconds)


def step_digest(stage: Stage, encoder: EncoderSettings, image_shape: Sequence[int]) -> str:
    """Return a digest of what determines the time of a step; epochs, learning rate and a protocol's classes do not."""
    network = stage.encoder if isinstance(stage, FinetuneStage) else stage
    irrelevant = TrainPlan.model_fields.keys() - {"batch_size", "optimizer", "precision"}
    values = {
        "class": f"{type(stage).__module__}.{type(stage).__qualname__}",
        "plan": stage.plan.model_dump(mode="json", exclude=set(irrelevant)),
        "encoder": encoder.model_dump(mode="json"),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "image_shape": list(image_shape),
    }
    kept = {} if isinstance(stage, FinetuneStage) else _kept_settings(stage)
    return canonical_digest({**values, "settings": kept} if kept else values)


def _kept_settings(stage: Stage) -> dict[str, Any]:
    """Return the attributes of ``stage`` that hold settings beside its plan, such as the variant of a loss.

    Not all settings of the method: they would tell apart stages that methods share, as DeACL's first is SimCLR's.
    """
    kept: dict[str, Any] = {}
    for name, value in vars(stage).items():
        if isinstance(value, MethodConfig):
            kept[name] = value.model_dump(mode="json", exclude=set(value.plans()))
        elif inspect.isroutine(value):  # a loss chosen by a setting
            kept[name] = value.__qualname__
        elif isinstance(value, str | int | float) and name != "training":
            kept[name] = str(value)
    return kept


def attack_digest(classifier: Classifier, image_shape: Sequence[int], precision: Precision) -> str:
    """Return a digest of what determines the time of a gradient with respect to images; the classes do not."""
    encoder = classifier.encoder
    return canonical_digest(
        {
            "class": type(encoder.backbone).__qualname__,
            "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "image_shape": list(image_shape),
            "precision": precision,
        }
    )


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int = 2) -> float:
    """Return the shortest of ``repeats`` timed calls, after a warm-up call."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
