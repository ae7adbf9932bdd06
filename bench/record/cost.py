"""What one phase of a run took, in the same units for every method."""

from typing import Protocol, Self

from bench.recipe import Settings
from bench.recipe.fields import Amount, Count, Text

COST_REFERENCE = "deacl"
"""The method in whose units costs are given, unless another is named: "is that better than DeACL?" is the question."""


class Took(Protocol):
    """What a block of work took, as a clock tells it; None: not measured."""

    @property
    def seconds(self) -> float:
        """Wall-clock."""

    @property
    def joules(self) -> float | None:
        """Energy."""

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory."""


def larger_peak(earlier: int | None, now: int | None) -> int | None:
    """Return the peak memory of two blocks of work; None where one was not measured."""
    return None if earlier is None or now is None else max(earlier, now)


class PhaseCost(Settings):
    """Time and work of one phase; a number that was not measured is absent."""

    seconds: Amount
    """Wall-clock of the work itself, added up over interruptions."""
    images: Count | None = None
    """Dataset images processed, each counted once an epoch however many views it had."""
    images_per_second: Amount | None = None
    flops_per_image: Amount | None = None
    """Floating-point operations (two a multiply-add) of one training step, divided by its images."""
    peak_memory_bytes: Count | None = None
    """The most that was in use at one time during this phase, over all attempts: tensors on the device where that
    is a CUDA GPU; on a Linux CPU what the whole process had resident, the interpreter and its libraries included.
    Absent elsewhere. In records of versions 1 and 2 a CPU's is the most since the process began."""
    energy_joules: Amount | None = None
    """Where the device reports it, added up over interruptions; absent once any part of it was not measured."""
    device: Text

    @classmethod
    def nothing(cls, device: str) -> Self:
        """Return the cost of a phase that is yet to begin on ``device``."""
        return cls(seconds=0.0, images=0, peak_memory_bytes=0, energy_joules=0.0, device=device)

    def plus(self, took: Took, images: int = 0) -> Self:
        """Return this cost with that of a block of work on ``images`` images added."""
        seconds, total = self.seconds + took.seconds, (self.images or 0) + images
        energy = self.energy_joules
        return self.model_copy(
            update={
                "seconds": seconds,
                "images": total,
                "images_per_second": total / seconds if total and seconds else None,
                "energy_joules": None if energy is None or took.joules is None else energy + took.joules,
                "peak_memory_bytes": larger_peak(self.peak_memory_bytes, took.peak_bytes),
            }
        )
