"""Time and files of a grid with 10 and with 1,000 simulated cells, and what a worker adds to the time of its command.

A simulated cell leaves an empty file and computes nothing, so all that is measured is the bench's own: the grid's file,
the scheduler of this machine with its states and locks, and `bench matrix status` as a user runs it, including the
start of the program. With ``--slurm`` the cells are also submitted to the Slurm that answers here, held, listed and
cancelled: `python tests/slurm_cluster.py FOLDER` starts one.

Run from the repository's root: ``python perf/grid.py [--cells 10 1000] [--slurm] [--output FILE]``.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from threading import Event

import psutil
from comparison import Cell, Comparison, Table, arguments

from bench.grid import (
    Device,
    Grid,
    GridFolder,
    GridJob,
    JobFolder,
    cancel_queued,
    grid_status,
    run_local,
    submit,
    to_start,
)

BENCH = str(Path(sys.executable).with_name("bench"))


def simulated(path: Path, cells: int) -> Grid:
    """Return a grid of ``cells`` jobs, whose command takes no time and whose files exist in ``path`` afterwards."""
    jobs = tuple(
        GridJob(
            name=f"cell-{number}",
            command=("--version",),
            leaves=(str(path / "made" / str(number)),),
            method=f"method-{number % 10}",
            dataset="simulated",
        )
        for number in range(cells)
    )
    return Grid(asked={"cells": cells}, jobs=jobs, resources={"hold": True})


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of a call, by the clock on the wall."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def program(*words: str) -> tuple[float, float]:
    """Run a program, and return its seconds, and those of the processor."""
    before = psutil.Process().cpu_times()
    seconds = timed(lambda: subprocess.run(words, check=True, capture_output=True))
    after = psutil.Process().cpu_times()
    used = sum(after[2:4]) - sum(before[2:4])
    return seconds, used


def measure(path: Path, cells: int) -> list[list[Cell]]:
    """Return the rows of a grid of ``cells``."""
    made: list[GridFolder] = []
    content = simulated(path, cells)
    rows: list[list[Cell]] = [
        ["write the grid", cells, timed(lambda: made.append(GridFolder.create(path, content))), None]
    ]
    (folder,) = made
    rows.append(["bench matrix status, all waiting", cells, *program(BENCH, "matrix", "status", str(path))])
    (path / "made").mkdir()

    def launch(command: Sequence[str], own: JobFolder, environment: Mapping[str, str], stop: Callable[[], bool]) -> int:
        (path / "made" / own.path.name.removeprefix("cell-")).touch()
        return 0

    ran = timed(lambda: run_local(folder, [Device("cpu", 2, 2**40)], Event(), launch=launch))
    rows.append(["schedule and finish all, on this machine", cells, ran, None])
    rows.append(["bench matrix status, all done", cells, *program(BENCH, "matrix", "status", str(path))])
    rows.append(["bench matrix status --json", cells, *program(BENCH, "matrix", "status", str(path), "--json")])
    return rows


def on_slurm(path: Path, cells: int) -> list[list[Cell]]:
    """Return the rows of ``cells`` held jobs in Slurm's queue."""
    folder = GridFolder.create(path, simulated(path, cells))
    rows: list[list[Cell]] = [
        ["submit all to Slurm", cells, timed(lambda: submit(folder, to_start(folder, grid_status(folder)))), None],
        ["bench matrix status, all in Slurm's queue", cells, *program(BENCH, "matrix", "status", str(path))],
        ["cancel all in Slurm's queue", cells, timed(lambda: cancel_queued(folder)), None],
    ]
    return rows


def overhead(path: Path, rounds: int) -> list[list[Cell]]:
    """Return what a worker adds to its command, which is `bench --version`."""
    folder = GridFolder.create(path, simulated(path, rounds))
    (path / "made").mkdir()
    alone, within = [], []
    for number in range(rounds):
        alone.append(program(BENCH, "--version"))
        (path / "made" / str(number)).touch()
        folder.job(f"cell-{number}").path.mkdir(parents=True)
        (folder.job(f"cell-{number}").path / "state.json").write_text("{}")  # so that it is not taken for finished
        within.append(program(BENCH, "matrix", "work", str(path), f"cell-{number}"))
    values = [[median(each[place] for each in runs) for place in (0, 1)] for runs in (alone, within)]
    own = [b - a for a, b in zip(*values, strict=True)]
    return [
        ["bench --version", *values[0]],
        ["bench matrix work, with that command", *values[1]],
        ["what the worker adds", *own],
    ]


def size(path: Path) -> tuple[int, float]:
    """Return the number of files below ``path``, and their kilobytes."""
    files = [each for each in path.rglob("*") if each.is_file()]
    return len(files), sum(each.stat().st_size for each in files) / 1e3


def main() -> None:
    """Measure, print, and write the figures if requested."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--cells", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--slurm", action="store_true", help="also in the queue of the Slurm that answers here")
    options = parser.parse_args()
    compared = Comparison("grid", options)
    rows: list[list[Cell]] = []
    files: list[list[Cell]] = []
    for cells in options.cells:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder) / "grid", cells)
            count, kilobytes = size(Path(folder) / "grid" / "jobs")
            listed = (Path(folder) / "grid" / "grid.json").stat().st_size / 1e3
            files.append([f"{cells:,} cells", count, kilobytes, listed])
            rows += on_slurm(Path(folder) / "slurm", cells) if options.slurm else []
    compared.add(Table("A grid of simulated cells", ("", "cells", "seconds", "of the processor"), rows))
    with tempfile.TemporaryDirectory() as folder:
        added = overhead(Path(folder) / "grid", options.rounds)
    compared.add(Table("One cell", ("", "seconds", "of the processor"), added, f"Medians of {options.rounds}."))
    compared.add(Table("Files of the grid", ("", "files of the jobs", "kB", "grid.json, kB"), files))
    compared.finish()


if __name__ == "__main__":
    main()
