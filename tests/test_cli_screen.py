"""Words on the screen: bars, logs, durations, and the table of results with the paper's numbers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.cli._progress import _Live, reporting, rough_time
from bench.cli._results import results_table
from bench.cli._tables import DataTable, show
from bench.monitor import Reporter
from bench.record import AutoAttackEvaluation, Environment, Outcome, PGDEvaluation, Record


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("total", [50_000, 50_000_000])
def test_a_bar_shows_all_on_one_line(monkeypatch: pytest.MonkeyPatch, width: int, total: int) -> None:
    console = Console(width=width, force_terminal=True, file=io.StringIO())
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with reporting(console) as reporter:
        reporter.begin("stage pseudo_at", total, done=total // 5)
        now[0] = 200.0
        reporter.advance(total // 5, "epoch 40/100, loss -2.891")
        shown = line(reporter, console, -1)
        reporter.advance(total - 2 * (total // 5))
        reporter.end()
        reporter.begin("SA, clean images", 0)
        finished = line(reporter, console, -2)
    assert len(shown) <= width
    speed = total // 5 // 200
    for fact in ("stage pseudo_at", "40%", f" {speed} images/s", "epoch 40/100, loss -2.891", "10 min left"):
        assert fact in shown
    assert "100%" in finished
    assert finished.rstrip().endswith("3 min")


def line(reporter: Reporter, console: Console, place: int) -> str:
    assert isinstance(reporter, _Live)
    lines = console.render_lines(reporter._progress.get_renderable(), pad=False)
    return "".join(segment.text for segment in lines[place])


def test_a_log_speaks_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with reporting(Console(width=80, file=file)) as reporter:
        reporter.begin("stage ssl", 1000, done=100)
        for _ in range(9):
            now[0] += 10
            reporter.advance(100, "epoch 1/2, loss 3.000")
        reporter.end()
        reporter.note("a word")
    assert file.getvalue().splitlines() == [
        "stage ssl: 100/1000 images",
        "stage ssl: 500/1000 images, 10 images/s, epoch 1/2, loss 3.000, 50 s left",
        "stage ssl: 900/1000 images, 10 images/s, epoch 1/2, loss 3.000, 10 s left",
        "stage ssl: 1000/1000 images, 10 images/s, epoch 1/2, loss 3.000",
        "a word",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_no_name_is_markup(terminal: bool) -> None:
    console = Console(width=100, force_terminal=terminal, file=io.StringIO())
    name = "stage [/b] [red]ssl"
    with console.capture() as capture, reporting(console) as reporter:
        reporter.begin(name, 2)
        reporter.advance(2, "loss [/] 3")
        reporter.end()
        reporter.note("note [/i]")
        show(DataTable("a [/b]", title="[/b] title", caption="[/b] caption"), console=console)
    text = capture.get()
    for shown in (name, "loss [/] 3", "note [/i]", "[/b] title", "[/b] caption"):
        assert shown in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "< 1 s"),
        (0.4, "< 1 s"),
        (1.4, "1 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (720, "12 min"),
        (5969, "99 min"),
        (5980, "1.7 h"),
        (12_600, "3.5 h"),
        (47.9 * 3600, "47.9 h"),
        (47.97 * 3600, "2.0 days"),
        (4.2 * 86400, "4.2 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert rough_time(seconds) == words


FACTS = {
    **{"name": "cifar10", "sha256": "d" * 64, "image_shape": (3, 32, 32), "num_classes": 10},
    **{"train_images": 50_000, "test_images": 4, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3},
}


def record(published_as: str | None) -> Record:
    outcome = Outcome.pack([True] * 3 + [False], test_images=4)
    attack = {"outcome": outcome, "eps": 8 / 255}
    return Record(
        method="deacl",
        title="DeACL",
        year=2022,
        dataset="cifar10",
        tier="paper",
        tier_sha256="0" * 64,
        fidelity="uniform",
        seed=0,
        protocol="slf",
        overrides={},
        recipe={"dataset": {**FACTS, "published_as": published_as}, "threat": {"norm": "linf", "eps": 8 / 255}},
        pretraining_sha256="1" * 64,
        protocol_sha256="2" * 64,
        encoder_sha256="3" * 64,
        classifier_sha256="4" * 64,
        sa=outcome,
        ra=PGDEvaluation(**attack, steps=20, step_size=2 / 255, start="uniform", restarts=1),
        aa=AutoAttackEvaluation(
            **attack,
            version="standard",
            package="p",
            package_version="1",
            targets=9,
            survivors={"square": 3},
            warnings=["the model is randomized"],
        ),
        cost={},
        history={},
        environment=Environment(bench="0", packages={}, python="3", platform="x", device="CPU", threads=1),
        started="2024-01-01T00:00:00+00:00",
        finished="2024-01-01T01:00:00+00:00",
    )


def printed(records: list[Record], results_dir: Path, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(results_table(records, results_dir))
    return capture.get()


def published(folder: Path) -> Path:
    (folder / "published").mkdir()
    number = {
        "source": "a table",
        "method": "DeACL",
        "variant": {},
        "pretrain_dataset": "cifar10",
        "dataset": "cifar10",
        "encoder": "resnet18",
        "protocol": "SLF",
        "aa": 45.31,
        "ra": None,
        "sa": 80.17,
    }
    (folder / "published" / "numbers.json").write_text(json.dumps([number]))
    return folder


def test_the_papers_number_stands_beside_ours(tmp_path: Path) -> None:
    text = printed([record("cifar10")], published(tmp_path))
    rows = {line.split("│")[2].strip(): line.split("│") for line in text.splitlines() if line.count("│") == 5}
    assert rows["SA"][3].strip().startswith("75.00 % [")
    assert rows["SA"][4].strip() == "80.17 %"
    assert rows["RA, PGD-20 at Linf 8/255"][4].strip() == ""  # what the source does not give
    assert rows["AA at Linf 8/255"][4].strip() == "45.31 %"
    assert "the model is randomized" in text


def test_no_papers_number_for_other_data(tmp_path: Path) -> None:
    own = printed([record(None)], published(tmp_path))
    assert "75.00 %" in own
    assert "80.17" not in own


def test_no_papers_number_for_a_changed_recipe_or_adversary(tmp_path: Path) -> None:
    plain, folder = record("cifar10"), published(tmp_path)
    departures: list[dict[str, Any]] = [
        {"overrides": {"stage2.lam": 0}},
        {"ra": plain.ra.model_copy(update={"eps": 4 / 255})},
        {"recipe": {**plain.recipe, "budget": 1e12}},
        {"pretrained_on": "cifar100"},
    ]
    for changes in departures:
        assert "80.17" not in printed([plain.model_copy(update=changes)], folder), changes


def test_the_papers_number_needs_no_file_beside_the_results(tmp_path: Path) -> None:
    assert "80.17 %" in printed([record("cifar10")], tmp_path)


def test_a_protocol_that_lacks_the_withdrawn_seeds_names_its_own(tmp_path: Path) -> None:
    seeds = {"slf": (1,), "knn": (0, 1, 2), "aff": (0, 2)}
    plain = record("cifar10")
    text = printed(
        [plain.model_copy(update={"protocol": name, "seed": seed}) for name, own in seeds.items() for seed in own],
        tmp_path,
        width=160,
    )
    rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in text.splitlines() if "SA " in line]
    assert [(row[0], row[2]) for row in rows] == [
        ("SLF, seed 1", "75.00"),
        ("kNN", "75.00, 75.00, 75.00"),
        ("AFF, seeds 0, 2", "75.00, 75.00"),
    ]
    assert [row[3].partition("%")[0] for row in rows] == ["75.00 ", "75.00 ± 0.00 ", "75.00 ± 0.00 "]


def test_the_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    lines = printed([record("cifar10")], published(tmp_path), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("RA, PGD-20 at Linf 8/255" in line and "n = 4" in line for line in lines)
