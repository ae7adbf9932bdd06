"""The attacks of the suite against AutoAttack, image by image: which breaks what the other does not, and at what cost.

Each classifier is attacked on the first test images that it gets right: by AutoAttack, and by each attack of the suite
alone, all on the same images. The images come in chunks, and on every chunk the attacks take turns. An image counts as
broken where the classifier itself, in fp32, errs on what the attack returned. Train the classifiers first, such as with
`bench run deacl --dataset digits`, and run this from the repository's root:

    python perf/attacks.py runs/RUN-OF-DEACL runs/RUN-OF-VICREG --output perf/recorded/attacks.json
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from attack_precision import name_of, run_of
from auto_attack import InChunks
from comparison import Cell, Comparison, Seconds, Table, arguments, ratio, take_turns
from torch import Tensor, nn

from bench.attack import ATTACKS, NamedAttack, auto_attack
from bench.data import Dataset, unit_pixels
from bench.evaluation import attacked_copy
from bench.recipe import Threat
from bench.run import Finished, finished_in

AUTOATTACK = "AutoAttack"
Attacked = Callable[[Tensor, Tensor], Tensor]
"""Images [B, C, H, W] and labels [B] -> the images after an attack."""


def main() -> None:
    """Attack the classifiers of every run, and print a table for each."""
    parser = arguments(__doc__ or "", rounds=3)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or files in them")
    parser.add_argument("--images", type=int, default=60, help="in total; a round attacks its share (default 60)")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="of the suite, with commas (default: all)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="of downloaded data (default %(default)s)")
    asked = parser.parse_args()
    compared = Comparison("attacks", asked)
    for one in (one for run in asked.runs for one in finished_in(run_of(run))):
        table, seconds = measured(one, one.dataset(asked.data_dir), asked)
        compared.add(table, seconds)
    compared.finish()


def measured(one: Finished, dataset: Dataset, asked: argparse.Namespace) -> tuple[Table, Seconds]:
    """Return the table of one classifier, and the seconds of each attack and chunk."""
    classifier = one.classifier(torch.device("cpu")).eval()
    chosen = torch.tensor([place for place, right in enumerate(one.record.sa.unpack()) if right][: asked.images])
    chunk = len(chosen) // asked.rounds
    chosen = chosen[: chunk * asked.rounds]
    images, labels = unit_pixels(dataset.test.images[chosen]), dataset.test.labels[chosen]
    model = attacked_copy(classifier, "fp32")
    attacks: dict[str, Attacked] = {AUTOATTACK: partial(by_autoattack, one, model)}
    attacks |= {name: partial(by_suite, one, model, name) for name in asked.attacks.split(",")}

    def verdicts(attack: Attacked, x: Tensor, y: Tensor) -> Tensor:
        x_adv = attack(x, y)
        with torch.no_grad():
            right: Tensor = classifier(x_adv).argmax(1) == y
        return right

    calls = {name: InChunks(partial(verdicts, attack), images, labels, chunk) for name, attack in attacks.items()}
    seconds = take_turns(calls, asked.rounds, warm_up=False)
    return compared_table(one, {name: call.found for name, call in calls.items()}, seconds), seconds


def compared_table(one: Finished, left: dict[str, Tensor], seconds: Seconds) -> Table:
    """Return a row for AutoAttack, one for each attack, and one for all attacks of the suite together."""
    official = left[AUTOATTACK]
    suite = {name: found for name, found in left.items() if name != AUTOATTACK}
    suite["all of them"] = torch.stack(list(suite.values())).all(0)
    rows: list[list[Cell]] = [[AUTOATTACK, str(int(official.sum())), "", "", "1"]]
    for name, found in suite.items():
        counts = found.sum(), (official & ~found).sum(), (~official & found).sum()
        rows.append([name, *(str(int(count)) for count in counts), cost(seconds, name)])
    norm, eps = one.recipe.threat.norm, one.record.ra.eps
    title = f"{name_of(one)}, {norm} {eps:.3g}, {len(official)} images that are right"
    return Table(title, ("", "left", "only it breaks", "only AutoAttack breaks", "AutoAttack's time / its time"), rows)


def cost(seconds: Seconds, name: str) -> str:
    """Return how many times as long AutoAttack takes; for all attacks together by the sum of their times."""
    if name in seconds:
        return ratio(seconds, AUTOATTACK, name)
    total = [
        sum(parts) for parts in zip(*(values for key, values in seconds.items() if key != AUTOATTACK), strict=True)
    ]
    return ratio({AUTOATTACK: seconds[AUTOATTACK], name: total}, AUTOATTACK, name)


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


def by_suite(one: Finished, model: nn.Module, name: str, images: Tensor, labels: Tensor) -> Tensor:
    """Return the images after one attack of the suite."""
    attack = NamedAttack(name, one.recipe.evaluate, stream=f"attacks.{name}")
    positions = range(len(images))
    return attack(model, images, labels, threat=threat_of(one), seed=one.record.seed, positions=positions)


def threat_of(one: Finished) -> Threat:
    """Return the threat model of the record's RA."""
    return Threat(norm=one.recipe.threat.norm, eps=one.record.ra.eps)


if __name__ == "__main__":
    main()
