"""What a point of robust accuracy costs: a small recipe's width and epochs against SA and RA under SLF.

Every candidate is the tier ``mini`` with another width and another factor on all epochs. RA is measured on all test
images at two radii: at the smaller one, methods differ more where networks are this small. The cost is that of
pre-training, attacks included, in operations, which other programs on the machine do not change. Finished runs stay in
``--folder``, so that the same command continues after a stop. Run from the repository's root:

    python perf/tiers.py --dataset npz:cifar10-exact.npz --methods deacl,acl --candidates 8:0.01 8:0.02 16:0.01
"""

import argparse
import math
import re
import sys
from importlib import resources
from pathlib import Path

from comparison import Comparison, Table

from bench.files import write_bytes
from bench.method import METHODS
from bench.recipe import parse_overrides
from bench.record import Record
from bench.run import RunRequest, execute, prepare


def main() -> None:
    """Train each method at each candidate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="as in bench run")
    parser.add_argument("--methods", default="deacl,simclr", help="with commas (default %(default)s)")
    parser.add_argument("--candidates", nargs="+", metavar="WIDTH:EPOCHS", required=True, help="as 8:0.02")
    parser.add_argument("--eps", nargs=2, default=["8/255", "4/255"], help="radii of RA (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of all candidates")
    parser.add_argument("--folder", type=Path, default=Path("runs/tiers"), help="of tiers, runs and records")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default %(default)s)")
    parser.add_argument("--output", type=Path, help="also write everything here, as JSON")
    asked = parser.parse_args()
    comparison = Comparison("tiers", asked)
    columns = ("width", "epochs", "method", "SA, %", *(f"RA at {eps}, %" for eps in asked.eps), "operations, 1e12")
    rows = []
    for candidate in asked.candidates:
        width, epochs = candidate.split(":")
        tier = write_tier(asked.folder, int(width), float(epochs))
        for method in asked.methods.split(","):
            first, second = (measured(method, tier, eps, asked) for eps in asked.eps)
            accuracies = (first.sa.accuracy, first.ra.outcome.accuracy, second.ra.outcome.accuracy)
            cost = (first.pretraining_flops or math.nan) / 1e12
            rows.append((int(width), f"x {epochs}", method, *(100 * each for each in accuracies), cost))
    comparison.add(Table("Candidates for a small tier, SLF, seed 0", columns, rows))
    comparison.finish()


def write_tier(folder: Path, width: int, epochs: float) -> Path:
    """Write the tier ``mini`` with ``width`` and ``epochs``, and return its file."""
    mini = (resources.files("bench") / "recipes" / "mini.toml").read_text("utf-8")
    for line, value in (("epochs", epochs), ("width", width)):
        mini = re.sub(rf"^{line} = .*", f"{line} = {value}", mini, count=1, flags=re.MULTILINE)
    path = folder / f"w{width}-x{epochs:g}.toml"
    write_bytes(path, mini.encode())
    return path


def measured(method: str, tier: Path, eps: str, asked: argparse.Namespace) -> Record:
    """Return the record of ``method``; its run is carried out first, or continued."""
    request = RunRequest(
        method,
        asked.dataset,
        tier=str(tier),
        protocols=METHODS.get(method).info.protocols[:1],
        seed=0,
        overrides={"evaluate.autoattack": False, **parse_overrides([*asked.set, f"evaluate.eps={eps}"])},
        runs_dir=asked.folder / "runs",
        device="cpu",
    )
    ((record, _),) = execute(prepare(request), asked.folder / "results")
    print(f"{tier.stem} {method}: SA {record.sa.accuracy:.3f}, RA at {eps} {record.ra.outcome.accuracy:.3f}")
    sys.stdout.flush()
    return record


if __name__ == "__main__":
    main()
