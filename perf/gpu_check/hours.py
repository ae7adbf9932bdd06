"""Section 4: hours of whole recipes on CIFAR-10, from the measured steps, beside targets and the paper."""

from collections.abc import Mapping, Sequence
from functools import partial

from conditions import Mode
from gpu_steps import ADVERSARIAL, LINEAR, SSL, STUDENT, Cell, Steps
from sections import Finding, LeftOutError, Part

from bench.method import METHODS
from bench.results import PublishedCosts

_TARGETS = {"DeACL": 60, STUDENT: 17, ADVERSARIAL: 30}
"""Minutes to stay below on one H100-class card."""


def parts(steps: Steps, modes: Sequence[Mode], papers: PublishedCosts) -> list[Part]:
    """Return a part for each recipe in each mode: DeACL at its published batches, others also at the other batch."""
    published = steps.published
    whole = {name: published[name] for name in (SSL, STUDENT, LINEAR)}
    alone = [{name: batch} for name in (STUDENT, ADVERSARIAL) for batch in sorted(set(published.values()))]
    wanted = [("DeACL", whole), *((next(iter(one)), one) for one in alone)]
    return [
        Part(f"{name}, {_described(batches)}, {mode.name}", partial(_hours, steps, papers, name, batches, mode))
        for name, batches in wanted
        for mode in modes
    ]


def _described(batches: Mapping[str, int]) -> str:
    return "published recipe" if len(batches) > 1 else f"batch {next(iter(batches.values()))}"


def _hours(
    steps: Steps, papers: PublishedCosts, name: str, batches: Mapping[str, int], mode: Mode, left: float
) -> Finding:
    hours = {}
    for stage, batch in batches.items():
        times = steps.times.get(Cell(stage, batch, mode))
        if times is None:
            raise LeftOutError(f"the step of {stage} was not measured in this mode")
        hours[stage] = times.of(steps.plan(stage, batch), steps.images) / 3600
    total, minutes = sum(hours.values()), _TARGETS[name]
    text = f"{total:.3g} h; the target is {minutes} minutes, {'met' if 60 * total <= minutes else 'not met'}"
    paper = papers.of(METHODS.get("deacl").info.title) if len(batches) > 1 else None
    if paper:
        text += f"; the paper: {24 * paper.gpu_days:.3g} GPU-hours"
    if len(hours) > 1:
        text += " (" + ", ".join(f"{stage} {value:.3g} h" for stage, value in hours.items()) + ")"
    return Finding(text, {"mode": mode.name, "hours": hours, "total_hours": total, "target_hours": minutes / 60})
