"""Several seeds in one command: each is the run that it would be alone, and the command can be killed."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from in_process import say
from torch import Tensor
from toy_runs import SMALL, Listener, carry_out, facts, toy_data, toy_request

from bench import rng
from bench.cli._options import parse_seeds
from bench.errors import BenchError, InterruptedRunError
from bench.record import Record
from bench.run import RunRequest, execute, prepare
from methods.simclr import SimCLRStage

SETTINGS = [part for key, value in SMALL.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)


@pytest.fixture
def command(request_: RunRequest, tmp_path: Path) -> list[str]:
    """The toy run as the user would type it, without a seed."""
    folders = ["--runs-dir", str(request_.runs_dir), "--results-dir", str(tmp_path / "results")]
    return [
        "run",
        "simclr",
        "--dataset",
        request_.dataset,
        "--protocols",
        "slf",
        "--device",
        "cpu",
        *folders,
        *SETTINGS,
    ]


def test_a_run_with_another_seed_is_the_run_of_that_seed(request_: RunRequest, tmp_path: Path) -> None:
    """To the bit, and whatever ran before it in the same process."""
    first = prepare(request_)
    together = [execute(first.with_seed(seed), tmp_path / "results")[0][0] for seed in (2, 0, 1)]
    alone = [
        carry_out(replace(request_, seed=seed, runs_dir=tmp_path / f"alone{seed}"), tmp_path / "alone")[0][0]
        for seed in (0, 1, 2)
    ]
    assert [facts(record) for record in sorted(together, key=lambda r: r.seed)] == [facts(record) for record in alone]
    for digests in ({r.encoder_sha256 for r in alone}, {r.classifier_sha256 for r in alone}):
        assert len(digests) == 3
    assert len({str(record.history) for record in alone}) == 3


def test_seeds_are_checked_one_by_one(request_: RunRequest) -> None:
    with pytest.raises(BenchError, match="seed 4294967296 is out of range"):
        prepare(request_).with_seed(2**32)


@pytest.mark.parametrize(("text", "seeds"), [("0", (0,)), ("0,1,2", (0, 1, 2)), (" 7 , 3", (7, 3))])
def test_seeds_are_read_in_their_order(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a seed"),
        ("0,,1", "'' is not a seed"),
        ("0,1,", "'' is not a seed"),
        ("0,one", "'one' is not a seed. Type whole numbers, as in --seeds 0,1,2"),
        ("0,-1", "'-1' is not a seed"),
        ("0,1.5", "'1.5' is not a seed"),
        ("0,1,0", "0 is given twice"),
        ("1,01", "1 is given twice"),
        ("1" * 5000, "is not a seed"),
    ],
)
def test_what_is_no_list_of_seeds_is_refused(text: str, message: str) -> None:
    with pytest.raises(BenchError) as raised:
        parse_seeds(text)
    assert message in str(raised.value)


def test_seed_and_seeds_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], tmp_path: Path
) -> None:
    code, out, err = say(monkeypatch, capsys, *command, "--seed", "0", "--seeds", "1,2")
    assert (code, out) == (1, "")
    assert "--seed 0 and --seeds 1,2 are both given. Keep one" in err
    assert not (tmp_path / "runs").exists()


def test_one_table_shows_the_seeds_and_their_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, out, err = say(monkeypatch, capsys, *command, "--seeds", "0,2")
    assert code == 0, err
    assert "seeds 0, 2" in err
    assert [line for line in err.splitlines() if line.startswith("seed ")] == ["seed 0", "seed 2"]
    records = [Record(**each) for each in json.loads(say(monkeypatch, capsys, *command, "--seeds", "0,2", "--json")[1])]
    assert [record.seed for record in records] == [0, 2]
    rows = [line for line in out.splitlines() if ", n = 16" in line]
    for row, outcomes in zip(rows, ([r.sa for r in records], [r.ra.outcome for r in records]), strict=True):
        shares = [100 * outcome.accuracy for outcome in outcomes]
        assert ", ".join(f"{share:.2f}" for share in shares) in row
        assert f"{fmean(shares):.2f} ± {stdev(shares):.2f} %, n = 16" in row
    assert out.count("record: ") == out.count("encoder: ") == 2


def test_a_command_that_was_stopped_goes_on_with_the_seed_it_was_at(
    request_: RunRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    carry_out(request_, tmp_path / "results")
    with pytest.raises(InterruptedRunError):
        carry_out(replace(request_, seed=1), tmp_path / "results", Listener(7))  # in the middle of SLF
    code, _, err = say(monkeypatch, capsys, *command, "--seeds", "0,1,2")
    assert code == 0
    begun = [line for line in err.splitlines() if re.fullmatch(r"seed \d|stage \w+: \d+/\d+ images", line)]
    assert begun == [
        *("seed 1", "stage slf: 8/48 images"),
        *("seed 2", "stage ssl: 0/48 images", "stage slf: 0/48 images"),
    ]


def test_threads_are_used_and_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (record,) = json.loads(say(monkeypatch, capsys, *command, "--threads", "1", "--json")[1])
        assert torch.get_num_threads() == record["environment"]["threads"] == 1
        assert say(monkeypatch, capsys, *command, "--threads", "0")[0] == 2
    finally:
        torch.set_num_threads(before)


# What a user's own method draws from

GENERATORS: dict[str, Callable[[], float]] = {
    "torch": lambda: torch.rand(()).item(),
    "numpy": np.random.rand,
    "random": random.random,
}


@pytest.mark.parametrize("draw", GENERATORS.values(), ids=GENERATORS)
def test_a_stream_is_that_of_every_global_generator(draw: Callable[[], float]) -> None:
    outside = draw()
    with rng.scoped(0, "a"):
        one = draw(), draw()
    between = draw()
    with rng.scoped(0, "a"):
        again = draw(), draw()
    with rng.scoped(0, "b"):
        other = draw(), draw()
    assert one == again
    assert len({outside, between, *one, *other}) == 6


def test_a_method_that_draws_from_numpy_and_python_follows_the_seed(
    request_: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = SimCLRStage.views

    def shifted(self: SimCLRStage, images: Tensor, generator: torch.Generator, index: Tensor) -> Any:
        by = np.random.randint(0, 8), random.randrange(8)
        return views(self, images.roll(by, dims=(2, 3)), generator, index)

    def encoder(folder: str, seed: int) -> str:
        request = replace(request_, runs_dir=tmp_path / folder, seed=seed)
        return carry_out(request, tmp_path / "results" / folder)[0][0].encoder_sha256

    plain = encoder("plain", 0)
    monkeypatch.setattr(SimCLRStage, "views", shifted)
    assert encoder("a", 0) == encoder("b", 0) not in (plain, encoder("c", 1))
