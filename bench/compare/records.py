"""Two records compared image by image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
from bench.recipe import Settings, protocol_title
from bench.record import Correction, Outcome, mcnemar_exact, newcombe_interval, shared
from bench.results import Measured, find_correction


class MeasureComparison(Settings):
    """SA, RA or AA of two classifiers on the images that both measured; shares of 1."""

    n: int
    """Images that both measured."""
    a: float
    b: float
    """Accuracies on those images, so they may differ from the records' own."""
    difference: float
    """Of A minus B."""
    interval: tuple[float, float]
    """95 % interval of the difference: Newcombe's for paired proportions."""
    p_value: float
    """Of McNemar's exact test, two-sided."""
    both: int
    """Images that both got right."""
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    """Positions in the test split of the images that only one of the two got right."""
    neither: int


class RecordComparison(Settings):
    """Two records compared on the same images."""

    a: str
    b: str
    """Title, year and seed of each."""
    dataset: str
    conditions: tuple[str, str]
    """Of A and of B: protocol, tier, fidelity, radius, and how it departs from a plain run."""
    measures: dict[Measure, MeasureComparison]
    missing: dict[Measure, str]
    """What could not be compared, and why."""
    differences: tuple[Difference, ...]
    """Settings that the two do not share."""
    corrections: dict[Literal["A", "B"], Correction]
    """Of those of the two that were withdrawn or superseded."""


def compare_records(
    a: Measured,
    b: Measured,
    *,
    measures: Sequence[Measure] = MEASURES,
    across_protocols: bool = False,
    across_precisions: bool = False,
    results_dir: Path | None = None,
) -> RecordComparison:
    """Compare two records image by image.

    Args:
        a: the first record; differences are its accuracy minus that of ``b``.
        across_protocols: whether the two may have been evaluated under different protocols.
        across_precisions: whether the two may have been trained in different precisions.
        results_dir: where corrections are looked up, besides the folder of the records.

    Raises:
        BenchError: they are one record, of different test sets, protocols or precisions, were attacked differently, or
            have none of ``measures`` in common.
    """
    if a.record.sha256 == b.record.sha256:
        raise BenchError(f"{a.path} and {b.path} are the same record. Name two different ones.")
    refuse_incomparable(a, b, measures=measures, across_protocols=across_protocols, across_precisions=across_precisions)
    outcomes_a, outcomes_b = ({name.lower(): outcome for name, outcome in one.record.outcomes()} for one in (a, b))
    compared: dict[Measure, MeasureComparison] = {}
    missing: dict[Measure, str] = {}
    for measure in measures:
        without = [name for name, found in (("A", outcomes_a), ("B", outcomes_b)) if measure not in found]
        if without:
            missing[measure] = f"not measured for {' and '.join(without)}"
            continue
        one = _compare(outcomes_a[measure], outcomes_b[measure], a.facts.test_images)
        if one is None:
            missing[measure] = "the two were measured on different images"
        else:
            compared[measure] = one
    refuse_empty(compared, missing)
    found = (("A", find_correction(a, results_dir)), ("B", find_correction(b, results_dir)))
    return RecordComparison(
        a=_name(a),
        b=_name(b),
        dataset=a.record.dataset,
        conditions=(conditions_of(a), conditions_of(b)),
        measures=compared,
        missing=missing,
        differences=other_differences(a, b),
        corrections={side: correction for side, correction in found if correction},
    )


def _compare(a: Outcome, b: Outcome, test_images: int) -> MeasureComparison | None:
    both = shared(a, b, test_images=test_images)
    pairs = both.pairs
    if not pairs.n:
        return None
    return MeasureComparison(
        n=pairs.n,
        a=(pairs.both + pairs.only_a) / pairs.n,
        b=(pairs.both + pairs.only_b) / pairs.n,
        difference=pairs.difference,
        interval=newcombe_interval(pairs),
        p_value=mcnemar_exact(pairs.only_a, pairs.only_b),
        both=pairs.both,
        only_a=tuple(both.positions[both.a & ~both.b].tolist()),
        only_b=tuple(both.positions[~both.a & both.b].tolist()),
        neither=pairs.neither,
    )


def _name(one: Measured) -> str:
    record = one.record
    return f"{record.title} {record.year}, {protocol_title(record.protocol)}, seed {record.seed}"
