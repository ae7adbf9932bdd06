"""The verdict on each test image under an attack, and how many images have each verdict."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from bench.record import Outcome


class Verdict(StrEnum):
    """The verdict on one test image; the value is its text."""

    ROBUST = "right under the attack"
    BROKEN = "broken by the attack"
    WRONG = "already wrong"
    """On the clean image, and under the attack too."""
    ABSENT = "not attacked"


def verdicts(clean: Outcome, attacked: Outcome) -> list[Verdict]:
    """Return the verdict of every test image, in the order of the test split."""
    found = [Verdict.ABSENT] * clean.n
    before = clean.unpack()
    for position, right in zip(attacked.positions(clean.n), attacked.unpack(), strict=True):
        found[position] = Verdict.ROBUST if right else Verdict.BROKEN if before[position] else Verdict.WRONG
    return found


def count_verdicts(found: Sequence[Verdict]) -> dict[Verdict, int]:
    """Return how many images have each verdict, in the order of :class:`Verdict`."""
    count = Counter(found)
    return {verdict: count[verdict] for verdict in Verdict}
