"""What an ablation will cost here before it starts: what its runs share is counted once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.ablate.plan import Ablation, Cell, together
from bench.cost import StepTimes
from bench.reporting import plural
from bench.run import PhaseEstimate, project


@dataclass(frozen=True)
class Projection:
    """What is still to do."""

    shared: Mapping[str, float]
    """Seconds of what several runs contain, by what it is."""
    cells: Mapping[str, float]
    """Seconds of what is a cell's own, over its seeds, by label; 0: nothing is left to do."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.shared.values()) + sum(self.cells.values())


def project_ablation(ablation: Ablation) -> Projection:
    """Return an estimate for ``ablation``, from timing a few steps of each kind on untrained weights.

    Raises:
        BenchError: plans that cannot work on this dataset or device, of all cells together.
    """
    timings: dict[str, StepTimes] = {}

    def estimate(cell: Cell) -> list[PhaseEstimate]:
        return [phase for run in cell.runs if not run.finished for phase in project(run, timings)]

    phases = together(ablation.cells, estimate, lambda cell: cell.label)
    runs = Counter(_identity(phase) for own in phases for phase in own)
    shared: dict[str, float] = {}
    seen = set()
    for phase in (phase for own in phases for phase in own if runs[_identity(phase)] > 1):
        if _identity(phase) not in seen:
            seen.add(_identity(phase))
            place = f" ({phase.place.name})" if phase.place.name else ""
            what = f"{phase.phase}{place}, for {plural(runs[_identity(phase)], 'run')}"
            shared[what] = phase.seconds * phase.left
    cells = {
        cell.label: sum(phase.seconds * phase.left for phase in own if runs[_identity(phase)] == 1)
        for cell, own in zip(ablation.cells, phases, strict=True)
    }
    return Projection(shared, cells)


def _identity(phase: PhaseEstimate) -> tuple[Path, str]:
    return phase.place, phase.phase
