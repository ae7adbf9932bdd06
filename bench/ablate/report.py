"""The results of an ablation, row by row, beside the paper's numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.ablate.ablation import Ablation
from bench.ablate.execution import CellResult
from bench.method import AblationTable
from bench.recipe import Recipe, Settings
from bench.results import PublishedNumber, Score, corrections_by_record, load_published, mean_score


class PaperColumn:
    """The published lines of one table.

    Raises:
        BenchError: the published numbers are faulty.
    """

    def __init__(self, table: AblationTable, title: str, results_dir: Path) -> None:
        self._table, self._results_dir = table, results_dir
        self._numbers = [
            number
            for number in load_published(results_dir)
            if (number.source, number.method) == (table.source, title) and number.variant
        ]

    @property
    def shown(self) -> bool:
        """Whether to show the column: not for a user's own grid, and not without the published numbers."""
        return self._table.source is not None and not self._missing

    def find(self, variant: Mapping[str, Any] | None, protocol: str) -> PublishedNumber | None:
        """Return the line with exactly this ``variant``, or None if the paper gives none."""
        for number in self._numbers:
            if number.variant == variant and number.protocol.casefold() == protocol.casefold():
                return number
        return None

    def notes(self, recipe: Recipe) -> list[str]:
        """Return how the conditions of our numbers differ from the paper's: data, tier and encoder."""
        if self._missing:
            folder = self._results_dir / "published"
            return [f"The paper's numbers are left out: they are not in {folder}."]
        if not self._numbers:
            return []
        first = self._numbers[0]
        same_data = recipe.dataset.published_as == first.dataset
        data = "the same data" if same_data else f"other data ({recipe.dataset.name})"
        comparable = same_data and recipe.tier == "paper"
        return [
            f"Paper: {first.source}; {first.dataset}, {first.encoder}, {first.protocol}. "
            f"Ours: {data}, tier {recipe.tier}, {recipe.fidelity} fidelity."
            + ("" if comparable else " Compare the order of the rows, not the numbers.")
        ]

    @property
    def _missing(self) -> bool:
        return not self._numbers and any(cell.published is not None for cell in self._table.cells)


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
    """The errors of missing seeds."""


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
    """Whether the table is from a paper, and its numbers are known."""
    unplaced: dict[str, PublishedNumber]
    """Lines of the paper that cannot be assigned to a row."""
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    """What to say of each record that was withdrawn or superseded."""

    @property
    def faults(self) -> list[str]:
        """One line for each run that could not be finished."""
        return list(dict.fromkeys(f"{row.label}, {fault}" for row in self.rows for fault in row.faults))


def report_ablation(ablation: Ablation, results: Sequence[CellResult], results_dir: Path) -> AblationReport:
    """Return ``results`` beside the published numbers, without the records that the corrections there withdraw.

    Raises:
        BenchError: the published numbers are faulty.
    """
    run, table = ablation.cells[0].runs[0], ablation.table
    withdrawn = corrections_by_record(results_dir)
    left_out = [
        f"{result.cell.label}, {record.protocol}, seed {record.seed}: {withdrawn[record.sha256].said}"
        for result in results
        for record, _ in result.records
        if record.sha256 in withdrawn
    ]
    results = [
        replace(result, records=[found for found in result.records if found[0].sha256 not in withdrawn])
        for result in results
    ]
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
        left_out=tuple(left_out),
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
