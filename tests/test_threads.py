"""CPU threads where the user names no number: the faster of one and all, and those that a run began with."""

import time
from pathlib import Path

import psutil
import pytest
import torch
from in_process import say
from toy_runs import SMALL, toy_data, toy_request

from bench.cli._runs import announce
from bench.recipe import override_text
from bench.run import Run, choose_threads, execute, prepare
from bench.run import threads as module


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on two idle cores, where nothing names the number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    count = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: count.__setitem__(0, threads))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 0.0)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    return prepare(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path))


def seconds_of(monkeypatch: pytest.MonkeyPatch, *, one: float, two: float) -> None:
    """Make a pass take ``one`` or ``two`` seconds, by the number of threads."""
    now = [0.0]

    def pass_(images: torch.Tensor) -> torch.Tensor:
        now[0] += (one, two)[torch.get_num_threads() - 1]
        return torch.zeros(1, requires_grad=True)

    monkeypatch.setattr(module, "build_encoder", lambda *_, **__: pass_)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])


@pytest.mark.parametrize(("two", "threads", "gain"), [(0.5, 2, "2"), (0.95, 1, "1.1"), (4.0, 1, "0.25")])
def test_the_faster_number_is_chosen(
    run: Run, monkeypatch: pytest.MonkeyPatch, two: float, threads: int, gain: str
) -> None:
    seconds_of(monkeypatch, one=1.0, two=two)
    said = choose_threads([run])
    assert torch.get_num_threads() == threads
    assert said is not None
    assert f"2 are {gain} times as fast as 1 here" in said


def test_the_measurement_changes_no_random_number(run: Run) -> None:
    before = torch.get_rng_state()
    assert choose_threads([run]) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_one_is_chosen_where_other_programs_keep_the_cores_busy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 60.0)
    assert choose_threads([run]) == (
        "Computes with 1 CPU thread: other programs keep 1.2 cores busy. --threads chooses another number."
    )
    assert torch.get_num_threads() == 1


def test_a_run_continues_with_the_threads_that_it_began_with(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of(monkeypatch, one=1.0, two=4.0)
    assert run.folder.threads is None
    with run.folder.claimed():
        pass
    assert run.folder.threads == 2
    assert choose_threads([run]) == "Continues with 2 CPU threads, as the run began."
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("option", ["--no-estimate", "--shared-only"])
def test_nor_does_a_command_that_measures_nothing_take_more(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    torch.set_num_threads(1)
    with run.folder.claimed():
        pass
    torch.set_num_threads(2)
    settings = [part for key, value in SMALL.items() for part in ("--set", override_text(key, value))]
    places = [
        "--runs-dir",
        str(tmp_path / "runs"),
        "--data-dir",
        str(tmp_path / "data"),
        "--results-dir",
        str(tmp_path),
    ]
    words = ["run", "simclr", "--dataset", str(run.folder.source), "--protocols", "slf", "--device", "cpu", *places]
    assert say(monkeypatch, capsys, *words, option, *settings).code == 0
    assert torch.get_num_threads() == 1


def test_what_is_made_again_of_a_finished_run_gets_the_threads_of_before(run: Run, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    execute(run, tmp_path / "results")
    torch.set_num_threads(2)
    announce([run], tmp_path / "results", threads=None, dry_run=False, recipe=False, as_json=False)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    announce([run], tmp_path / "results", threads=2, dry_run=False, recipe=False, as_json=False)
    assert torch.get_num_threads() == 2


def test_a_number_in_the_environment_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads([run]) is None
    assert torch.get_num_threads() == 2
