"""Accuracies as the pages show them: text, interval, a place on a bar, and the page they link to."""

from typing import NamedTuple

from bench.record import Outcome
from bench.results import PublishedNumber, Score, percent


class Number(NamedTuple):
    """One accuracy in percent."""

    text: str
    spread: str
    """The interval, or the standard deviation."""
    n: int | None
    """Test images; None: the source does not state it."""
    at: float
    low: float
    high: float
    page: str
    """What it links to, in the site."""


def of_outcome(outcome: Outcome, page: str) -> Number:
    """Return the accuracy of one record."""
    return _number(outcome.accuracy, outcome.interval, outcome.n, page)


def of_score(score: Score, page: str) -> Number:
    """Return the accuracy of a row: of one seed with its interval, of several with their deviation."""
    if score.interval is not None:
        return _number(score.accuracy, score.interval, score.n, page)
    std = score.std or 0.0
    ends = (max(0.0, score.accuracy - std), min(1.0, score.accuracy + std))
    return _number(score.accuracy, ends, score.n, page)._replace(spread=f"± {percent(std, score.n)}")


def of_published(number: PublishedNumber, measure: str, page: str) -> Number | None:
    """Return what a source gives for ``measure``, or None: of the bench's lists of attacks none gives anything."""
    value, std = getattr(number, measure, None), getattr(number, f"{measure}_std", None)
    if value is None:
        return None
    spread = std or 0.0
    text = "" if std is None else f"± {std:g}"
    return Number(f"{value:.2f}", text, None, value, max(0.0, value - spread), min(100.0, value + spread), page)


def _number(share: float, ends: tuple[float, float], n: int, page: str) -> Number:
    low, high = (percent(end, n) for end in ends)
    return Number(percent(share, n), f"{low}–{high}", n, 100 * share, 100 * ends[0], 100 * ends[1], page)
