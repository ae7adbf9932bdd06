"""The statistics behind every interval and every comparison: of shares of images, and of means over seeds.

SciPy is used only for what is not here. Wilson's interval by ``scipy.stats.binomtest`` differs in the last bits, while
a record must state the interval of its outcomes exactly; it also takes a thousand times as long, and its import takes
seconds.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple


def wilson_interval(correct: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion.

    Unlike the normal interval it is right for small n and near 0 and 1, where robust accuracies often lie.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class Pairs(NamedTuple):
    """Outcomes of the images that two classifiers have in common: the cells of a paired two-by-two table."""

    both: int
    """Images that both got right."""
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Images that both measured."""
        return sum(self)

    @property
    def difference(self) -> float:
        """Accuracy of A minus accuracy of B."""
        return (self.only_a - self.only_b) / self.n


def newcombe_interval(pairs: Pairs) -> tuple[float, float]:
    """Return a 95 % interval of the difference of two paired proportions.

    It combines the Wilson intervals of the two accuracies and their correlation; so it holds for few images, near 0
    and 1, and when the two agree on every image.

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
    ways, total = 1, 0  # integers, so that no number of images is too large
    for k in range(fewer + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * total / (1 << n))


def sample_std(values: Sequence[float]) -> float:
    """Return the sample standard deviation of two values or more, exactly 0 where all are equal.

    In floats: the standard library computes with fractions, which is slow on a board of thousands of rows.
    """
    if min(values) == max(values):
        return 0.0
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def exact_mean(values: Sequence[float]) -> float:
    """Return the mean, exactly the value itself where all are equal: a rounded sum, divided, may be another float."""
    return values[0] if min(values) == max(values) else fmean(values)


class MeanDifference(NamedTuple):
    """The difference of two means, with its 95 % interval and the two-sided p-value of no difference.

    Both are None where neither group varies, which leaves nothing to test by.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None


def welch(a: Sequence[float], b: Sequence[float]) -> MeanDifference:
    """Compare the means of ``a`` and ``b``, at least two values each, whose spreads may differ.

    Where neither varies there is no test: accuracies are counts of few images, and equal ones may be coincidence.

    Source: Welch, "The generalization of Student's problem when several different population variances are
    involved", Biometrika 34 (1947).
    """
    # Takes a fifth of a second to import, and only seeds need it.
    from scipy.special import stdtr, stdtrit

    difference = exact_mean(a) - exact_mean(b)
    errors = [sample_std(values) ** 2 / len(values) for values in (a, b)]
    error = math.sqrt(sum(errors))
    if error == 0:
        return MeanDifference(difference, None, None)
    weights = [e**2 / (len(values) - 1) for e, values in zip(errors, (a, b), strict=True)]
    freedom = sum(errors) ** 2 / sum(weights)
    reach = float(stdtrit(freedom, 0.975)) * error
    p_value = 2 * float(stdtr(freedom, -abs(difference) / error))
    return MeanDifference(difference, (difference - reach, difference + reach), p_value)
