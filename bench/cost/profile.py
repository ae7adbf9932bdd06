"""A profile: steps and attacks that were measured on another machine, from the file that ``make gpu-check`` writes."""

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cost.projection import AttackSeconds, PhaseEstimate, Projector, attack_digest, step_digest
from bench.cost.step_times import StepTimes
from bench.data import Split
from bench.errors import BenchError
from bench.files import read_json
from bench.method import Stage
from bench.nn import Classifier
from bench.recipe import EncoderSettings, Precision, Threat


class Profile(Projector):
    """Projects from measured steps without measuring anything; what the file does not hold is NaN seconds.

    Raises:
        BenchError: no such file, another file, or one of a dry run, whose numbers mean nothing.
    """

    def __init__(self, path: Path, said: Callable[[str], None] = lambda message: None) -> None:
        super().__init__(torch.device("cpu"), said)
        times: dict[str, dict[int, list[float]]] = defaultdict(dict)
        self._attacks: dict[str, AttackSeconds] = {}
        try:
            values = read_json(path)
            self.device_name = str(values["environment"]["device"])
            dry = bool(values["environment"]["dry_run"])
            for row in values["rows"]:
                figures: dict[str, Any] = row["figures"]
                if "step" in figures:
                    times[figures["step"]][int(figures["batch"])] = [float(each) for each in figures["seconds"]]
                if "attacked" in figures:
                    self._attacks[figures["attacked"]] = AttackSeconds(
                        float(figures["forward"]), float(figures["gradient"])
                    )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BenchError(f"{path} is not a file of make gpu-check. Name its gpu-check.json.") from None
        if dry:
            raise BenchError(f"{path} is of a dry run, whose numbers mean nothing. Type make gpu-check on the GPU.")
        self._times = {digest: StepTimes(seconds) for digest, seconds in times.items()}

    def training(
        self, stage: Stage, images: Tensor, encoder: EncoderSettings, phase: str, place: Path
    ) -> PhaseEstimate:
        """Return the estimate of training ``stage``, from the step with the same class, plan, encoder and batch."""
        plan, count = stage.plan, len(stage.positions(len(images)))
        times = self._times.get(step_digest(stage, encoder))
        return PhaseEstimate(phase, self._work(plan, count), times.of(plan, count) if times else math.nan, 1.0, place)

    def attacks(self, classifier: Classifier, test: Split, threat: Threat, precision: Precision) -> AttackSeconds:
        """Return the cost of attacking a classifier of the same size on images of the same shape."""
        digest = attack_digest(classifier, test.images.shape[1:], precision)
        return self._attacks.get(digest, AttackSeconds(math.nan, math.nan))
