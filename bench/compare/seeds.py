"""Two methods, or variants of one, compared over the seeds that each was run with."""

from collections.abc import Sequence

from bench.compare.conditions import (
    MEASURES,
    Difference,
    Measure,
    conditions_of,
    other_differences,
    refuse_empty,
    refuse_incomparable,
)
from bench.errors import BenchError
from bench.recipe import Settings
from bench.record import Outcome, exact_mean, sample_std, welch
from bench.results import Group, label


class Spread(Settings):
    """One kind of accuracy over the seeds of a method, as shares of 1."""

    mean: float
    std: float
    """Sample standard deviation over the seeds."""
    n: int
    """Seeds."""


class SeedMeasure(Settings):
    """SA, RA or AA of two methods over their seeds."""

    a: Spread
    b: Spread
    difference: float
    """A's mean minus B's."""
    interval: tuple[float, float] | None
    """95 % interval of the difference: Welch's; None where neither varies over its seeds, which leaves no test."""
    p_value: float | None
    """Of Welch's t test, two-sided; None like the interval."""


class SeedComparison(Settings):
    """Two methods compared over their seeds, on one test set."""

    a: str
    b: str
    dataset: str
    conditions: tuple[str, str]
    """Of A and of B: protocol, tier, fidelity, radius, and how it departs from a plain run."""
    protocol: str
    seeds_a: tuple[int, ...]
    seeds_b: tuple[int, ...]
    measures: dict[Measure, SeedMeasure]
    missing: dict[Measure, str]
    """What could not be compared, and why."""
    differences: tuple[Difference, ...]
    """Settings that the two do not share, besides the seeds."""


def compare_seeds(
    a: Group, b: Group, *, measures: Sequence[Measure] = MEASURES, across_precisions: bool = False
) -> SeedComparison:
    """Compare two recipes over their seeds: means, standard deviations, and Welch's interval of the difference.

    Raises:
        BenchError: they are one recipe, one of them has a single seed, or they have none of ``measures`` in common,
            were evaluated on other data or under other attacks, or were trained in different precisions without
            ``across_precisions``.
    """
    first_a, first_b = a.seeds[0], b.seeds[0]
    if first_a.record.sha256 == first_b.record.sha256:
        raise BenchError(f"{label(first_a)} would be compared with itself. Name two different methods or variants.")
    for one in (a, b):
        if len(one.seeds) < 2:
            raise BenchError(
                f"{label(one.seeds[0])} has only one seed there, {one.seeds[0].record.seed}, and so no spread. "
                f"Run more with --seed, or compare single records: bench compare {first_a.path} {first_b.path}"
            )
    refuse_incomparable(first_a, first_b, measures=measures, across_precisions=across_precisions)
    outcomes = {measure: (_outcomes(a, measure), _outcomes(b, measure)) for measure in measures}
    missing = {measure: fault for measure, both in outcomes.items() if (fault := _incomparable(*both))}
    compared = {measure: _compare(*both) for measure, both in outcomes.items() if measure not in missing}
    refuse_empty(compared, missing)
    return SeedComparison(
        a=label(first_a),
        b=label(first_b),
        dataset=first_a.record.dataset,
        conditions=(conditions_of(first_a), conditions_of(first_b)),
        protocol=first_a.record.protocol,
        seeds_a=tuple(one.record.seed for one in a.seeds),
        seeds_b=tuple(one.record.seed for one in b.seeds),
        measures=compared,
        missing=missing,
        differences=tuple(found for found in other_differences(first_a, first_b) if found.key != "seed"),
    )


def _outcomes(group: Group, measure: Measure) -> list[Outcome]:
    found = [dict(one.record.outcomes()).get(measure.upper()) for one in group.seeds]
    return [outcome for outcome in found if outcome]


def _incomparable(a: Sequence[Outcome], b: Sequence[Outcome]) -> str:
    """Return why a measure cannot be compared, which has these outcomes over the seeds; empty: it can."""
    if not a or not b:
        return "not measured for both"
    if {one.images for one in a} != {one.images for one in b}:
        return "the two were measured on different images"
    return ""


def _compare(a: Sequence[Outcome], b: Sequence[Outcome]) -> SeedMeasure:
    left, right = ([one.accuracy for one in outcomes] for outcomes in (a, b))
    result = welch(left, right)
    return SeedMeasure(
        a=Spread(mean=exact_mean(left), std=sample_std(left), n=len(left)),
        b=Spread(mean=exact_mean(right), std=sample_std(right), n=len(right)),
        difference=result.difference,
        interval=result.interval,
        p_value=result.p_value,
    )
