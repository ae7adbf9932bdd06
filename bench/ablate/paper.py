"""The paper's column of an ablation, from the published numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.method import AblationTable
from bench.recipe import Recipe
from bench.results import PublishedNumber, load_published


class PaperColumn:
    """The published lines of one table.

    Args:
        table: whose lines.
        title: the method, as its paper writes it.
        results_dir: may bring published numbers of its own.

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
        """Whether there is such a column: not for a grid of one's own, nor without the published numbers."""
        return self._table.source is not None and not self._missing

    def find(self, variant: Mapping[str, Any] | None, protocol: str) -> PublishedNumber | None:
        """Return the line of exactly this ``variant``, or None where the paper gives none."""
        for number in self._numbers:
            if number.variant == variant and number.protocol.casefold() == protocol.casefold():
                return number
        return None

    def notes(self, recipe: Recipe) -> list[str]:
        """Return what tells our numbers from the paper's: data, tier and encoder."""
        if self._missing:
            folder = self._results_dir / "published"
            return [f"The paper's numbers are left out: {folder} does not hold them."]
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
