"""The attacks of ``evaluate.attacks``: what each left standing, and the curve that a minimum-norm attack gives."""

import base64
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bench.recipe import Precision, Settings
from bench.recipe.fields import Amount, Count, Name, Radius, Text
from bench.record.outcome import Outcome

_SIZE = np.dtype("<f4")


class MinimalPerturbations(Settings):
    """The smallest perturbation that a minimum-norm attack found for each image: one run, the accuracy at every eps.

    A stronger attack may find smaller ones, so the accuracies are upper bounds, as those under any attack.
    """

    n: int = Field(ge=1, le=10**9)
    """Images measured."""
    median: Amount | None
    """Of the sizes; None where it is infinite."""
    sizes: str
    """Base64 of one little-endian float32 an image, in the norm of the threat model: 0 for an image that is wrong
    without an attack, infinity where no misclassified image was found."""

    @classmethod
    def pack(cls, sizes: Sequence[float]) -> Self:
        """Return the perturbations of these ``sizes``, at least one, 0 or more, possibly infinite."""
        packed = np.asarray(sizes, dtype=_SIZE)
        return cls(n=len(packed), median=_median(packed), sizes=base64.b64encode(packed.tobytes()).decode())

    @model_validator(mode="after")
    def _agrees_with_sizes(self) -> Self:
        try:
            sizes = self.unpack()
        except ValueError as error:
            raise ValueError("the sizes are not base64 of float32") from error
        if len(sizes) != self.n or not (sizes >= 0).all():
            raise ValueError(f"the sizes are not {self.n} numbers from 0 on")
        if _median(sizes) != self.median:
            raise ValueError("the median disagrees with the sizes")
        return self

    def unpack(self) -> NDArray[np.float32]:
        """Return the size for each image measured, in test-split order: float32 [n]."""
        return np.frombuffer(base64.b64decode(self.sizes, validate=True), dtype=_SIZE)

    def accuracy(self, eps: float) -> float:
        """Return the share of images for which nothing within ``eps`` was found."""
        return float((self.unpack() > eps).mean())


def _median(sizes: NDArray[np.float32]) -> float | None:
    # The upper of the two in the middle: the mean of one size and infinity would be neither.
    middle = float(np.sort(sizes)[len(sizes) // 2])
    return middle if np.isfinite(middle) else None


class ListedAttack(Settings):
    """One attack of the list."""

    attack: Name
    outcome: Outcome
    """Images that are still classified correctly after it and all attacks before it."""
    tried: Count
    """Images that it attacked."""
    settings: dict[Text, int | float | Text] = {}
    package: Name | None = None
    """The package whose attack it is; None: the bench's own, or one that does not name its package."""
    package_version: Name | None = None
    perturbations: MinimalPerturbations | None = None
    """Of a minimum-norm attack."""


class AttackList(Settings):
    """The accuracy under a list of attacks, each on the images that the ones before it left standing."""

    eps: Radius
    attacks: tuple[ListedAttack, ...] = Field(min_length=1)
    """In the order in which they ran."""
    precision: Precision = "fp32"
    """Of the gradients; every outcome is judged in fp32."""

    @model_validator(mode="after")
    def _each_leaves_fewer(self) -> Self:
        left = [one.outcome.correct for one in self.attacks]
        if left != sorted(left, reverse=True):
            raise ValueError(f"an attack of the list cannot mend images: {left} are standing after each")
        return self

    @property
    def outcome(self) -> Outcome:
        """The images that are still right after all of them."""
        return self.attacks[-1].outcome

    @property
    def perturbations(self) -> MinimalPerturbations | None:
        """Those of the first minimum-norm attack in the list."""
        return next((one.perturbations for one in self.attacks if one.perturbations), None)
