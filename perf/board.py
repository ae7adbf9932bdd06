"""Seconds to make the board, and to compare two records, among a thousand records.

    python perf/board.py --records 1000 --images 10000 --epochs 200

Records of random outcomes, of several methods, protocols and seeds each, are written to a temporary folder; then
the commands are run as a user runs them, including the start of the program, and the parts are timed in one process.
Reported is the median of the rounds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.leaderboard import render_leaderboard
from bench.record import (
    AutoAttackEvaluation,
    Environment,
    Outcome,
    PGDEvaluation,
    PhaseCost,
    Record,
    record_files,
    save_record,
)
from bench.results import build_leaderboard, read_groups

SEEDS = 5
PROTOCOLS = ("slf", "alf", "aff")
EPS = 8 / 255


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        results, board = Path(folder) / "results", Path(folder) / "LEADERBOARD.md"
        for number in range(options.records):
            save_record(results, _record(number, options.images, options.epochs))
        files = list(record_files(results))
        megabytes = sum(path.stat().st_size for path in files) / 1e6
        print(f"{len(files)} records of {options.images} images and {options.epochs} epochs, {megabytes:.1f} MB")
        where = ["--results-dir", str(results)]
        names = [path.stem for path in files[:: len(files) // 2]][:2]
        built = build_leaderboard(results)
        timings = {
            "bench leaderboard --write": lambda: _run(["leaderboard", "--write", *where, "--output", str(board)]),
            "bench leaderboard --check": lambda: _run(["leaderboard", *where, "--output", str(board), "--check"]),
            "bench compare": lambda: _run(["compare", *names, *where, "--across-protocols"]),
            "bench --help": lambda: _run(["--help"]),
            "read and trust": lambda: read_groups(results),
            "read and rank": lambda: build_leaderboard(results),
            "render": lambda: render_leaderboard(built, records_at="results"),
        }
        medians = {name: _median(work, options.rounds) for name, work in timings.items()}
    print("   wall     CPU")
    for name, (wall, cpu) in medians.items():
        print(f"{wall:5.2f} s {cpu:5.2f} s  {name}")
    if options.output:
        options.output.write_text(json.dumps(medians, indent=1) + "\n")


def _run(arguments: list[str]) -> None:
    command = [str(Path(sys.executable).with_name("bench")), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def _median(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return wall-clock seconds, and processor seconds, which vary less on a busy machine."""
    spent = []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), _cpu_seconds()
        work()
        spent.append((time.perf_counter() - start, _cpu_seconds() - cpu))
    wall, cpus = zip(*spent, strict=True)
    return statistics.median(wall), statistics.median(cpus)


def _cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000, help="test images a record")
    parser.add_argument("--epochs", type=int, default=200, help="entries of the history of pre-training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
