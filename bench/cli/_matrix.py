"""What ``bench matrix`` and ``bench plan`` share, and the tables of ``bench matrix``."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import _options as option
from bench.cli._progress import rough_time
from bench.cli._tables import Column, DataTable

if TYPE_CHECKING:
    from bench.grid import GridJob, JobStatus
    from bench.matrix import MatrixRequest

Methods = Annotated[str, typer.Option(help="Methods with commas, or all.")]
Datasets = Annotated[str, typer.Option(help="Datasets with commas, named as in bench run.")]
Seeds = Annotated[str, typer.Option(help="Seeds with commas.")]

_ORDER = ("waiting", "queued", "running", "stopped", "cancelled", "failed", "done")
_FAULTS = 10
"""The most failures that are printed in full; --json has all."""


def matrix_request(
    methods: str,
    datasets: str,
    seeds: str,
    protocols: str | None,
    *,
    preset: str | None,
    precision: str | None,
    set_: list[str] | None,
    **more: Any,
) -> "MatrixRequest":
    """Return the request for a grid; ``more`` are further fields of it, as they are."""
    from bench.matrix import MatrixRequest

    of_all, of_one = option.split_settings(set_ or [])
    return MatrixRequest(
        methods=option.names(methods) or (),
        datasets=option.names(datasets) or (),
        seeds=option.parse_seeds(seeds),
        protocols=option.names(protocols),
        overrides=option.overrides(preset, of_all, precision),
        own={name: option.overrides(None, items, None) for name, items in of_one.items()},
        **more,
    )


def jobs_table(jobs: "Sequence[GridJob]") -> DataTable:
    """Return what would run, a line a job."""
    table = DataTable(
        "job", Column("needs", drop=2), Column("memory", number=True, drop=1), caption=f"{len(jobs)} jobs"
    )
    for job in jobs:
        memory = f"{job.memory / 2**30:.2g} GiB" if job.memory else ""
        table.add(job.name, ", ".join(job.needs), memory)
    return table


def status_tables(grid: Path, found: "Sequence[JobStatus]", every: bool) -> Iterator[DataTable]:
    """Yield a table with a line a method and dataset, and one of the jobs that run or wait; ``every``: of all jobs."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for job in found:
        counts.setdefault((job.method, job.dataset), Counter())[job.status] += 1
    present = [status for status in _ORDER if any(count[status] for count in counts.values())]
    table = DataTable("method", "dataset", *(Column(status, number=True) for status in present), title=str(grid))
    for names, count in counts.items():
        table.add(*names, *(count[status] or "" for status in present))
    if len(counts) > 1:
        table.rule()
        table.add("all", "", *(sum(count[status] for count in counts.values()) for status in present))
    yield table
    lines = [job for job in found if every or job.status == "running"]
    if lines:
        detail = DataTable(
            "job",
            "status",
            Column("phase", drop=2),
            Column("done", number=True),
            Column("phase ends in", number=True, drop=1),
            Column("failures", number=True, drop=3),
            Column("Slurm", drop=4),
            Column("why", prose=True, drop=5),
        )
        for job in lines:
            seen = job.progress
            left = rough_time(seen.seconds_left) if seen and seen.seconds_left is not None else ""
            share = f"{seen.done / seen.total:.0%}" if seen and seen.total else ""
            why = job.reason.splitlines()[0] if job.reason else ""
            phase = seen.phase if seen else ""
            detail.add(job.name, job.status, phase, share, left, job.failures or "", job.number or "", why)
        yield detail


def fault_lines(found: "Sequence[JobStatus]") -> list[str]:
    """Return why jobs failed, each with the last lines of its log."""
    failed = [job for job in found if job.status == "failed"]
    lines = []
    for job in failed[:_FAULTS]:
        why, *log = job.reason.splitlines()
        lines.append(f"{job.name} failed: {why}" + (f" ({job.log})" if job.log else ""))
        lines += [f"  {line}" for line in log]
    if len(failed) > _FAULTS:
        lines.append(f"and {len(failed) - _FAULTS} more failed; --json shows why.")
    return lines
