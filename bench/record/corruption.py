"""Accuracy under common corruptions: one count a (corruption, severity), and their means."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bench.errors import unknown
from bench.recipe import CORRUPTIONS, SEVERITIES, Settings
from bench.recipe.fields import Digest, Name, Text
from bench.record.statistics import wilson_interval


class CorruptionEvaluation(Settings):
    """Accuracy on corrupted copies of the whole test split."""

    source: Literal["files", "generated"]
    """The user's files, or images that ``package`` generated."""
    parametrisation: Text
    """Origin of the severities, in words."""
    package: Name | None = None
    """What generated the images; None for files."""
    package_version: Name | None = None
    sha256: Digest
    """Digest of all corrupted images; equal digests mean that two classifiers were tested on the same ones."""
    n: int = Field(ge=1, le=10**9)
    """Test images in each cell."""
    correct: dict[str, tuple[int, ...]]
    """By corruption: how many of the n were classified correctly at severity 1, 2, 3, 4 and 5."""

    @model_validator(mode="after")
    def _counts_are_possible(self) -> Self:
        if not self.correct:
            raise ValueError("no corruption was measured")
        for name, counts in self.correct.items():
            if name not in CORRUPTIONS:
                raise ValueError(str(unknown("corruption", name, CORRUPTIONS)))
            if len(counts) != len(SEVERITIES):
                raise ValueError(f"{name} has {len(counts)} counts; each of the {len(SEVERITIES)} severities needs one")
            if not all(0 <= count <= self.n for count in counts):
                raise ValueError(f"{name} has counts outside 0 to {self.n}, the number of images")
        if (self.source == "generated") != (self.package is not None):
            raise ValueError("generated images have a package, files have none")
        return self

    @property
    def complete(self) -> bool:
        """Whether all 15 corruptions were measured; only then is the mean comparable with published ones."""
        return len(self.correct) == len(CORRUPTIONS)

    @property
    def accuracy(self) -> float:
        """Mean over all corruptions and severities, each weighing the same."""
        return sum(self.accuracies.values()) / len(self.correct)

    @property
    def accuracies(self) -> dict[str, float]:
        """By corruption: mean over its severities."""
        return {name: sum(counts) / (len(counts) * self.n) for name, counts in self.correct.items()}

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval of ``accuracy``; see :meth:`interval_of`."""
        return self.interval_of(self.accuracy)

    def interval_of(self, mean: float) -> tuple[float, float]:
        """Return a 95 % interval of a ``mean`` over cells: Wilson's, with the number of images for n.

        All cells show the same n images, so they count as n, not as n a cell. An image's share of correct cells has at
        most the variance of a coin with that mean, so the interval is never too narrow.
        """
        return wilson_interval(mean * self.n, self.n)
