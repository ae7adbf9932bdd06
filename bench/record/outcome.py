"""The outcome of each test image, packed into a bitmap: of one measurement, or of two on their common images."""

import base64
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bench.recipe import Settings
from bench.record.statistics import Pairs, wilson_interval

Drawn = Literal["per batch", "per image"]
"""Whether the random starts of an attack come from one generator for all images that are attacked together, or from one
for each image. Only in the second case the outcome of an image does not depend on the batch that it was in."""


class Outcome(Settings):
    """Per-image outcome of one measurement: still classified correctly, or not.

    The bitmap makes two records comparable image by image; the numbers beside it must agree with it.
    """

    n: int = Field(ge=1, le=10**9)
    """Images measured."""
    correct: int = Field(ge=0, le=10**9)
    """How many of them were classified correctly."""
    accuracy: float = Field(ge=0, le=1)
    """Their share of the images measured."""
    interval: tuple[float, float]
    """The 95 % Wilson score interval of the accuracy."""
    bits: str
    """Base64 of one bit an image, most significant bit first, in the order of ``images``."""
    images: str | None = None
    """Base64 bitmap over the whole test split of the images measured; None: all of them."""

    @classmethod
    def pack(cls, correct: Sequence[bool], *, images: Sequence[int] | None = None, test_images: int) -> Self:
        """Return the outcome of ``correct``, one entry an image.

        Args:
            correct: outcomes in ascending order of the images' positions in the test split.
            images: those positions, ascending, when only a subset was measured.
            test_images: size of the test split.
        """
        mask = None
        if images is not None:
            chosen = np.zeros(test_images, dtype=bool)
            chosen[list(images)] = True
            mask = _encode(chosen)
        n, hits = len(correct), sum(map(bool, correct))
        return cls(
            n=n,
            correct=hits,
            accuracy=hits / n,
            interval=wilson_interval(hits, n),
            bits=_encode(np.asarray(correct, dtype=bool)),
            images=mask,
        )

    @model_validator(mode="after")
    def _agrees_with_bitmap(self) -> Self:
        packed = _packed(self.bits)
        if len(packed) != -(-self.n // 8):
            raise ValueError(f"the bitmap does not hold {self.n} outcomes")
        bits = int.from_bytes(packed)
        if bits % (1 << (-self.n % 8)):
            raise ValueError(f"the bitmap has bits beyond its {self.n} outcomes")
        correct = bits.bit_count()
        if correct != self.correct or self.accuracy != correct / self.n:
            raise ValueError("the accuracy disagrees with the per-image outcomes")
        if self.interval != wilson_interval(correct, self.n):
            raise ValueError("the interval disagrees with the per-image outcomes")
        if self.images is not None and int.from_bytes(_packed(self.images)).bit_count() != self.n:
            raise ValueError(f"the bitmap of measured images does not name {self.n} of them")
        return self

    def unpack(self) -> list[bool]:
        """Return one entry a measured image, in test-split order."""
        return _decode(self.bits, self.n)

    def positions(self, test_images: int) -> list[int]:
        """Return the measured images' positions in a test split of ``test_images`` images."""
        if self.images is None:
            return list(range(self.n))
        return [position for position, chosen in enumerate(_decode(self.images, test_images)) if chosen]

    def misfit(self, test_images: int) -> str | None:
        """Return why this cannot be the outcome of a test split of ``test_images`` images, or None."""
        if self.images is None:
            return None if self.n == test_images else f"{self.n} outcomes for {test_images} test images"
        flags = _flags(self.images)
        if len(flags) != 8 * -(-test_images // 8) or flags[test_images:].any():
            return f"its bitmap of measured images is not over {test_images} test images"
        return None

    def spread(self, test_images: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which images of a test split of ``test_images`` were measured, and which of them were right.

        Both are bool [test_images].
        """
        misfit = self.misfit(test_images)
        assert misfit is None, misfit
        correct = _flags(self.bits)[: self.n]
        if self.images is None:
            return np.ones(test_images, dtype=bool), correct
        mask = _flags(self.images)[:test_images]
        spread = np.zeros(test_images, dtype=bool)
        spread[mask] = correct
        return mask, spread


class NoGradient(Settings):
    """Images for which the gradient of an attack was zero everywhere or not finite somewhere.

    The attack did not move them, so their outcome says little.
    """

    first: int = Field(default=0, ge=0, le=10**9)
    """At the first step, from any of the restarts."""
    last: int = Field(default=0, ge=0, le=10**9)
    """At the last step, from any of the restarts."""

    def __add__(self, other: Self) -> Self:
        """Return the sum of both, which are of different images."""
        return self.model_copy(update={"first": self.first + other.first, "last": self.last + other.last})


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


def _encode(flags: np.ndarray) -> str:
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def _decode(text: str, count: int) -> list[bool]:
    decoded: list[bool] = _flags(text)[:count].tolist()
    return decoded


def _flags(text: str) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(_packed(text), dtype=np.uint8)).astype(bool)


def _packed(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("the bitmap is not base64") from error
