"""Records for the tests of the board, and readers of its text."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.leaderboard import render_leaderboard
from bench.record import (
    AutoAttackEvaluation,
    Environment,
    Outcome,
    PGDEvaluation,
    PhaseCost,
    Record,
    save_record,
)
from bench.results import build_leaderboard

TEST_IMAGES = 200
RESULTS = Path(__file__).parents[1] / "results"


def outcome(correct: int | Sequence[bool], n: int) -> Outcome:
    """The first ``correct`` of the first ``n`` images come out right, or those that ``correct`` says."""
    hits = [i < correct for i in range(n)] if isinstance(correct, int) else list(correct)
    images = None if n == TEST_IMAGES else range(n)
    return Outcome.pack(hits, images=images, test_images=TEST_IMAGES)


def robust(ra: int, aa: int, aa_n: int) -> list[bool]:
    """``ra`` of all images, few more than ``aa`` of the first ``aa_n``, as an honest attack leaves them."""
    inside = max(ra - (TEST_IMAGES - aa_n), min(ra, aa + 5))
    return [i < inside or aa_n <= i < aa_n + ra - inside for i in range(TEST_IMAGES)]


def make_record(
    *,
    sa: int = 160,
    ra: int | Sequence[bool] = 100,
    aa: int | Sequence[bool] | None = 40,
    aa_n: int = 100,
    eps: float = 8 / 255,
    warnings: Iterable[str] = (),
    data: str = "d" * 64,
    device: str = "CPU",
    flops: float | None = 1e6,
    **changes: Any,
) -> Record:
    """A record whose accuracies are ``sa`` and ``ra`` of 200 images, and ``aa`` of ``aa_n``."""
    dataset = changes.get("dataset", "cifar10")
    facts = {
        **{
            "name": dataset,
            "sha256": data,
            "image_shape": (3, 32, 32),
            "num_classes": 10,
            "train_images": 5000,
        },
        **{"test_images": TEST_IMAGES, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    }
    attacked = None if aa is None else outcome(aa, aa_n)
    if isinstance(ra, int) and attacked:
        ra = robust(ra, attacked.correct, aa_n)
    return Record(
        **{
            **{
                "method": "deacl",
                "title": "DeACL",
                "year": 2022,
                "dataset": dataset,
                "tier": "mini",
                "tier_sha256": "5" * 64,
                "fidelity": "uniform",
            },
            **{"seed": 0, "protocol": "slf", "overrides": {}},
            "recipe": {"dataset": facts, "threat": {"norm": "linf", "eps": eps}},
            **{"pretraining_sha256": "1" * 64, "protocol_sha256": "2" * 64},
            **{"encoder_sha256": "3" * 64, "classifier_sha256": f"{4 + changes.get('seed', 0):064x}"},
            "sa": outcome(sa, TEST_IMAGES),
            "ra": PGDEvaluation(
                **{"outcome": outcome(ra, TEST_IMAGES), "eps": eps, "steps": 20, "step_size": eps / 4},
                **{"start": "uniform", "restarts": 1},
            ),
            "aa": attacked
            and AutoAttackEvaluation(
                **{
                    "outcome": attacked,
                    "eps": eps,
                    "version": "standard",
                    "package": "p",
                    "package_version": "1",
                },
                **{"targets": 9, "survivors": {}, "warnings": list(warnings)},
            ),
            "cost": {
                "stage:ssl": PhaseCost(seconds=3600, images=5000, flops_per_image=flops, device=device),
                "stage:pseudo_at": PhaseCost(
                    seconds=125, images=1000, flops_per_image=flops and 5 * flops, device=device
                ),
                "slf": PhaseCost(seconds=9999, images=10**9, flops_per_image=10**9, device=device),
            },
            "history": {},
            "environment": Environment(bench="0", packages={}, python="3", platform="test", device=device, threads=1),
            **{"started": "2024-01-01T00:00:00+00:00", "finished": "2024-01-01T02:00:00+00:00"},
            **changes,
        }
    )


def text_of(results: Path) -> str:
    board = build_leaderboard(results)
    if not (results / "published").is_dir():  # the tests are about measured rows, unless they bring numbers themselves
        board = board.model_copy(update={"published": ()})
    return render_leaderboard(board, records_at="results")


def fill(results: Path, *records: Record) -> Path:
    results.mkdir(exist_ok=True)
    for record in records:
        save_record(results, record)
    return results


def headings_below(text: str, heading: str) -> list[str]:
    """The column headings of the first table below the line ``heading``."""
    below = text[text.index(f"\n{heading}\n") :].splitlines()
    return [cell.strip() for cell in next(line for line in below if line.startswith("|")).split("|")[1:-1]]


def rows_below(text: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table below the line ``heading``, by column; "AA, n=100" is "AA"."""
    columns = [name.split(",")[0] for name in headings_below(text, heading)]
    return [dict(zip(columns, cells, strict=True)) for cells in table_below(text, heading)]


def table_below(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below the line ``heading``, without its two header lines."""
    lines = text[text.index(f"\n{heading}\n") :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    body = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return body


SLF = "### cifar10: SLF, tier mini, fidelity uniform"


def publish(results: Path, *entries: dict[str, Any]) -> Path:
    defaults = {"source": "A Paper, Table 1", "method": "M", "variant": {}, "pretrain_dataset": "cifar10"}
    more = {
        "dataset": "cifar10",
        "encoder": "resnet18",
        "protocol": "SLF",
        "aa": 40.0,
        "ra": 50.0,
        "sa": 80.0,
    }
    (results / "published").mkdir(parents=True, exist_ok=True)
    values = [{**defaults, **more, **entry} for entry in entries]
    (results / "published" / "numbers.json").write_text(json.dumps(values))
    return results
