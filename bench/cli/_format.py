"""How numbers look on the screen."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.record import CorruptionEvaluation, Outcome


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit: "< 1 s", "45 s", "12 min", "3.5 h", "4.2 days"."""
    if seconds < 0.5:
        return "< 1 s"
    if round(seconds) < 100:
        return f"{seconds:.0f} s"
    if round(seconds / 60) < 100:
        return f"{seconds / 60:.0f} min"
    if round(seconds / 3600, 1) < 48:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def percent(outcome: "Outcome | CorruptionEvaluation") -> str:
    """Return an accuracy in percent with its interval and the number of images."""
    low, high = outcome.interval
    return f"{100 * outcome.accuracy:.2f} % [{100 * low:.1f}, {100 * high:.1f}], n = {outcome.n}"
