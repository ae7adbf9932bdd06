"""The engine refuses whatever it cannot trust: damaged and foreign states, losses that are not finite."""

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_stage import EPOCHS, STEPS, StopAfter, ToyStage, make_plan, run, state_file, stop_at

from bench.errors import BenchError
from bench.recipe import Precision
from bench.train import stage_progress
from bench.zoo import digest, load_tensors, save_tensors


def test_every_flipped_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_tensors(path, {"stage.a": torch.ones(2, 2), "momentum.a": torch.zeros(3)}, {"epoch": 1})
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        with pytest.raises(BenchError) as caught:
            load_tensors(path)
        assert str(path) in str(caught.value), position
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(BenchError, match="cannot read"):
            load_tensors(path)


@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_state_is_set_aside_said_and_trained_again(tmp_path: Path, finished: bool) -> None:
    whole = ToyStage(make_plan())
    run(whole, tmp_path / "whole")
    if finished:
        run(ToyStage(make_plan()), tmp_path)
    else:
        stop_at(ToyStage(make_plan()), tmp_path, 5)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)
    stage = ToyStage(make_plan())
    assert stage_progress(tmp_path, "toy") is None
    listener = StopAfter(10**9)
    run(stage, tmp_path, monitor=listener)
    assert digest(stage.state_dict()) == digest(whole.state_dict())
    (note,) = listener.notes
    assert f"{path} is damaged: its checksum does not match" in note
    assert (tmp_path / f"{path.name}.damaged").read_bytes() == bytes(content)
    assert f"It was renamed to {path.name}.damaged" in note


@pytest.mark.parametrize("finished", [True, False])
def test_the_state_of_another_run_is_refused(tmp_path: Path, finished: bool) -> None:
    if finished:
        run(ToyStage(make_plan()), tmp_path, owner="theirs")
    else:
        stop_at(ToyStage(make_plan()), tmp_path, 5, owner="theirs")
    (path,) = tmp_path.glob("*.safetensors")
    before = path.read_bytes()
    with pytest.raises(BenchError, match=r"belongs to another run .*theirs.*this run is mine.*--runs-dir") as caught:
        run(ToyStage(make_plan()), tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("began", "kept"), [("others", False), ("these", True), (None, True)])
def test_a_state_that_started_from_other_weights_is_set_aside(
    tmp_path: Path, finished: bool, began: str | None, kept: bool
) -> None:
    """That of an older version, which does not say where it started, is continued."""
    if finished:
        run(ToyStage(make_plan()), tmp_path, start=began)
    else:
        stop_at(ToyStage(make_plan()), tmp_path, 5, start=began)
    (path,) = tmp_path.glob("*.safetensors")
    listener = StopAfter(10**9)
    run(ToyStage(make_plan()), tmp_path, start="these", monitor=listener)
    assert path.with_name(f"{path.name}.damaged").exists() is not kept
    assert [f"{path} started from other weights" in note for note in listener.notes] == [True] * (not kept)


def test_a_state_that_does_not_fit_the_stage_is_refused(tmp_path: Path) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, 5)
    stage = ToyStage(make_plan())
    stage.head = nn.Linear(4, 5)
    with pytest.raises(BenchError, match="does not fit this stage"):
        run(stage, tmp_path)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    stage = ToyStage(make_plan(batch_size=12))
    with pytest.raises(BenchError, match=r"toy\.batch_size is 12, but there are 11 images.*--set toy\.batch_size=5"):
        run(stage, tmp_path)
    assert list(tmp_path.iterdir()) == []
    run(ToyStage(make_plan(batch_size=11)), tmp_path)


def test_fp16_on_a_cpu_is_refused_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"trains in fp16, which needs a GPU: on a CPU .* Type --precision bf16 or"):
        run(ToyStage(make_plan(precision="fp16")), tmp_path)
    progress = run(ToyStage(make_plan(precision="bf16")), tmp_path)
    assert progress.loss_scale is None


@pytest.mark.parametrize(
    ("precision", "lr", "remedy"),
    [("fp32", 1e9, "lr=1"), ("bf16", 0.1, "lr=0.01, or train in fp32, --set toy.precision=fp32")],
)
def test_the_advice_against_a_loss_that_is_not_finite_fits_the_plan(
    tmp_path: Path, precision: Precision, lr: float, remedy: str
) -> None:
    stage = ToyStage(make_plan(precision=precision, lr=lr))
    stage.factors = {2: float("nan")}
    with pytest.raises(BenchError, match=rf"--set toy.{remedy}$"):
        run(stage, tmp_path)


def test_no_lower_learning_rate_is_advised_where_the_first_loss_is_not_finite(tmp_path: Path) -> None:
    stage = ToyStage(make_plan())
    stage.factors = {1: float("nan")}
    with pytest.raises(BenchError, match="in its first step, before any weight was changed") as caught:
        run(stage, tmp_path)
    assert "--set" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [1, STEPS])
def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(tmp_path: Path, value: float, step: int) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, STEPS)
    before = state_file(tmp_path).read_bytes()
    stage = ToyStage(make_plan())
    stage.factors = {step: value}
    with pytest.raises(BenchError, match=r"'toy' is not finite in epoch 2.*--set toy.lr=0.01$"):
        run(stage, tmp_path)
    assert state_file(tmp_path).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [state_file(tmp_path).name]
    assert run(ToyStage(make_plan()), tmp_path).history[1]["loss"] > 0


def test_a_stop_does_not_save_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    stage = ToyStage(make_plan())
    stage.factors = {2: float("nan")}
    with pytest.raises(BenchError, match="not finite in epoch 1"):
        run(stage, tmp_path, monitor=StopAfter(2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["weight", "buffer"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, what: str) -> None:
    """The loss of an epoch is finite, its last step is not: the stage is blamed, and the next one never begins."""

    class Spoilt(ToyStage):
        def after_step(self) -> None:
            super().after_step()
            if len(self.seen) == (EPOCHS - 1) * STEPS:
                (self.head.weight.data if what == "weight" else self.queue).fill_(float("inf"))

    stop_at(ToyStage(make_plan()), tmp_path, STEPS)
    before = state_file(tmp_path).read_bytes()
    named = r"weights or statistics that are not finite after epoch 3 \(stage.head.weight"
    if what == "buffer":
        named = "a buffer that is not finite after epoch 3, queue"
    with pytest.raises(BenchError, match=f"'toy' has {named}"):
        run(Spoilt(make_plan()), tmp_path)
    (path,) = tmp_path.iterdir()
    assert load_tensors(path).metadata["epoch"] == 2
    assert before != path.read_bytes()
    assert all(tensor.isfinite().all() for tensor in load_tensors(path).tensors.values())


def test_a_full_disk_leaves_the_previous_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*paths: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stop_at(ToyStage(make_plan()), tmp_path, 5)
    before = state_file(tmp_path).read_bytes()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BenchError, match=r"cannot write .*No space left.*Free some space"):
        run(ToyStage(make_plan()), tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
