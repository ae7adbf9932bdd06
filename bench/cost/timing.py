"""The result of timing methods side by side, as data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bench.method import METHODS
from bench.own_code import is_own
from bench.recipe import Fidelity, Settings
from bench.record import COST_REFERENCE


class StageTiming(Settings):
    """One stage of a method: a measured step, and the projection for the whole stage."""

    stage: str
    epochs: int
    images_per_epoch: int
    """Images of the dataset; each counts once, regardless of its number of views."""
    published_batch: int
    """Images in a step of the recipe."""
    precision: str
    """The precision of the timed steps; a CPU uses fp32 instead of fp16."""
    step: str | None = None
    """Digest of what determines the time of the timed step, by which ``bench plan`` finds it."""
    batch: int
    """Images in the timed steps: the recipe's batch, or fewer if that would take too long."""
    seconds: dict[int, tuple[float, ...]]
    """Seconds of the timed steps by batch size, one per round."""
    step_seconds: float
    """Their median at ``batch``."""
    images_per_second: float
    """At the recipe's batch; if that was not timed, on the line through the two timed batches."""
    forward_backward: float
    """Passes of an image through a network in a step, forward and backward, counted."""
    forward: float
    """Forward only."""
    flops_per_image: float
    """Operations of a step at the recipe's batch, two per multiply-add, divided by its images."""
    peak_memory_bytes: int
    """Bytes of all tensors at the peak of a step at the recipe's batch."""
    preparation_seconds: float | None
    """Projected seconds before the first step (pseudo-labels); None for a stage without preparation."""
    training_seconds: float
    """Projected seconds of all steps."""

    @property
    def total_seconds(self) -> float:
        """Projected seconds of the whole stage."""
        return self.training_seconds + (self.preparation_seconds or 0.0)

    @property
    def total_flops(self) -> float:
        """Operations of all steps; preparation is not counted."""
        return self.flops_per_image * self.images_per_epoch * self.epochs


class MethodTiming(Settings):
    """The cost of a method's pre-training, measured here and reported in its paper."""

    method: str
    title: str
    outside: str
    """What it uses in addition to the images."""
    stages: tuple[StageTiming, ...]
    total_seconds: float
    total_flops: float
    to_reference: float | None
    """Its total divided by the reference's; None if the reference was not timed."""
    flops_to_reference: float | None
    paper_gpu_days: float | None
    paper_gpus: int | None
    paper_to_reference: float | None


class Timing(Settings):
    """Methods timed side by side, on one machine, in one session."""

    dataset: str
    tier: str
    fidelity: Fidelity
    encoder: str = ""
    """What all methods train; empty: each its own."""
    width: int
    """Of the encoder, if it is one of the bench's; the published one is 64."""
    device: str
    torch: str
    rounds: int
    reference: str
    """Title of the method whose cost is the unit."""
    left_out: dict[str, str] = {}
    """The reasons why methods could not be timed, by their names."""
    methods: tuple[MethodTiming, ...]


class PaperCost(Protocol):
    """The cost of a method as its paper reports it, on the paper's GPUs."""

    @property
    def gpu_days(self) -> float:
        """GPU days of all stages."""

    @property
    def gpus(self) -> int | None:
        """Number of GPUs; None: not reported."""


PaperCosts = Callable[[str], PaperCost | None]
"""From a method's title to its cost in papers; None: not reported."""


def compare(
    timed: Mapping[str, Sequence[StageTiming]], papers: PaperCosts, reference: str = COST_REFERENCE
) -> tuple[MethodTiming, ...]:
    """Return the methods with their timed stages, and the ratios to ``reference`` if that was timed.

    Raises:
        BenchError: no method called ``reference``.
    """
    seconds = {name: sum(stage.total_seconds for stage in stages) for name, stages in timed.items()}
    flops = {name: sum(stage.total_flops for stage in stages) for name, stages in timed.items()}
    unit = _reported(reference, papers)
    methods = []
    for name, stages in timed.items():
        info, paper = METHODS.get(name).info, _reported(name, papers)
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


def _reported(method: str, papers: PaperCosts) -> PaperCost | None:
    title = METHODS.get(method).info.title
    # A user's own code may have kept the title of the paper's that it changes.
    return None if is_own(method) else papers(title)
