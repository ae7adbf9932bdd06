"""Evaluate a trained encoder under a protocol, as ``bench evaluate`` does.

Run it as ``python examples/evaluate_an_encoder.py ENCODER [DATASET]``. AutoAttack is left out and PGD has few steps, so
that it ends soon; without ``settings`` the numbers are those of the board.
"""

import sys

import bench

QUICK = {"slf.epochs": 2, "evaluate.pgd_steps": 5, "evaluate.autoattack": False}


def main(source: str, dataset: str | None = None) -> None:
    """Print SA and RA with their 95 % intervals."""
    encoder = bench.load_encoder(source)
    for record in bench.evaluate(encoder, dataset, protocols=["slf"], settings=QUICK):
        for name, outcome in (("SA", record.sa), ("RA", record.ra.outcome)):
            low, high = outcome.interval
            print(f"{record.title}, {record.protocol}: {name} {outcome.accuracy:.1%} [{low:.1%}, {high:.1%}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
