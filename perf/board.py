"""Time and memory of the commands that read records, with 100, 1,000 and 10,000 of them.

Records of random outcomes, of several methods, protocols and seeds each, are written to a temporary folder; then the
commands are run as a user runs them, including the start of the program. Seconds of the processor are those of all
processes of a command; its memory is their proportional share, looked at twenty times a second.

Run from the repository's root: ``python perf/board.py [--records 100 1000 10000] [--output FILE]``.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from comparison import Cell, Comparison, Table, arguments

from bench.files import json_bytes
from bench.record import AutoAttackEvaluation, Environment, Outcome, PGDEvaluation, PhaseCost, Record, record_path

SEEDS = 5
PROTOCOLS = ("slf", "alf", "aff")
EPS = 8 / 255
COLUMNS = ("", "records", "seconds", "of the processor", "times the row above", "memory, MB")


class Usage(NamedTuple):
    """What one program took."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def main() -> None:
    """Measure, print, and write the figures if requested."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--records", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--images", type=int, default=10_000, help="test images a record")
    parser.add_argument("--epochs", type=int, default=200, help="entries of the history of pre-training")
    parser.add_argument("--site", type=int, default=10_000, help="of at most so many a site is written")
    options = parser.parse_args()
    compared = Comparison("board", options)
    used: dict[str, list[Usage]] = {}
    sizes: dict[str, dict[str, float]] = {}
    for count in options.records:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "results", count, options.images, options.epochs)
            for name, command in commands(Path(folder)).items():
                if name == "bench site" and count > options.site:
                    continue
                found = [run(command) for _ in range(options.rounds)]
                used.setdefault(name, []).append(min(found, key=lambda one: one.cpu_seconds))
            sizes[str(count)] = {name: megabytes(Path(folder) / name) for name in ("results", "site")}
    compared.values["megabytes on disk"] = sizes
    title = f"Commands that read records of {options.images:,} images and {options.epochs} epochs"
    compared.add(Table(title, COLUMNS, list(rows(used, options.records)), f"Least of {options.rounds} rounds."))
    compared.finish()


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the programs to measure, by what they do: those of ``bench``, and the imports of one of them."""
    bench = str(Path(sys.executable).with_name("bench"))
    where = ["--results-dir", str(folder / "results")]
    board = [bench, "leaderboard", *where, "--output", str(folder / "LEADERBOARD.md")]
    two = ["m0-paper-uniform-s0-slf-00000000", "m1-paper-uniform-s0-slf-30000000"]
    return {
        "bench --help": [bench, "--help"],
        "import bench.compare": [sys.executable, "-c", "import bench.compare"],
        "bench compare RECORD RECORD": [bench, "compare", *two, *where],
        "bench compare METHOD METHOD": [bench, "compare", "m0", "m1", "--dataset", "random", *where],
        "bench leaderboard --write": [*board, "--write"],
        "bench leaderboard --check": [*board, "--check"],
        "bench leaderboard": [bench, "leaderboard", *where],
        "bench site": [bench, "site", *where, "--output", str(folder / "site")],
    }


def run(command: Sequence[str]) -> Usage:
    """Run a program to its end, which must be a good one, and return what it and its processes took."""
    start, before, most = time.perf_counter(), os.times(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(psutil.Error):  # it has just ended
            family = [process, *process.children(recursive=True)]
            most = max(most, sum(one.memory_full_info().pss for one in family))
        time.sleep(0.05)
    seconds, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(seconds, cpu, most / 1e6)


def rows(used: dict[str, list[Usage]], counts: Sequence[int]) -> list[list[Cell]]:
    """Return the rows of the table: each command with each number of records."""
    found: list[list[Cell]] = []
    for name, usages in used.items():
        for place, (count, one) in enumerate(zip(counts, usages, strict=False)):
            growth = one.cpu_seconds / usages[place - 1].cpu_seconds if place else ""
            shown = "" if place else name
            found.append([shown, f"{count:,}", one.seconds, one.cpu_seconds, growth, one.megabytes])
    return found


def megabytes(folder: Path) -> float:
    """Return the size of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def fill(results: Path, count: int, images: int, epochs: int) -> None:
    """Write ``count`` records under ``results``."""
    for number in range(count):
        record = _record(number, images, epochs).sealed()
        path = record_path(results, record)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json_bytes(record.content()))


def _record(number: int, images: int, epochs: int) -> Record:
    """Return one of many records, ordered by method, then protocol and seed."""
    rng = np.random.default_rng(number)
    recipe, seed = divmod(number, SEEDS)
    method, protocol = divmod(recipe, len(PROTOCOLS))
    clean = rng.random(images) < 0.8
    robust = clean & (rng.random(images) < 0.6)
    survived = robust & (rng.random(images) < 0.9)
    outcomes = [Outcome.pack(right.tolist(), test_images=images) for right in (clean, robust, survived)]
    facts = {
        **{"name": "random", "sha256": "0" * 64, "image_shape": (3, 32, 32), "num_classes": 10, "train_images": 50_000},
        **{"test_images": images, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    }
    return Record(
        method=f"m{method}",
        title=f"Method {method}",
        year=2022,
        dataset="random",
        tier="paper",
        tier_sha256="1" * 64,
        fidelity="uniform",
        seed=seed,
        protocol=PROTOCOLS[protocol],
        overrides={},
        recipe={"dataset": facts, "threat": {"norm": "linf", "eps": EPS}},
        pretraining_sha256=f"{method:064x}",
        protocol_sha256=f"{recipe:064x}"[::-1],
        encoder_sha256="2" * 64,
        classifier_sha256=f"{number:064x}",
        sa=outcomes[0],
        ra=PGDEvaluation(outcome=outcomes[1], eps=EPS, steps=20, step_size=EPS / 4, start="uniform", restarts=1),
        aa=AutoAttackEvaluation(
            **{"outcome": outcomes[2], "eps": EPS, "version": "standard", "package": "p", "package_version": "1"},
            **{"targets": 9, "survivors": {}, "warnings": []},
        ),
        cost={"stage:ssl": PhaseCost(seconds=3600, images=50_000 * epochs, flops_per_image=1e9, device="GPU")},
        history={
            "stage:ssl": [
                {"epoch": epoch, "loss": float(rng.random()), "lr": float(rng.random())} for epoch in range(epochs)
            ]
        },
        environment=Environment(bench="0", packages={}, python="3", platform="p", device="GPU", threads=1),
        started="2024-01-01T00:00:00+00:00",
        finished="2024-01-01T01:00:00+00:00",
    )


if __name__ == "__main__":
    main()
