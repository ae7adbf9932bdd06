"""What a user types arrives in the function behind the command, which is replaced here: nothing is trained."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from board_records import fill, make_record
from grid_jobs import grid_in
from typer.testing import CliRunner

from bench.attack import ATTACKS
from bench.cli import app
from bench.errors import BenchError
from bench.grid import GridFolder, grid_status
from bench.report.figures import Choice, Drawn


class Spy:
    """A function that keeps what it is called with, and returns ``result``."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.result = result

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls.append((args, options))
        return self.result


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that replaces the function of a dotted name by a spy, and returns the spy."""

    def replace(name: str, result: Any = None) -> Spy:
        spy = Spy(result)
        monkeypatch.setattr(name, spy)
        return spy

    return replace


def typed(*words: str) -> str:
    """Run ``bench`` with ``words``, which it must accept, and return what it prints."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("estimated", ["--estimate", "--no-estimate"])
def test_a_run_is_asked_for_as_typed(replaced: Any, where: str, estimated: str) -> None:
    run = SimpleNamespace(finished=False, folder=SimpleNamespace(path=Path("run")))
    run.with_seed = lambda seed: run
    prepare, announce = replaced("bench.run.prepare", run), replaced("bench.cli.run.announce")
    replaced("bench.run.execute", [])
    replaced("bench.cli.run.show_records")
    typed("run", "simclr", "--data-in", where, estimated)
    (((request,), _),) = prepare.calls
    assert request.data_in == where
    ((_, asked),) = announce.calls
    assert asked["estimate"] == (estimated == "--estimate")


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_an_evaluation_is_asked_for_as_typed(replaced: Any, where: str) -> None:
    prepare = replaced("bench.run.prepare_evaluation")
    replaced("bench.cli.evaluate.say_weights")
    replaced("bench.cli.evaluate.announce")
    typed("evaluate", "timm:vit_tiny_patch16_224", "--data-in", where, "--dry-run")
    (((request,), _),) = prepare.calls
    assert request.data_in == where


@pytest.mark.parametrize("figure", ["eps", "steps", "minimal", "cost", "curves"])
def test_own_data_are_named_for_a_figure_as_for_a_run(replaced: Any, figure: str) -> None:
    verb = "sweeps" if figure in ("eps", "steps") else figure
    drawn = replaced(f"bench.report.figures.draw_{verb}", Drawn([], []))
    for given in ("npz:some/toy.npz", "toy"):
        typed("plot", figure, "--dataset", given)
    assert [next(each for each in args if isinstance(each, Choice)) for args, _ in drawn.calls] == [Choice("toy")] * 2


def test_own_data_are_named_for_tables_as_for_a_run(tmp_path: Path) -> None:
    records = [make_record(method=name, seed=seed, dataset="toy") for name in ("deacl", "acl") for seed in (0, 1)]
    fill(tmp_path, *records, make_record(dataset="digits"))
    for words in (["leaderboard"], ["compare", "deacl", "acl"], ["timing", "--from-results"]):
        shown = [
            json.loads(typed(*words, "--dataset", given, "--results-dir", str(tmp_path), "--json"))
            for given in ("toy", "npz:some/toy.npz")
        ]
        assert shown[0] == shown[1]
        assert "toy" in str(shown[0])
        assert "digits" not in str(shown[0])


@pytest.mark.parametrize("words", [[], ["--adversarial"]])
def test_tsne_is_drawn_as_typed(replaced: Any, words: list[str]) -> None:
    replaced("bench.run.select_finished", [])
    draw = replaced("bench.report.figures.draw_tsne", [])
    typed("plot", "tsne", "--device", "cpu", "--images", "7", *words)
    ((_, options),) = draw.calls
    assert (options["adversarial"], options["images"]) == (bool(words), 7)


def test_what_jobs_ask_slurm_for_and_their_retries_are_in_the_grid(replaced: Any, tmp_path: Path) -> None:
    jobs = grid_in(tmp_path / "other", {"deacl": ()}).grid.jobs
    replaced("bench.matrix.plan_matrix", SimpleNamespace(jobs=jobs, left_out=()))
    asked = ["--account", "lab", "--cpus", "4", "--gpus", "0", "--partition", "long", "--time", "1:00:00"]
    path = tmp_path / "grid"
    printed = typed(
        "matrix", "--methods", "deacl", "--on", "slurm", "--by-hand", "--retries", "3", *asked, "--grid", str(path)
    )
    grid = GridFolder.open(path).grid
    resources = {"account": "lab", "cpus": 4, "gpus": 0, "partition": "long", "time": "1:00:00"}
    assert (grid.retries, grid.resources) == (3, resources)
    assert {"#SBATCH --account=lab", "#SBATCH --cpus-per-task=4"} <= {*printed.splitlines()}


@pytest.mark.parametrize("words", [[], ["--watch"]])
def test_a_watched_grid_is_shown_until_its_jobs_have_ended(
    monkeypatch: pytest.MonkeyPatch, replaced: Any, tmp_path: Path, words: list[str]
) -> None:
    folder = grid_in(tmp_path, {"deacl": ()})
    (job,) = grid_status(folder)
    seen = [[job.model_copy(update={"status": status})] for status in ("queued", "running", "done")]
    monkeypatch.setattr("bench.grid.grid_status", lambda folder: seen.pop(0))
    sleep = replaced("bench.cli.matrix.time.sleep")
    printed = typed("matrix", "status", str(tmp_path), *words)
    assert len(sleep.calls) == (2 if words else 0)
    assert ("done" in printed) == bool(words)


def test_an_attack_of_ones_own_is_loaded_before_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(ATTACKS, "name_of", loaded.append)
    typed("--attack", "a.py:A", "--attack", "b.py:B", "tiers")
    assert loaded == ["a.py:A", "b.py:B"]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("run", "deacl", "--seed", "1", "--seed", "2"), "--seed"),
        (("compare", "a", "b", "--results-dir=one", "--results-dir", "two"), "--results-dir"),
        (("plot", "cost", "--dataset", "digits", "--dataset", "digits"), "--dataset"),
        (("matrix", "--methods", "simclr", "--methods", "deacl", "--dry-run"), "--methods"),
        (("matrix", "status", "--grid", "one", "--grid", "two"), "--grid"),
    ],
)
def test_an_option_of_one_value_is_refused_when_given_twice(words: tuple[str, ...], option: str) -> None:
    with pytest.raises(BenchError, match=f"^{option} is given twice, and takes one value. Keep one of them.$"):
        typed(*words)


def test_what_may_be_repeated_may(replaced: Any) -> None:
    prepare = replaced("bench.run.prepare", SimpleNamespace(with_seed=lambda seed: None))
    replaced("bench.cli.run.announce")
    typed("run", "simclr", "--set", "stage1.lr=0.1", "--set", "stage1.epochs=2", "--dry-run", "--dry-run")
    assert list(prepare.calls[0][0][0].overrides) == ["stage1.lr", "stage1.epochs"]
