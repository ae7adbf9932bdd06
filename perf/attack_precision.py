"""Attacks with gradients in bf16 against those in fp32: how many verdicts differ, and how long they take.

Each classifier is attacked twice by PGD-20 and twice by AutoAttack, with the same random starts and once in each
precision. Every image is judged in fp32, so that a different verdict means another attack, not another judge.
What is finished stays in ``--folder``, and the same command continues after a stop. Train the classifiers first, such
as with `bench run deacl --dataset digits`, and run this from the repository's root:

    python perf/attack_precision.py runs/RUN-OF-DEACL runs/RUN-OF-SIMCLR --output attack_precision.json
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from comparison import Cell, Comparison, Table

from bench.data import Dataset
from bench.device import device_name, pick_device
from bench.errors import BenchError
from bench.evaluation import Evaluation, evaluate
from bench.job import Job
from bench.recipe import Precision
from bench.run import Finished, finished_in


def main() -> None:
    """Attack the classifiers of every run in both precisions, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or files in them")
    parser.add_argument("--autoattack-images", type=int, default=100, help="default %(default)s")
    parser.add_argument("--device", help="cpu or cuda (default: the best there is)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="of downloaded data (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/attack-precision"), help="of what is finished")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default %(default)s)")
    parser.add_argument("--output", type=Path, help="also write everything here, as JSON")
    asked = parser.parse_args()
    comparison = Comparison("attack_precision", asked)
    device = pick_device(asked.device)
    rows = [
        row
        for run in asked.runs
        for one in finished_in(run_of(run))
        for row in verdicts(one, one.dataset(asked.data_dir), device, asked)
    ]
    comparison.values["device"] = device_name(device)
    columns = ("classifier", "attack", "images", "right, fp32", "right, bf16", "differ")
    only = ("only fp32 breaks", "only bf16 breaks", "time")
    note = f"time: that of bf16 in units of fp32's, on {device_name(device)}"
    comparison.add(Table("Verdicts of attacks with gradients in two precisions", (*columns, *only), rows, note))
    comparison.finish()


def run_of(path: Path) -> Path:
    """Return the folder of the run that ``path`` is or is in; raises BenchError if there is none."""
    for folder in (path, *path.parents):
        if (folder / "run.json").is_file():
            return folder
    raise BenchError(f"{path} is no run and in none. Name a folder of `bench runs`.")


def verdicts(one: Finished, dataset: Dataset, device: torch.device, asked: argparse.Namespace) -> Iterator[list[Cell]]:
    """Yield a row for PGD and one for AutoAttack on one classifier."""
    exact, low = (attacked(one, dataset, device, precision, asked) for precision in ("fp32", "bf16"))
    assert exact.aa is not None
    assert low.aa is not None
    name = f"{one.record.title}, {one.protocol.upper()}, {one.record.dataset}, width {one.recipe.encoder.width}"
    steps = f"PGD-{exact.ra.steps}"
    for attack, phase, a, b in ((steps, "ra", exact.ra, low.ra), ("AutoAttack", "aa", exact.aa, low.aa)):
        right = [a.outcome.unpack(), b.outcome.unpack()]
        seconds = [each.cost[f"evaluate:{phase}"].seconds for each in (exact, low)]
        yield [name, attack, *map(str, counts(*right)), seconds[1] / seconds[0]]


def counts(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int, int, int, int, int]:
    """Return the number of images, those right under each attack, those that differ, and which attack breaks them."""
    only_a = sum(y and not x for x, y in zip(a, b, strict=True))
    only_b = sum(x and not y for x, y in zip(a, b, strict=True))
    return len(a), sum(a), sum(b), only_a + only_b, only_a, only_b


def attacked(
    one: Finished, dataset: Dataset, device: torch.device, precision: Precision, asked: argparse.Namespace
) -> Evaluation:
    """Return the evaluation of one classifier with gradients in ``precision``."""
    changes = {
        "attack_precision": precision,
        "autoattack": True,
        "autoattack_images": asked.autoattack_images,
        "corruptions": "none",
    }
    recipe = one.recipe.model_copy(update={"evaluate": one.recipe.evaluate.model_copy(update=changes)})
    fingerprint = f"{one.record.classifier_sha256}-{recipe.evaluate.digest()}-{device}"
    folder = asked.folder / f"{one.record.classifier_sha256[:8]}-{recipe.evaluate.digest()[:8]}-{device.type}"
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder, fingerprint, one.record.seed, device)
    return evaluate(one.classifier(dataset, device), dataset.test, job, recipe=recipe)


if __name__ == "__main__":
    main()
