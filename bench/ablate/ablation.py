"""An ablation: a table of settings as runs that are checked and ready, and their projected time on this machine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.cost import PhaseEstimate, Projector
from bench.data import load_dataset
from bench.errors import BenchError, together
from bench.method import METHODS, AblationCell, AblationTable
from bench.monitor import plural
from bench.results import settings_text
from bench.run import ProtocolFolder, Run, RunRequest, prepare, project


@dataclass(frozen=True)
class Cell:
    """One row of an ablation, ready to run."""

    label: str
    settings: Mapping[str, Any]
    published: Mapping[str, Any] | None
    """The variant of the paper's line."""
    runs: tuple[Run, ...]
    """One per seed."""


@dataclass(frozen=True)
class Ablation:
    """A table with its cells, all ready to run."""

    table: AblationTable
    cells: tuple[Cell, ...]

    @property
    def finished(self) -> bool:
        """Whether every run has its records."""
        return all(run.finished for cell in self.cells for run in cell.runs)


def plan_ablation(base: RunRequest, table: AblationTable, seeds: Sequence[int] = (0,)) -> Ablation:
    """Return the runs of ``table``: ``base`` with the settings of each cell, for each of ``seeds``.

    If ``base`` names no protocol, the method's first one is used. A cell equal to ``base`` is the same run as that of
    ``bench run``. The data are read once.

    Raises:
        BenchError: a key that ``base`` sets and the table varies, cells that are the same run, or cells that cannot
            run; the faults of all cells are reported together.
    """
    varied = dict.fromkeys(key for cell in table.cells for key in cell.settings)
    clash = [key for key in varied if key in base.overrides]
    if clash:
        raise BenchError(f"--set {', '.join(clash)}: the table varies this. Leave it out.")
    if base.protocols is None:
        base = replace(base, protocols=METHODS.get(base.method).info.protocols[:1])
    dataset = load_dataset(base.dataset, base.data_dir, base.data_in)

    def cell(row: AblationCell) -> Cell:
        run = prepare(replace(base, overrides={**base.overrides, **row.settings}), dataset)
        return Cell(_label(row), row.settings, row.published, tuple(run.with_seed(seed) for seed in seeds))

    cells = together(table.cells, cell, _label)
    _refuse_doubles(cells)
    return Ablation(table, tuple(cells))


@dataclass(frozen=True)
class Projection:
    """The projected time of the remaining work."""

    shared: Mapping[str, float]
    """Seconds of phases that several runs share, by description."""
    cells: Mapping[str, float]
    """Seconds of the other phases of each cell, over its seeds, by label; 0: nothing is left to do."""

    @property
    def seconds(self) -> float:
        """The total."""
        return sum(self.shared.values()) + sum(self.cells.values())


def project_ablation(ablation: Ablation) -> Projection:
    """Return an estimate for ``ablation``, from a few timed steps of each kind on untrained weights.

    Raises:
        BenchError: plans that cannot work on this dataset or device; those of all cells are reported together.
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


def _label(row: AblationCell) -> str:
    return row.label or ", ".join(settings_text(row.settings))


def _refuse_doubles(cells: Sequence[Cell]) -> None:
    """Raise BenchError for cells that are the same run under the requested protocols."""
    seen: dict[tuple[ProtocolFolder, ...], str] = {}
    for cell in cells:
        run = cell.runs[0]
        places = tuple(run.protocol_folder(name) for name in run.protocols)
        if places in seen:
            raise BenchError(
                f"the cells {seen[places]} and {cell.label} are the same run under {','.join(run.protocols)}; "
                "keep one of them."
            )
        seen[places] = cell.label
