"""The cost of one phase of a run, in the same units for every method."""

from typing import Protocol, Self

from bench.recipe import Settings
from bench.recipe.fields import Amount, Count, Text

COST_REFERENCE = "deacl"
"""The default reference: costs are shown as multiples of this method's."""


class Took(Protocol):
    """The measured cost of a block of work; None: not measured."""

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
    """Dataset images processed, each counted once an epoch, whatever its number of views."""
    images_per_second: Amount | None = None
    flops_per_image: Amount | None = None
    """Floating-point operations (two a multiply-add) of one training step, divided by its images."""
    peak_memory_bytes: Count | None = None
    """Peak memory during this phase, over all attempts: of tensors on a CUDA GPU; on a Linux CPU the resident memory of
    the whole process, interpreter and libraries included. Absent elsewhere. In records of versions 1 and 2, a CPU's
    peak is since the start of the process."""
    energy_joules: Amount | None = None
    """Where the device reports it, added up over interruptions; absent if any part was not measured."""
    device: Text

    @classmethod
    def nothing(cls, device: str) -> Self:
        """Return the cost of a phase on ``device`` that has not begun."""
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
