"""What timing methods side by side finds, as data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bench.method import METHODS
from bench.recipe import Fidelity, Settings
from bench.record import COST_REFERENCE


class StageTiming(Settings):
    """One stage of a method: a step of it as measured, and all of it as that projects."""

    stage: str
    epochs: int
    images_per_epoch: int
    """Of the dataset; each counts once, however many views it has."""
    published_batch: int
    """Images in a step of the recipe."""
    precision: str
    """In which it was timed; a CPU takes fp32 for fp16."""
    batch: int
    """Images in the timed steps: the recipe's, or fewer where those would take too long."""
    seconds: dict[int, tuple[float, ...]]
    """A timed step's, by the images in it, one a round."""
    step_seconds: float
    """Their median at ``batch``."""
    images_per_second: float
    """At the recipe's batch: where that was not timed, on the line through the two batches that were."""
    forward_backward: float
    """Passes of an image through a network in a step, forward and backward, counted."""
    forward: float
    """Forward only."""
    flops_per_image: float
    """Of a step at the recipe's batch, two a multiply-add, divided by its images."""
    peak_memory_bytes: int
    """Of the tensors that live at the peak of a step at the recipe's batch."""
    preparation_seconds: float | None
    """Projected, of what precedes the first step (pseudo-labels); None for a stage without it."""
    training_seconds: float
    """Projected, of all steps."""

    @property
    def total_seconds(self) -> float:
        """Projected, of the whole stage."""
        return self.training_seconds + (self.preparation_seconds or 0.0)

    @property
    def total_flops(self) -> float:
        """Of all steps; what precedes them is not counted."""
        return self.flops_per_image * self.images_per_epoch * self.epochs


class MethodTiming(Settings):
    """A method's pre-training, and what its paper says of it."""

    method: str
    title: str
    outside: str
    """What it uses beside the images."""
    stages: tuple[StageTiming, ...]
    total_seconds: float
    total_flops: float
    to_reference: float | None
    """Its total in units of the reference's; None where that was not timed."""
    flops_to_reference: float | None
    paper_gpu_days: float | None
    paper_gpus: int | None
    paper_to_reference: float | None


class Timing(Settings):
    """Methods timed side by side, on one machine, at one go."""

    dataset: str
    tier: str
    fidelity: Fidelity
    width: int
    """Of the encoder; the published one is 64."""
    device: str
    torch: str
    rounds: int
    reference: str
    """Title of the method in whose units costs are given."""
    left_out: tuple[str, ...] = ()
    """Methods that the time did not suffice for."""
    methods: tuple[MethodTiming, ...]


class PaperCost(Protocol):
    """A paper's word on what its method costs, on GPUs of its own."""

    @property
    def gpu_days(self) -> float:
        """Of all stages."""

    @property
    def gpus(self) -> int | None:
        """How many; None: it does not say."""


PaperCosts = Callable[[str], PaperCost | None]
"""From a method's title to what papers say it costs; None: nothing."""


def compare(
    timed: Mapping[str, Sequence[StageTiming]], papers: PaperCosts, reference: str = COST_REFERENCE
) -> tuple[MethodTiming, ...]:
    """Return the methods with the stages that were timed of each, and the ratios to ``reference`` if it is among them.

    Raises:
        BenchError: no method called ``reference``.
    """
    seconds = {name: sum(stage.total_seconds for stage in stages) for name, stages in timed.items()}
    flops = {name: sum(stage.total_flops for stage in stages) for name, stages in timed.items()}
    unit = papers(METHODS.get(reference).info.title)
    methods = []
    for name, stages in timed.items():
        info = METHODS.get(name).info
        paper = papers(info.title)
        methods.append(
            MethodTiming(
                method=name,
                title=info.title,
                outside=info.outside,
                stages=tuple(stages),
                total_seconds=seconds[name],
                total_flops=flops[name],
                to_reference=seconds[name] / seconds[reference] if reference in timed else None,
                flops_to_reference=flops[name] / flops[reference] if reference in timed else None,
                paper_gpu_days=paper.gpu_days if paper else None,
                paper_gpus=paper.gpus if paper else None,
                paper_to_reference=paper.gpu_days / unit.gpu_days if paper and unit else None,
            )
        )
    return tuple(methods)
