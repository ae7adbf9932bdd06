"""What became of each test image under an attack, and how many shared each fate."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from bench.record import Outcome


class Fate(StrEnum):
    """Of one test image; the value is how it reads."""

    ROBUST = "right under the attack"
    BROKEN = "broken by the attack"
    WRONG = "already wrong"
    """On the clean image, and under the attack too."""
    ABSENT = "not attacked"


def fates(clean: Outcome, attacked: Outcome) -> list[Fate]:
    """Return the fate of every test image, in the order of the test split.

    Args:
        clean: what the classifier made of the clean images, all of them.
        attacked: what it made of the attacked ones, all or some.
    """
    found = [Fate.ABSENT] * clean.n
    before = clean.unpack()
    for position, right in zip(attacked.positions(clean.n), attacked.unpack(), strict=True):
        found[position] = Fate.ROBUST if right else Fate.BROKEN if before[position] else Fate.WRONG
    return found


def count_fates(found: Sequence[Fate]) -> dict[Fate, int]:
    """Return how many images had each fate, in the order of :class:`Fate`."""
    count = Counter(found)
    return {fate: count[fate] for fate in Fate}
