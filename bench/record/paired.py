"""Two classifiers on the same images: the difference of their accuracies, and whether it may be chance."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.record.outcome import Outcome, wilson_interval


class Pairs(NamedTuple):
    """What became of the images that two classifiers both met: the cells of a paired two-by-two table."""

    both: int
    """Images that both got right."""
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Images that both met."""
        return sum(self)

    @property
    def difference(self) -> float:
        """Accuracy of A less accuracy of B."""
        return (self.only_a - self.only_b) / self.n


class Shared(NamedTuple):
    """Two outcomes on the images that both measured."""

    positions: NDArray[np.intp]
    """[n], in the test split, ascending."""
    a: NDArray[np.bool_]
    """[n], whether A got each right."""
    b: NDArray[np.bool_]
    """[n], whether B did."""

    @property
    def pairs(self) -> Pairs:
        """The counts of the paired two-by-two table."""
        both, only_a = int((self.a & self.b).sum()), int((self.a & ~self.b).sum())
        only_b = int((~self.a & self.b).sum())
        return Pairs(both, only_a, only_b, len(self.a) - both - only_a - only_b)


def shared(a: Outcome, b: Outcome, *, test_images: int) -> Shared:
    """Return the outcomes ``a`` and ``b`` on the images of a test split of ``test_images`` that both measured."""
    measured_a, correct_a = a.spread(test_images)
    measured_b, correct_b = b.spread(test_images)
    positions = np.flatnonzero(measured_a & measured_b)
    return Shared(positions, correct_a[positions], correct_b[positions])


def newcombe_interval(pairs: Pairs) -> tuple[float, float]:
    """Return a 95 % interval of the difference of two paired proportions.

    It joins the Wilson intervals of the two accuracies, with allowance for how they hang together; so it holds
    for few images, near 0 and 1, and when no image tells the two apart.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17 (1998), 2635-2650, method 10.
    """
    (p, low_p, high_p), (q, low_q, high_q) = (
        (right / pairs.n, *wilson_interval(right, pairs.n))
        for right in (pairs.both + pairs.only_a, pairs.both + pairs.only_b)
    )
    phi = _correlation(pairs)

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2))

    difference = pairs.difference
    return difference - reach(p - low_p, high_q - q), difference + reach(high_p - p, q - low_q)


def _correlation(pairs: Pairs) -> float:
    """Return phi with Newcombe's correction, which takes n/2 off a positive numerator."""
    both, only_a, only_b, neither = pairs
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not margins:
        return 0.0
    excess = both * neither - only_a * only_b
    return (max(0.0, excess - pairs.n / 2) if excess > 0 else excess) / math.sqrt(margins)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Under the hypothesis of equal accuracies, each image that only one of the two gets right is a fair coin.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947); exact by the binomial distribution.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    ways, total = 1, 0  # whole numbers, so that no count of images is too large for it
    for k in range(fewer + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * total / (1 << n))
