"""Two methods over several seeds each: the difference of their means, and whether it may be chance."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple


class MeanDifference(NamedTuple):
    """The difference of two means, with its 95 % interval and the two-sided p-value of no difference."""

    difference: float
    interval: tuple[float, float]
    p_value: float


def sample_std(values: Sequence[float]) -> float:
    """Return the sample standard deviation of two values or more, exactly 0 where all are equal.

    In floats, where the standard library computes with fractions: a board of thousands of rows is waited for.
    """
    if min(values) == max(values):
        return 0.0
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def welch(a: Sequence[float], b: Sequence[float]) -> MeanDifference:
    """Compare the means of ``a`` and ``b``, at least two values each, whose spreads may differ.

    Where neither varies at all there is no spread to judge by: the interval is a point, and p is 1 or 0.

    Source: Welch, "The generalization of Student's problem when several different population variances are
    involved", Biometrika 34 (1947).
    """
    # Takes a fifth of a second to import, and only seeds need it.
    from scipy.special import stdtr, stdtrit

    difference = fmean(a) - fmean(b)
    errors = [sample_std(values) ** 2 / len(values) for values in (a, b)]
    error = math.sqrt(sum(errors))
    if error == 0:
        return MeanDifference(difference, (difference, difference), float(difference == 0))
    weights = [e**2 / (len(values) - 1) for e, values in zip(errors, (a, b), strict=True)]
    freedom = sum(errors) ** 2 / sum(weights)
    reach = float(stdtrit(freedom, 0.975)) * error
    p_value = 2 * float(stdtr(freedom, -abs(difference) / error))
    return MeanDifference(difference, (difference - reach, difference + reach), p_value)
