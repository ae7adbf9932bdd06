"""Profiles: steps and attacks that were measured on another machine, from files of the bench."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cost.projection import AttackSeconds, PhaseEstimate, Projector, Step, attack_digest, step_digest
from bench.cost.step_times import StepTimes
from bench.data import Split
from bench.errors import BenchError
from bench.files import read_json
from bench.method import Stage
from bench.nn import Classifier
from bench.recipe import EncoderSettings, Precision, Threat


class Profile(Projector):
    """Projects from measured steps without measuring anything; what the files do not hold is NaN seconds.

    Args:
        paths: files that ``make gpu-check`` or ``bench timing --output`` wrote, all on one kind of device.
        said: see :class:`Projector`.

    Raises:
        BenchError: no such file, another file, one of a dry run, whose numbers mean nothing, or several devices.
    """

    def __init__(self, paths: Sequence[Path], said: Callable[[str], None] = lambda message: None) -> None:
        super().__init__(torch.device("cpu"), said)
        devices = {}
        for path in paths:
            values = read_json(path)
            try:
                devices[self._take(values)] = path
                dry = "environment" in values and values["environment"].get("dry_run")
            except (KeyError, TypeError, ValueError, AttributeError):
                raise BenchError(
                    f"{path} is not a file of make gpu-check or bench timing --output. Name its gpu-check.json."
                ) from None
            if dry:
                raise BenchError(f"{path} is of a dry run, whose numbers mean nothing. Type make gpu-check on the GPU.")
        if len(devices) > 1:
            shown = "; ".join(f"{path}: {name}" for name, path in devices.items())
            raise BenchError(f"the files of --profile were measured on several devices ({shown}). Name those of one.")
        self.device_name = next(iter(devices))

    def _take(self, values: Any) -> str:
        """Keep the measurements in ``values``, and return the device."""
        if "methods" in values:
            for stage in (stage for method in values["methods"] for stage in method["stages"]):
                if stage.get("step"):
                    seconds = {int(batch): list(map(float, times)) for batch, times in stage["seconds"].items()}
                    self._steps[stage["step"]] = Step(StepTimes(seconds), float(stage["flops_per_image"]))
            return str(values["device"])
        for figures in (row["figures"] for row in values["rows"]):
            if "step" in figures:
                batch, flops = int(figures["batch"]), figures.get("flops")
                steps = StepTimes({batch: list(map(float, figures["seconds"]))})
                self._steps[figures["step"]] = Step(steps, None if flops is None else float(flops) / batch)
            if "attacked" in figures:
                found = AttackSeconds(float(figures["forward"]), float(figures["gradient"]))
                self._attacks[figures["attacked"]] = found
        return str(values["environment"]["device"])

    def training(
        self, stage: Stage, images: Tensor, encoder: EncoderSettings, phase: str, place: Path
    ) -> PhaseEstimate:
        """Return the estimate of training ``stage``, from the step with the same class, plan, encoder and batch."""
        step = self._steps.get(step_digest(stage, encoder, images.shape[1:]))
        return self._estimate(step, stage.plan, len(stage.positions(len(images))), phase, 1.0, place)

    def attacks(self, classifier: Classifier, test: Split, threat: Threat, precision: Precision) -> AttackSeconds:
        """Return the cost of attacking a classifier of the same size on images of the same shape."""
        digest = attack_digest(classifier, test.images.shape[1:], precision)
        return self._attacks.get(digest, AttackSeconds(math.nan, math.nan))
