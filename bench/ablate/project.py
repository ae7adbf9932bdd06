"""What an ablation will cost here before it starts: what its runs share is counted once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bench.ablate.plan import Ablation, Cell, together
from bench.cost import PhaseEstimate, Projector
from bench.monitor import plural
from bench.run import project


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
    projector = Projector(ablation.cells[0].runs[0].device)

    def estimate(cell: Cell) -> list[PhaseEstimate]:
        return [phase for run in cell.runs if not run.finished for phase in project(run, projector)]

    phases = together(ablation.cells, estimate, lambda cell: cell.label)
    runs = Counter(phase.identity for own in phases for phase in own)
    common = {phase.identity: phase for own in phases for phase in own if runs[phase.identity] > 1}
    shared: dict[str, float] = {}
    for identity, phase in common.items():
        place = f" ({phase.place.name})" if phase.place.name else ""
        shared[f"{phase.phase}{place}, for {plural(runs[identity], 'run')}"] = phase.seconds_left
    cells = {
        cell.label: sum(phase.seconds_left for phase in own if phase.identity not in common)
        for cell, own in zip(ablation.cells, phases, strict=True)
    }
    return Projection(shared, cells)
