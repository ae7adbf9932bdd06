"""Carrying out an ablation: run by run, so that whatever is finished is not done again."""

from dataclasses import dataclass, field
from pathlib import Path

from bench.ablate.plan import Ablation, Cell
from bench.errors import BenchError, InterruptedRunError
from bench.record import Record
from bench.reporting import Reporter, Silent
from bench.run import execute
from bench.stop import Stop


@dataclass(frozen=True)
class CellResult:
    """What the runs of a cell left."""

    cell: Cell
    records: list[tuple[Record, Path]] = field(default_factory=list)
    """One a protocol and seed."""
    faults: list[str] = field(default_factory=list)
    """Why a run of it could not be finished."""


def carry_out(
    ablation: Ablation, results_dir: Path, *, reporter: Reporter | None = None, stop: Stop | None = None
) -> list[CellResult]:
    """Take every run of ``ablation`` to its end: all cells under the first seed, then under the next.

    A run that cannot be finished, for example because its training diverges, leaves the others alone.

    Raises:
        InterruptedRunError: a stop was requested; the same call continues.
    """
    reporter, stop = reporter or Silent(), stop or Stop()
    results = [CellResult(cell) for cell in ablation.cells]
    for place in range(len(ablation.cells[0].runs)):
        for number, result in enumerate(results, 1):
            run = result.cell.runs[place]
            name = f"{result.cell.label}, seed {run.seed}"
            if not run.finished:
                stop.check()
                reporter.note(f"cell {number} of {len(results)}: {name}")
            try:
                result.records.extend(execute(run, results_dir, reporter=reporter, stop=stop))
            except InterruptedRunError:
                raise
            except BenchError as error:
                result.faults.append(f"seed {run.seed}: {error}")
                reporter.note(f"{name} failed: {error}")
    return results
