"""Section 2: seconds a step of training stages in every mode, beside the card's measured matrix product."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from conditions import BF16, COMPILED, FP32, TF32, Conditions, Mode, seconds_of, tf32
from sections import Finding, Part
from torch import Tensor

from bench import rng
from bench.cost import Data, StageProbe, StepTimes, Subject, random_facts, step_digest
from bench.device import PeakMemory
from bench.method import Stage
from bench.nn import build_encoder
from bench.protocol import build_protocol
from bench.recipe import TrainPlan, load_tier

SSL, STUDENT, LINEAR, ADVERSARIAL = "DeACL stage 1 = SimCLR", "DeACL stage 2, PGD-5", "SLF", "PGD-10 training"
_MOST_STEPS = 50
_PRODUCTS = 20
_UNITS: Mapping[str, tuple[torch.dtype, bool]] = {
    "fp32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "fp16": (torch.float16, True),
    "bf16": (torch.bfloat16, True),
}
_OVERRIDES = {
    # Madry et al.'s adversarial training, from scratch, as the bench has it: AFF on cross-entropy.
    "aff.loss": "pgd",
    "aff.steps": 10,
    "aff.epochs": 100,
}


class Cell(NamedTuple):
    """What is timed: steps of a stage on a batch in a mode."""

    stage: str
    batch: int
    mode: Mode

    def __str__(self) -> str:
        return f"{self.stage}, batch {self.batch}, {self.mode.name}"


class Steps:
    """The section, and its results."""

    images = 50_000
    """To train on, as CIFAR-10 has them; here they are noise."""

    def __init__(self, given: Conditions) -> None:
        self._given = given
        self.times: dict[Cell, StepTimes] = {}
        self._peaks: dict[str, float] = {}
        self._flops: dict[tuple[str, int], int] = {}

    def parts(self) -> list[Part]:
        """Return the parts: what compiles, and so takes longest, is last."""
        published, larger = self._given.batches
        self.published = {STUDENT: published, SSL: published, ADVERSARIAL: larger, LINEAR: larger}
        trained = (STUDENT, SSL, ADVERSARIAL)
        other = {name: published + larger - self.published[name] for name in trained}
        cells = [
            Cell(name, batch, mode)
            for modes, batches in (
                ((TF32, BF16), self.published),
                ((TF32, BF16), other),
                ((FP32, COMPILED), self.published),
                ((COMPILED,), other),
            )
            for mode in modes
            if mode in self._given.modes
            for name, batch in batches.items()
        ]
        steps = [Part(str(cell), partial(self._time, cell)) for cell in dict.fromkeys(cells)]
        return [Part("matrix product", self._matrix_product), *steps]

    def plan(self, stage: str, batch: int) -> TrainPlan:
        """Return the published plan of ``stage`` with batches of ``batch`` images."""
        return self._stages[stage].plan.model_copy(update={"batch_size": batch})

    def _matrix_product(self, left: float) -> Finding:
        given = self._given
        generator = rng.generator(0, "matrix", device=given.device)
        # Not a constant: a chip that switches fewer bits draws less power and runs faster.
        matrix = torch.randn(given.matrix, given.matrix, device=given.device, generator=generator)
        for unit, (dtype, allowed) in _UNITS.items():
            with tf32(allowed):
                work = partial(_square, matrix.to(dtype))
                work(1)
                seconds = seconds_of(partial(work, _PRODUCTS), given.device)
            self._peaks[unit] = _PRODUCTS * 2 * given.matrix**3 / seconds
        text = ", ".join(f"{unit} {peak / 1e12:.4g}" for unit, peak in self._peaks.items())
        return Finding(f"{text} TFLOP/s", {"side": given.matrix, "flops_per_second": dict(self._peaks)})

    def _time(self, cell: Cell, left: float) -> Finding:
        given = self._given
        flops = self._operations(cell.stage, cell.batch)
        memory = PeakMemory(given.device)
        with cell.mode.used(given.compiler):
            probe = self._probe(cell)
            probe.seconds(cell.batch)  # kernels are chosen, and code is compiled
            rough = probe.seconds(cell.batch)
            steps = max(1, min(_MOST_STEPS, int(given.seconds_a_round / rough)))
            times = StepTimes({cell.batch: [probe.seconds(cell.batch, steps) for _ in range(given.rounds)]})
        self.times[cell] = times
        stage = self._planned(cell)
        seconds = times.at(cell.batch)
        subject = self._subject
        figures: dict[str, Any] = {
            **{"stage": cell.stage, "batch": cell.batch, "mode": cell.mode.name, "steps_a_round": steps},
            **{"seconds": times.seconds[cell.batch], "images_per_second": cell.batch / seconds},
            # What `bench plan` recognises the step by, in the modes that the bench itself computes in.
            **(
                {"step": step_digest(stage, subject.recipe.encoder, subject.data.facts.image_shape)}
                if cell.mode in (FP32, BF16)
                else {}
            ),
            **{"flops": flops, "flops_per_second": flops / seconds, "peak_memory_bytes": memory.bytes},
        }
        text = f"{1000 * seconds:.4g} ms, {cell.batch / seconds:,.0f} images/s, {flops / seconds / 1e12:.3g} TFLOP/s"
        if peak := self._peaks.get(cell.mode.unit):
            figures["share_of_peak"] = flops / seconds / peak
            text += f", {flops / seconds / peak:.0%} of {cell.mode.unit}'s peak"
        return Finding(f"{text}, {(memory.bytes or 0) / 2**30:.1f} GiB", figures)

    def _operations(self, stage: str, batch: int) -> int:
        """Return the operations of a step, counted in code that is not compiled; the same in every mode."""
        if (stage, batch) not in self._flops:
            probe = self._probe(Cell(stage, batch, TF32))
            self._flops |= {(stage, size): probe.flops(size) for size in self._given.batches}
        return self._flops[stage, batch]

    def _probe(self, cell: Cell) -> StageProbe:
        return StageProbe(self._planned(cell), self._images, device=self._given.device)

    def _planned(self, cell: Cell) -> Stage:
        stage = deepcopy(self._stages[cell.stage])
        stage.plan = stage.plan.model_copy(update={"batch_size": cell.batch, "precision": cell.mode.precision})
        return stage

    @cached_property
    def _images(self) -> Tensor:
        return self._subject.data.random_images()

    @cached_property
    def _subject(self) -> Subject:
        data = Data(random_facts("noise", (3, self._given.side, self._given.side), 10, self.images), self.images)
        overrides = {"encoder.width": self._given.width, **_OVERRIDES}
        return Subject.of("deacl", data, tier=load_tier("paper"), overrides=overrides)

    @cached_property
    def _stages(self) -> dict[str, Stage]:
        """Untrained, on the CPU; each is copied where it is measured."""
        recipe, cpu = self._subject.recipe, torch.device("cpu")
        facts = recipe.dataset
        labels = torch.arange(self.images) % facts.num_classes
        stages = dict(zip((SSL, STUDENT), self._subject.stages(cpu), strict=True))
        for name, protocol in ((LINEAR, "slf"), (ADVERSARIAL, "aff")):
            with rng.scoped(0, "encoder", name):
                encoder = build_encoder(recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)
            stages[name] = build_protocol(protocol, recipe, encoder, labels, seed=0)
        return stages


def _square(matrix: Tensor, times: int) -> None:
    for _ in range(times):
        matrix @ matrix
