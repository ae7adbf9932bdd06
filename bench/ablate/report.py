"""What an ablation found, row by row, beside the paper's numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.ablate.paper import PaperColumn
from bench.ablate.plan import Ablation
from bench.ablate.work import CellResult
from bench.recipe import Settings
from bench.results import PublishedNumber, Score, mean_score


class AblationRow(Settings):
    """One cell under one protocol."""

    label: str
    settings: dict[str, Any]
    protocol: str
    seeds: tuple[int, ...]
    aa: Score | None
    ra: Score | None
    sa: Score | None
    paper: PublishedNumber | None
    """None: the paper gives none."""
    records: tuple[str, ...]
    """Paths, in the order of the seeds."""
    faults: tuple[str, ...]
    """Why a seed is missing."""


class AblationReport(Settings):
    """A table with our numbers and the paper's."""

    title: str
    """Of the table."""
    method: str
    """Its title."""
    dataset: str
    tier: str
    fidelity: str
    rows: tuple[AblationRow, ...]
    paper: bool
    """Whether the table is a paper's, and its numbers are known."""
    unplaced: dict[str, PublishedNumber]
    """Lines of the paper of which it is not known to which row they belong."""
    notes: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """One line a run that could not be finished."""
        return list(dict.fromkeys(f"{row.label}, {fault}" for row in self.rows for fault in row.faults))


def report(ablation: Ablation, results: Sequence[CellResult], results_dir: Path) -> AblationReport:
    """Return what ``results`` say, beside the published numbers.

    Raises:
        BenchError: the published numbers are faulty.
    """
    run, table = ablation.cells[0].runs[0], ablation.table
    paper = PaperColumn(table, run.method.info.title, results_dir)
    unplaced = {label: paper.find(variant, run.protocols[0]) for label, variant in table.unplaced.items()}
    return AblationReport(
        title=table.title,
        method=run.method.info.title,
        dataset=run.recipe.dataset.name,
        tier=run.recipe.tier,
        fidelity=run.recipe.fidelity,
        rows=tuple(_row(result, protocol, paper) for protocol in run.protocols for result in results),
        paper=paper.shown,
        unplaced={label: number for label, number in unplaced.items() if number},
        notes=(*paper.notes(run.recipe), *table.notes),
    )


def _row(result: CellResult, protocol: str, paper: PaperColumn) -> AblationRow:
    own = [(record, path) for record, path in result.records if record.protocol == protocol]
    own.sort(key=lambda found: found[0].seed)
    records = [record for record, _ in own]
    attacked = [record.aa.outcome for record in records if record.aa]
    return AblationRow(
        label=result.cell.label,
        settings=dict(result.cell.settings),
        protocol=protocol,
        seeds=tuple(record.seed for record in records),
        aa=mean_score(attacked) if attacked else None,
        ra=mean_score([record.ra.outcome for record in records]) if records else None,
        sa=mean_score([record.sa for record in records]) if records else None,
        paper=paper.find(result.cell.published, protocol),
        records=tuple(str(path) for _, path in own),
        faults=tuple(result.faults),
    )
