"""Executes an ablation run by run; finished runs are not repeated."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.ablate.ablation import Ablation, Cell
from bench.errors import BenchError, BusyRunError, InterruptedRunError
from bench.monitor import Monitor
from bench.record import Record
from bench.run import Run, execute, threads_as_begun

_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class CellResult:
    """The results of a cell's runs."""

    cell: Cell
    records: list[tuple[Record, Path]] = field(default_factory=list)
    """One per protocol and seed."""
    faults: list[str] = field(default_factory=list)
    """The errors of runs that could not be finished."""


def carry_out(
    ablation: Ablation, results_dir: Path, monitor: Monitor | None = None, *, threads_open: bool = False
) -> list[CellResult]:
    """Complete every run of ``ablation``: all cells under the first seed, then under the next.

    A run that fails, for example because its training diverges, does not stop the others. A run that another process
    is working on is postponed to the end, and then waited for.

    Args:
        threads_open: whether a run that has begun continues with the CPU threads that it began with.

    Raises:
        InterruptedRunError: a stop was requested; the same call continues.
    """
    monitor = monitor or Monitor()

    def finish(result: CellResult, run: Run) -> bool:
        with threads_as_begun(run, threads_open):
            return _finish(result, run, results_dir, monitor)

    results = [CellResult(cell) for cell in ablation.cells]
    seeds = range(len(ablation.cells[0].runs))
    left = [(result, result.cell.runs[place]) for place in seeds for result in results]
    busy = []
    for number, (result, run) in enumerate(left, 1):
        name = f"{result.cell.label}, seed {run.seed}"
        if not run.finished:
            monitor.note(f"run {number} of {len(left)}: {name}")
        if not finish(result, run):
            monitor.note(f"{name} is postponed to the end: another process is working on it")
            busy.append((result, run))
    while busy:
        busy = [(result, run) for result, run in busy if not finish(result, run)]
        time.sleep(_POLL_SECONDS if busy else 0)
    return results


def _finish(result: CellResult, run: Run, results_dir: Path, monitor: Monitor) -> bool:
    """Complete ``run`` and add its records or its fault to ``result``; False: another process is working on it."""
    monitor.check()
    try:
        done = execute(run, results_dir, monitor)
    except InterruptedRunError:
        raise
    except BusyRunError:
        return False
    except BenchError as error:
        result.faults.append(f"seed {run.seed}: {error}")
        monitor.note(f"{result.cell.label}, seed {run.seed} failed: {error}")
        finished = [protocol for protocol in run.protocols if run.protocol_folder(protocol).record.exists()]
        done = execute(replace(run, protocols=finished), results_dir, monitor) if finished else []
    for record, path in done:
        if failed := record.diagnosed("fail"):
            found = "; ".join(one.said for one in failed)
            result.faults.append(f"seed {run.seed}, {record.protocol}: {found}")
        else:
            result.records.append((record, path))
    return True
