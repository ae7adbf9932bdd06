"""Training in bf16 against fp32, method by method: the loss of every epoch, and the accuracies of several seeds.

Both precisions of a seed get the same data, first weights, batches and views. Of each phase of training, the distance
of bf16's loss from fp32's is given in percent of fp32's, at the epoch where it is largest and at the last; the phase is
inside the band where the largest is at most ``--band``, or at most that of two seeds of fp32 from each other. SA and RA
are compared as `bench compare` compares methods over their seeds: Welch's 95 % interval of the difference, fp32 minus
bf16; separated where it does not contain 0.

A method trains with its first protocol, without AutoAttack; every setting is the tier's but for ``--set``. Finished
phases and runs stay in ``--folder``, so that the same command continues after a stop, and a table and the file of
``--output`` are made after each run. On a processor without bf16 arithmetic ``--rounded`` takes float32 kernels on bf16
numbers and rounds what they give (see rounded.py); times are then those of no hardware, and are left out. Run from the
repository's root:

    python perf/precision.py --methods deacl,simclr --folder runs/precision --output precision.json
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from comparison import Cell, Comparison, Table
from rounded import RoundedProducts

from bench.compare import compare_seeds
from bench.errors import BenchError
from bench.files import write_json
from bench.method import METHODS
from bench.recipe import parse_overrides
from bench.record import Record
from bench.results import Group, Measured, load_measured
from bench.run import RunRequest, execute, prepare

PRECISIONS = ("fp32", "bf16")


class Pair(NamedTuple):
    """One method and seed in both precisions."""

    fp32: Measured
    bf16: Measured


def main() -> None:
    """Carry out the runs of every method and seed in both precisions, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas (default: all)")
    parser.add_argument("--seeds", default="0,1,2", help="with commas (default %(default)s)")
    parser.add_argument("--dataset", default="digits", help="default %(default)s")
    parser.add_argument("--tier", default="tiny", help="default %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both precisions")
    parser.add_argument("--band", type=float, default=5.0, help="percent of fp32's loss (default %(default)s)")
    parser.add_argument("--rounded", action="store_true", help="bf16 by float32 kernels whose results are rounded")
    parser.add_argument("--folder", type=Path, default=Path("runs/precision"), help="of runs and records")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default %(default)s)")
    parser.add_argument("--output", type=Path, help="also write everything here, as JSON")
    asked = parser.parse_args()
    comparison = Comparison("precision", asked)
    done: dict[str, list[Pair]] = {}
    for method in asked.methods.split(","):
        for seed in map(int, asked.seeds.split(",")):
            try:
                pair = Pair(*(measured(method, seed, precision, asked) for precision in PRECISIONS))
            except BenchError as error:
                comparison.left_out[f"{method}, seed {seed}"] = str(error)
                continue
            done.setdefault(method, []).append(pair)
            comparison.tables = [loss_table(done, asked.band, timed=not asked.rounded), accuracy_table(done)]
            if asked.output:
                write_json(asked.output, comparison.content())
    tables, comparison.tables = comparison.tables, []
    for table in tables:
        comparison.add(table)
    comparison.finish()


def measured(method: str, seed: int, precision: str, asked: argparse.Namespace) -> Measured:
    """Return the record of ``method`` in ``precision``; its run is carried out first, or continued."""
    overrides = {"evaluate.autoattack": False, "precision": precision, **parse_overrides(asked.set)}
    request = RunRequest(
        method,
        asked.dataset,
        tier=asked.tier,
        protocols=METHODS.get(method).info.protocols[:1],
        seed=seed,
        overrides=overrides,
        runs_dir=asked.folder / "runs",
        device="cpu",
    )
    with RoundedProducts() if asked.rounded and precision == "bf16" else nullcontext():  # type: ignore[no-untyped-call]
        ((record, path),) = execute(prepare(request), asked.folder / "results")
    print(f"{method}, seed {seed}, {precision}: SA {record.sa.accuracy:.3f}, RA {record.ra.outcome.accuracy:.3f}")
    sys.stdout.flush()
    return load_measured(path)


def losses(record: Record) -> Mapping[str, list[float]]:
    """Return the mean loss of each epoch, by phase."""
    return {phase: [epoch["loss"] for epoch in epochs] for phase, epochs in record.history.items()}


def loss_table(done: Mapping[str, Sequence[Pair]], band: float, *, timed: bool) -> Table:
    """Return the distances of the losses, and, if ``timed``, what the precisions cost."""
    columns = (
        "method",
        "phase",
        "epochs",
        "seeds",
        "largest, %",
        "last epoch, %",
        "inside",
        "of fp32 seeds, %",
        "time",
    )
    rows = [row for method, pairs in done.items() for row in _phases(method, pairs, band, timed=timed)]
    note = (
        f"inside: the largest distance is at most {band:g} %, or at most that of two seeds of fp32 from each other "
        "(of fp32 seeds); time: that of bf16 in units of fp32's"
    )
    return Table("Loss in bf16 against fp32", columns, rows, note)


def _phases(method: str, pairs: Sequence[Pair], band: float, *, timed: bool) -> Iterator[Sequence[Cell]]:
    for phase in pairs[0].fp32.record.history:
        exact, low = (np.array([losses(one.record)[phase] for one in side]) for side in zip(*pairs, strict=True))
        distance = 100 * np.abs(low - exact) / np.abs(exact)
        seeds = 100 * np.ptp(exact, axis=0) / np.abs(exact).min(axis=0)
        ratios = [pair.bf16.record.cost[phase].seconds / pair.fp32.record.cost[phase].seconds for pair in pairs]
        yield (
            *(method, phase.partition(":")[2], exact.shape[1], len(pairs)),
            *(float(distance.max()), float(distance[:, -1].max())),
            "yes" if distance.max() <= max(band, seeds.max()) else "no",
            *(float(seeds.max()) if len(pairs) > 1 else None, float(np.median(ratios)) if timed else None),
        )


def accuracy_table(done: Mapping[str, Sequence[Pair]]) -> Table:
    """Return SA and RA of both precisions, and whether the seeds separate them."""
    columns = ("method", "measure", "seeds", "fp32, %", "bf16, %", "difference, points", "95 % interval", "separated")
    rows = [row for method, pairs in done.items() for row in _measures(method, pairs)]
    return Table("Accuracy in bf16 against fp32", columns, rows, "means over the seeds; one seed has no interval")


def _measures(method: str, pairs: Sequence[Pair]) -> Iterator[Sequence[Cell]]:
    if len(pairs) == 1:
        for name, (a, b) in _single(pairs[0]).items():
            yield method, name, 1, 100 * a, 100 * b, 100 * (a - b), None, None
        return
    sides: Any = (Group(tuple(side), ()) for side in zip(*pairs, strict=True))
    found = compare_seeds(*sides, measures=("sa", "ra"), across_precisions=True)
    for measure, one in found.measures.items():
        means = (100 * one.a.mean, 100 * one.b.mean, 100 * one.difference)
        yield method, measure.upper(), len(pairs), *means, *_separation(one.interval)


def _separation(interval: tuple[float, float] | None) -> tuple[Cell, Cell]:
    if interval is None:
        return None, None
    low, high = (100 * end for end in interval)
    return f"{low:.2f} to {high:.2f}", "no" if low <= 0 <= high else "yes"


def _single(pair: Pair) -> Mapping[str, tuple[float, float]]:
    a, b = (one.record for one in pair)
    return {"SA": (a.sa.accuracy, b.sa.accuracy), "RA": (a.ra.outcome.accuracy, b.ra.outcome.accuracy)}


if __name__ == "__main__":
    main()
