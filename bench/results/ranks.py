"""Ranks: rows whose AA no test separates from the best of their group share its rank."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from bench.record import mcnemar_exact, shared, welch
from bench.results.groups import Group
from bench.results.measured import Measured

LEVEL = 0.05
"""Significance level of each comparison; not corrected for their number."""


class Standing(NamedTuple):
    """The place of one row in its table."""

    rank: int
    tied: bool
    """Whether another row has the same rank."""


def standings(groups: Sequence[Group]) -> list[Standing]:
    """Return the place of each of ``groups``, all of one table, with AA, and sorted by it, best first.

    The best row has rank 1, and so have those after it until one is separated from it; that one leads the
    next group, with its position in the table as its rank, and so on.
    """
    ranks: list[int] = []
    for position, group in enumerate(groups, 1):
        joins = ranks and not separated(groups[ranks[-1] - 1], group)
        ranks.append(ranks[-1] if joins else position)
    return [Standing(rank, ranks.count(rank) > 1) for rank in ranks]


def separated(a: Group, b: Group) -> bool:
    """Return whether the AA of ``a`` and ``b`` differ by more than chance allows.

    Over several seeds each, Welch's t test of the means, where one of the two varies and both measured the same images.
    Otherwise McNemar's exact test on the images that both measured, for every pair of their records: one lucky seed
    must not decide.
    """
    if len(a.seeds) > 1 and len(b.seeds) > 1 and _images(a) == _images(b):
        p_value = welch(_accuracies(a), _accuracies(b)).p_value
        if p_value is not None:
            return p_value < LEVEL
    return all(_differ(one, other) for one, other in product(a.seeds, b.seeds))


def _accuracies(group: Group) -> list[float]:
    return [one.record.aa.outcome.accuracy for one in group.seeds if one.record.aa]


def _images(group: Group) -> set[str | None]:
    """Return the sets of images on which AA was measured; easier ones move it by more than its seeds do."""
    return {one.record.aa.outcome.images for one in group.seeds if one.record.aa}


def _differ(a: Measured, b: Measured) -> bool:
    assert a.record.aa is not None, "only rows with AA are ranked"
    assert b.record.aa is not None, "only rows with AA are ranked"
    pairs = shared(a.record.aa.outcome, b.record.aa.outcome, test_images=a.facts.test_images).pairs
    return mcnemar_exact(pairs.only_a, pairs.only_b) < LEVEL
