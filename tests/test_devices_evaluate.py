"""bench evaluate, verify, sweep-eps and sweep-steps on two devices: every image has the outcome of one device."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, PartialState
from in_process import Said, say

from bench.record import load_record, load_sweep, load_verification
from bench.run import select_finished

Typed = Callable[..., Said]


@pytest.fixture
def typed(
    finished_toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    """Return a function that runs ``bench`` on so many devices, each number of them in a copy of the finished toy."""
    for devices in (1, 2):
        shutil.copytree(finished_toy, tmp_path / str(devices))
    for state in (PartialState, AcceleratorState):  # a command begins in a new process, which has trained nothing yet
        monkeypatch.setattr(state, "_shared_state", {})

    def carry_out(devices: int, *words: object) -> Said:
        monkeypatch.chdir(tmp_path / str(devices))
        return say(monkeypatch, capsys, *map(str, words), "--device", "cpu", "--devices", str(devices))

    return carry_out


def both(typed: Typed, tmp_path: Path, pattern: str, *words: object) -> list[Path]:
    """Type ``words`` for one device and for two, and return the one new file of ``pattern`` that each has made."""
    made: list[Path] = []
    for devices in (1, 2):
        folder = tmp_path / str(devices) / "results" / "local" / "toy"
        before = {*folder.glob(pattern)}
        said = typed(devices, *words)
        assert said.code == 0, said.stderr
        made += {*folder.glob(pattern)} - before
    assert len(made) == 2
    return made


def test_an_encoder_is_evaluated(typed: Typed, tmp_path: Path) -> None:
    (encoder,) = (tmp_path / "1" / "runs").glob("*/encoder.safetensors")
    small = ("--set", "evaluate.batch_size=3", "--set", "evaluate.pgd_steps=3", "--set", "evaluate.autoattack=false")
    words = ("evaluate", encoder.relative_to(tmp_path / "1"), "--protocols", "slf", "--set", "slf.epochs=1", *small)
    one, two = map(load_record, both(typed, tmp_path, "*.json", *words))
    assert (two.sa, two.ra.outcome, two.ra.no_gradient) == (one.sa, one.ra.outcome, one.ra.no_gradient)
    assert [_devices(record.environments["evaluate:ra"]) for record in (one, two)] == [[1], [2]]


@pytest.mark.parametrize("kind", ["eps", "steps"])
def test_runs_are_swept(typed: Typed, tmp_path: Path, kind: str) -> None:
    grid = {"eps": ("--eps", "0,0.02,0.1", "--steps", "3"), "steps": ("--steps", "1,4")}[kind]
    one, two = map(load_sweep, both(typed, tmp_path, "sweeps/*.json", f"sweep-{kind}", "--protocol", "knn", *grid))
    assert (two.outcomes, two.worst, two.no_gradient) == (one.outcomes, one.worst, one.no_gradient)
    assert any(0 < outcome.correct < outcome.n for outcome in one.outcomes)
    assert [_devices(sweep.environments) for sweep in (one, two)] == [[1], [2]]


@pytest.mark.parametrize("weights", ["knn", "encoder"])
def test_a_record_is_verified(typed: Typed, tmp_path: Path, weights: str) -> None:
    (record,) = (tmp_path / "1" / "results" / "local" / "toy").glob("*-knn-*.json")
    (path,) = (tmp_path / "1" / "runs").glob(f"**/{weights}.safetensors")
    words = ("verify", record.relative_to(tmp_path / "1"), "--weights", path.relative_to(tmp_path / "1"), "--by", "Ada")
    data = ("--dataset", f"npz:{tmp_path / '1' / 'toy.npz'}")
    one, two = map(load_verification, both(typed, tmp_path, "verifications/*.json", *words, *data))
    assert (two.sa, two.ra, two.differ) == (one.sa, one.ra, {"sa": 0, "ra": 0})
    assert [each.environment.devices for each in (one, two)] == [1, 2]


def test_a_finished_protocol_reaches_another_process_as_it_is(finished_toy: Path) -> None:
    (finished,) = select_finished(finished_toy / "runs", protocol="knn")
    assert pickle.loads(pickle.dumps(finished)) == finished


def _devices(environments: Any) -> list[int]:
    return [environment.devices for environment in environments]
