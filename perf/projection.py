"""Accuracy of the projection: the seconds that `bench timing` projects, and those that a run then takes.

Pre-training at ``tiny`` is projected, run to its end, and projected again, in one process and on one
thread; a ratio is the actual time over the mean of the two projections. On a busy machine the two projections differ,
and each ratio is uncertain by as much.

Run from the repository's root: ``python perf/projection.py [--method deacl] [--method acl] [--threads 1]``.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from bench.cost import Effort, StageTiming, Subject, data_like, time_pretraining
from bench.recipe import load_tier
from bench.run import RunRequest, execute, prepare

NO_EVALUATION = {"slf.epochs": 1, "evaluate.autoattack": False, "evaluate.pgd_steps": 1}


def main() -> None:
    """Project, run, project again, and print one line a stage."""
    parser = argparse.ArgumentParser(description="Projected against actual seconds of pre-training.")
    parser.add_argument("--method", action="append", help="may be repeated; default: deacl")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--tier", default="tiny")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    table = Table(title=f"{options.dataset}, tier {options.tier}, {options.threads} thread(s)")
    for heading in ("method", "stage", "projected before", "actual", "projected after", "actual / projected"):
        table.add_column(heading, justify="left" if heading in ("method", "stage") else "right")
    for method in options.method or ["deacl"]:
        before = projected(method, options.dataset, options.tier)
        actual = taken(method, options.dataset, options.tier)
        after = projected(method, options.dataset, options.tier)
        for first, seconds, last in zip(before, actual, after, strict=True):
            ratio = seconds / fmean([first.total_seconds, last.total_seconds])
            times = (first.total_seconds, seconds, last.total_seconds)
            table.add_row(method, first.stage, *(f"{value:.1f} s" for value in times), f"{ratio:.3f}")
        both = [sum(stage.total_seconds for stage in stages) for stages in (before, after)]
        table.add_row(
            *(method, "all", f"{both[0]:.1f} s", f"{sum(actual):.1f} s", f"{both[1]:.1f} s"),
            f"{sum(actual) / fmean(both):.3f}",
            end_section=True,
        )
    Console().print(table)


def projected(method: str, dataset: str, tier: str) -> list[StageTiming]:
    """Return the stages of ``method`` as `bench timing` projects them."""
    subjects = [Subject.of(method, data_like(dataset, Path("data")), tier=load_tier(tier))]
    return time_pretraining(subjects, Effort(rounds=5, seconds=60), device=torch.device("cpu")).stages[method]


def taken(method: str, dataset: str, tier: str) -> list[float]:
    """Return the seconds that each stage takes in a run, from its record."""
    with tempfile.TemporaryDirectory() as folder:
        request = RunRequest(
            method=method,
            dataset=dataset,
            tier=tier,
            protocols=["slf"],
            overrides=NO_EVALUATION,
            runs_dir=Path(folder) / "runs",
            device="cpu",
        )
        ((record, _),) = execute(prepare(request), Path(folder) / "results")
    return [cost.seconds for cost in record.stage_costs.values()]


if __name__ == "__main__":
    main()
