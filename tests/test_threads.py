"""CPU threads where the user names no number: the faster of one and all, and those that a run began with."""

import time
from pathlib import Path

import psutil
import pytest
import torch
from in_process import say
from toy_runs import SMALL, toy_data, toy_request

from bench.ablate import Ablation, Cell, carry_out, parse_grid
from bench.files import write_json
from bench.nn import build_encoder
from bench.recipe import override_text
from bench.run import Run, choose_threads, prepare
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


def begin(run: Run, threads: int) -> None:
    """Leave ``run`` as one that began with ``threads`` and was stopped."""
    torch.set_num_threads(threads)
    with run.folder.claimed():
        pass
    torch.set_num_threads(2)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ((), [2, 1, 2]),
        (("--no-estimate",), [2, 1, 2]),
        (("--shared-only",), [2, 1, 2]),
        (("--threads", "2"), [2, 2, 2]),
    ],
)
def test_each_run_of_a_command_does_unless_the_user_names_a_number(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    threads: list[int],
    finished: bool,
) -> None:
    """What is made again of a finished one, too."""
    seeds = [run.with_seed(seed) for seed in (0, 1, 2)]
    begin(seeds[0], 2)
    begin(seeds[1], 1)
    for each in seeds if finished else ():
        write_json(each.protocol_folder("slf").record, {})
    computed: list[int] = []

    def fake(*_: object) -> list[object]:
        computed.append(torch.get_num_threads())
        return []

    monkeypatch.setattr("bench.run.execute", fake)
    monkeypatch.setattr("bench.run.train_shared", fake)
    settings = [part for key, value in SMALL.items() for part in ("--set", override_text(key, value))]
    places = ["--runs-dir", str(tmp_path / "runs"), "--results-dir", str(tmp_path / "results")]
    words = ["run", "simclr", "--dataset", str(run.folder.source), "--seeds", "0,1,2", "--protocols", "slf"]
    said = say(monkeypatch, capsys, *words, "--device", "cpu", *places, *options, *settings)
    assert said.code == 0, said.stderr
    assert computed == threads
    assert ("Continues with 2 CPU threads and 1 CPU thread, each run as it began." in said.stderr) == (
        not options and not finished
    )


def test_so_does_each_run_of_an_ablation(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seeds = (run, run.with_seed(1))
    begin(seeds[0], 2)
    begin(seeds[1], 1)
    computed: list[int] = []

    def fake(*_: object) -> list[object]:
        computed.append(torch.get_num_threads())
        return []

    monkeypatch.setattr("bench.ablate.execution.execute", fake)
    ablation = Ablation(parse_grid(["slf.lr=0.1"]), (Cell("slf.lr=0.1", {}, None, seeds),))
    carry_out(ablation, tmp_path, threads_open=True)
    carry_out(ablation, tmp_path)
    assert computed == [2, 1, 2, 2]


def test_a_number_in_the_environment_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads([run]) is None
    assert torch.get_num_threads() == 2


def test_a_network_with_frozen_parameters_is_measured_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "build_encoder", lambda *given, **more: build_encoder(*given, **more).requires_grad_(False)
    )
    said = choose_threads([run])
    assert said is not None
    assert "times as fast as 1 here" in said
