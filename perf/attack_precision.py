"""Attacks with gradients in bf16 against those in fp32: how many verdicts differ, and how long a gradient takes.

Each classifier is attacked twice by PGD-20 and twice by AutoAttack, with the same random starts and once in each
precision. Every image is judged in fp32, so that a different verdict means another attack, not another judge. The
gradients of the two precisions are timed in turns.
What is finished stays in ``--folder``, and the same command continues after a stop. Train the classifiers first, such
as with `bench run deacl --dataset digits`, and run this from the repository's root:

    python perf/attack_precision.py runs/RUN-OF-DEACL runs/RUN-OF-SIMCLR --output attack_precision.json
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from comparison import Cell, Comparison, Table, arguments, speeds, take_turns

from bench.attack import PGD, margin_objective
from bench.data import Dataset, unit_pixels
from bench.device import device_name, pick_device
from bench.errors import BenchError
from bench.evaluation import Evaluation, attacked_copy, evaluate
from bench.job import Job
from bench.recipe import Precision, Threat
from bench.run import Finished, finished_in

IMAGES = 64
"""In a timed batch."""


def main() -> None:
    """Attack the classifiers of every run in both precisions, and print the table."""
    parser = arguments(__doc__ or "", rounds=9)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or files in them")
    parser.add_argument("--autoattack-images", type=int, default=100, help="default %(default)s")
    parser.add_argument("--device", help="cpu or cuda (default: the best there is)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="of downloaded data (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/attack-precision"), help="of what is finished")
    asked = parser.parse_args()
    comparison = Comparison("attack_precision", asked)
    device = pick_device(asked.device)
    rows: list[list[Cell]] = []
    for one in (one for run in asked.runs for one in finished_in(run_of(run))):
        dataset = one.dataset(asked.data_dir)
        rows += verdicts(one, dataset, device, asked)
        calls = {name: gradient(one, dataset, device, name) for name in ("fp32", "bf16")}
        seconds = take_turns(calls, asked.rounds)
        amounts, title = dict.fromkeys(calls, float(IMAGES)), f"Gradients of {name_of(one)}, batches of {IMAGES}"
        comparison.add(speeds(title, seconds, amounts, unit="images", ours="bf16"), seconds)
    comparison.values["device"] = device_name(device)
    columns = ("classifier", "attack", "images", "right, fp32", "right, bf16", "differ")
    only = ("only fp32 breaks", "only bf16 breaks")
    comparison.add(Table("Verdicts of attacks with gradients in two precisions", (*columns, *only), rows))
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
    for attack, a, b in ((f"PGD-{exact.ra.steps}", exact.ra, low.ra), ("AutoAttack", exact.aa, low.aa)):
        yield [name_of(one), attack, *map(str, counts(a.outcome.unpack(), b.outcome.unpack()))]


def name_of(one: Finished) -> str:
    """Return a classifier's name in the tables."""
    return f"{one.record.title}, {one.protocol.upper()}, {one.record.dataset}, width {one.recipe.encoder.width}"


def gradient(one: Finished, dataset: Dataset, device: torch.device, precision: Precision) -> Callable[[], float]:
    """Return a call that takes one step of PGD on the first test images, and waits for its end."""
    images, labels = (part[:IMAGES].to(device) for part in (dataset.test.images, dataset.test.labels))
    objective = margin_objective(attacked_copy(one.classifier(device), precision), labels)
    threat = Threat(norm=one.recipe.threat.norm, eps=one.record.ra.eps)
    step = partial(PGD(1, 0.25, "clean"), objective, unit_pixels(images), threat=threat)
    return lambda: float(step().sum())


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
    return evaluate(one.classifier(device), dataset.test, job, recipe=recipe)


if __name__ == "__main__":
    main()
