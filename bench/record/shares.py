"""Verdicts on a number of images with a fault, from a sample."""

from bench.record.diagnosis import Verdict
from bench.record.statistics import wilson_interval

_SURE = 3.0902
"""Standard errors of 99.9 %, one-sided. About ten checks count images: if each were exactly at its tolerance, chance
would flag one sound row in a hundred. Sound rows are far below it, so that it flags fewer."""

TOLERANCE = 0.05
"""The share of images that may have a fault: sound attacks differ by two or three images of a hundred."""


def at_least(count: int, n: int) -> float:
    """Return a lower bound, with 99.9 % confidence, of the share of images that are like ``count`` of ``n``."""
    return wilson_interval(count, n, _SURE)[0] if n else 0.0


def verdict_on(
    count: int, n: int, *, tolerance: float = TOLERANCE, usual: float = 0.0, standing: int | None = None
) -> Verdict:
    """Return the verdict on a fault of ``count`` of ``n`` images.

    *doubt*: with 99.9 % confidence more than ``tolerance`` of all images have it; *fail*: and more than half of those
    that could have it, ``standing`` (None: all ``n``); *note*: more than the ``usual`` share was found.
    """
    if at_least(count, n) <= tolerance:
        return "note" if count > usual * n else "sound"
    return "fail" if at_least(count, n if standing is None else standing) > 0.5 else "doubt"
