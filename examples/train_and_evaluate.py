"""Train and evaluate two methods from Python, and compare them image by image.

Run it as ``python examples/train_and_evaluate.py [FOLDER]``. The recipe is reduced to a few epochs of a
width-2 encoder so that it ends in seconds: the numbers show how the code is used, not how the methods compare.
A second call reads the finished runs of the first.
"""

import sys
from pathlib import Path

from bench.record import Outcome, Record
from bench.run import RunRequest, execute, prepare

QUICK = {
    "encoder.width": 2,
    "stage1.epochs": 2,
    "stage1.warmup_epochs": 0,
    "slf.epochs": 3,
    "evaluate.autoattack": False,
}
QUICK_STAGE2 = {"stage2.epochs": 1, "stage2.warmup_epochs": 0}


def train_and_evaluate(method: str, folder: Path, overrides: dict[str, int | bool]) -> Record:
    """Return the record of ``method`` on digits under SLF, read from ``folder`` if it was run before."""
    request = RunRequest(method, "digits", protocols=["slf"], overrides=overrides, runs_dir=folder / "runs")
    ((record, path),) = execute(prepare(request), folder / "results")
    print(f"{path}: {record.pretraining_seconds:.1f} s of pre-training")
    return record


def percent(outcome: Outcome) -> str:
    """Return an accuracy with its 95 % interval."""
    low, high = outcome.interval
    return f"{outcome.accuracy:.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    """Compare SimCLR with DeACL, which starts from it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
    simclr = train_and_evaluate("simclr", folder, QUICK)
    deacl = train_and_evaluate("deacl", folder, {**QUICK, **QUICK_STAGE2})
    for record in (simclr, deacl):
        print(f"{record.title}: SA {percent(record.sa)}, RA {percent(record.ra.outcome)}, n = {record.sa.n}")

    pairs = list(zip(simclr.ra.outcome.unpack(), deacl.ra.outcome.unpack(), strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    print(f"Under PGD-{deacl.ra.steps}, DeACL is right on {gained} images that SimCLR loses, and loses {lost} others.")


if __name__ == "__main__":
    main()
