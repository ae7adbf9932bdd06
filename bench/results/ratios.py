"""The cost of pre-training as a multiple of DeACL's, among the rows of one table."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.recipe import outside
from bench.record import COST_REFERENCE
from bench.results.rows import Row


class CostRatio(NamedTuple):
    """Multiples of the cost of DeACL's own recipe, however evaluated, in the same table; None: one is not known."""

    time: float | None
    """Of wall-clock; None also where the two did not run on the same machine."""
    flops: float | None


def cost_ratios(rows: Sequence[Row]) -> list[CostRatio]:
    """Return the ratio of each of ``rows``, all of one table; a local row is compared with the local DeACL, if any."""
    reference = [row for row in rows if row.method == COST_REFERENCE and row.encoder_seed is None]
    plain = [row for row in reference if not outside(row.overrides, "precision")]
    own = plain or [row for row in reference if not outside(row.overrides, "precision", "evaluate")]
    return [_ratio(row, [one for one in own if one.local == row.local] or own) for row in rows]


def _ratio(row: Row, references: Sequence[Row]) -> CostRatio:
    # Several may be one training, evaluated in several ways.
    if len({(one.pretraining_seconds, one.pretraining_flops) for one in references}) != 1:
        return CostRatio(None, None)
    of = references[0]
    together = len(row.machines) == 1 and row.machines == of.machines
    time = _quotient(row.pretraining_seconds, of.pretraining_seconds) if together else None
    return CostRatio(time, _quotient(row.pretraining_flops, of.pretraining_flops))


def _quotient(value: float | None, reference: float | None) -> float | None:
    return value / reference if value and reference else None
