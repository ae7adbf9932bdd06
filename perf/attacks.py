"""The attacks of the suite against AutoAttack, image by image: which breaks what the other does not, and at what cost.

Each attack is run alone on the images of a record's AutoAttack that are right without an attack, in one batch, and the
attacks take turns. Which images AutoAttack breaks is read from the record. An image counts as broken by the suite where
the classifier itself, in fp32, errs on what the attack returned. ``--time-autoattack`` runs AutoAttack again, in its
turn, so that its time is measured beside theirs. Train and evaluate the classifiers first, such as with `bench run
deacl --dataset digits`, and run this from the repository's root:

    python perf/attacks.py runs/RUN-OF-DEACL runs/RUN-OF-VICREG --output perf/recorded/attacks.json
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from attack_precision import name_of, run_of
from comparison import Cell, Comparison, Seconds, Table, arguments, take_turns
from torch import Tensor, nn

from bench.attack import ATTACKS, NamedAttack, auto_attack
from bench.data import Dataset, unit_pixels
from bench.errors import BenchError
from bench.evaluation import attacked_copy
from bench.recipe import Threat
from bench.run import Finished, finished_in

AUTOATTACK = "AutoAttack"
GRADIENTS = 1900
"""Of AutoAttack standard on an image that it does not break: APGD-CE and APGD-T take 10 x 100, FAB-T 9 x 100."""


def main() -> None:
    """Attack the classifiers of every run, and print a table for each."""
    parser = arguments(__doc__ or "", rounds=1)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or files in them")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="of the suite, with commas (default: all)")
    parser.add_argument("--time-autoattack", action="store_true", help="run AutoAttack again, to time it")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="of downloaded data (default %(default)s)")
    asked = parser.parse_args()
    compared = Comparison("attacks", asked)
    for one in (one for run in asked.runs for one in finished_in(run_of(run))):
        compared.add(*measured(one, one.dataset(asked.data_dir), asked))
    compared.finish()


def measured(one: Finished, dataset: Dataset, asked: argparse.Namespace) -> tuple[Table, Seconds]:
    """Return the table of one classifier, and the seconds of each attack.

    Raises:
        BenchError: its record has no AutoAttack.
    """
    aa = one.record.aa
    if aa is None:
        raise BenchError(f"{one.folder.path} has no AutoAttack in its record. Evaluate it with AutoAttack first.")
    clean, positions = one.record.sa.unpack(), aa.outcome.positions(one.record.sa.n)
    official = {place: right for place, right in zip(positions, aa.outcome.unpack(), strict=True) if clean[place]}
    chosen = torch.tensor([*official])
    images, labels = unit_pixels(dataset.test.images[chosen]), dataset.test.labels[chosen]
    classifier = one.classifier(torch.device("cpu")).eval()
    model = attacked_copy(classifier, "fp32")
    found: dict[str, Tensor] = {}

    def attack(name: str, returned: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        x_adv = returned(model, images, labels)
        with torch.no_grad():
            found[name] = classifier(x_adv).argmax(1) == labels

    calls = {name: partial(attack, name, partial(by_suite, one, name)) for name in asked.attacks.split(",")}
    if asked.time_autoattack:
        calls[AUTOATTACK] = partial(attack, AUTOATTACK, partial(by_autoattack, one))
    seconds = take_turns(calls, asked.rounds, warm_up=False)
    found.pop(AUTOATTACK, None)
    return compared_table(one, torch.tensor([*official.values()]), found, seconds), seconds


def compared_table(one: Finished, official: Tensor, suite: dict[str, Tensor], seconds: Seconds) -> Table:
    """Return a row for AutoAttack, one for each attack, and one for all attacks of the suite together."""
    took = {name: statistics.median(values) for name, values in seconds.items()}
    gradients = {name: NamedAttack(name, one.recipe.evaluate).gradients for name in suite}
    suite = {**suite, "all of them": torch.stack(list(suite.values())).all(0)}
    took["all of them"] = sum(took[name] for name in gradients)
    gradients["all of them"] = sum(gradients.values())
    rows: list[list[Cell]] = [[AUTOATTACK, str(int(official.sum())), "", "", GRADIENTS, took.get(AUTOATTACK)]]
    rows += [[name, *counts(official, found), gradients[name], took[name]] for name, found in suite.items()]
    title = f"{name_of(one)}, {one.recipe.threat.norm} {one.record.ra.eps:.3g}, {len(official)} images that are right"
    columns = ("left", "only it breaks", "only AutoAttack breaks", "gradients an image at most", "seconds")
    return Table(title, ("", *columns), rows)


def counts(official: Tensor, found: Tensor) -> list[str]:
    """Return how many images an attack leaves, only it breaks, and only AutoAttack breaks."""
    return [str(int(count)) for count in (found.sum(), (official & ~found).sum(), (~official & found).sum())]


def by_autoattack(one: Finished, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the images after AutoAttack."""
    result = auto_attack(
        model,
        images,
        labels,
        threat=threat_of(one),
        num_classes=one.recipe.dataset.num_classes,
        seed=one.record.seed,
        batch_size=len(images),
    )
    return result.x_adv


def by_suite(one: Finished, name: str, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the images after one attack of the suite."""
    attack = NamedAttack(name, one.recipe.evaluate, stream=f"attacks.{name}")
    positions = range(len(images))
    return attack(model, images, labels, threat=threat_of(one), seed=one.record.seed, positions=positions)


def threat_of(one: Finished) -> Threat:
    """Return the threat model of the record's RA."""
    return Threat(norm=one.recipe.threat.norm, eps=one.record.ra.eps)


if __name__ == "__main__":
    main()
