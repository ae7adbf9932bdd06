"""Collapse and weights that are too large: said at once, recorded, and never blamed on the next stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_runs import SMALL, Listener, carry_out, toy_data, toy_request

from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import constant
from bench.record import Record
from bench.run import RunRequest
from bench.zoo import load_tensors
from methods.simclr import SimCLRStage

Spoil = Callable[[nn.Module], None]


def run(request: RunRequest, listener: Listener | None = None) -> tuple[Record, Listener]:
    listener = listener or Listener()
    ((record, _),) = carry_out(request, request.runs_dir.parent / "results", listener)
    return record, listener


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Spoil], None]:
    """Do something to SimCLR's encoder after each step."""

    def after(change: Spoil) -> None:
        monkeypatch.setattr(SimCLRStage, "shared", False)
        monkeypatch.setattr(SimCLRStage, "after_step", lambda stage: change(stage.encoder))

    return after


@torch.no_grad()
def zeroed(encoder: nn.Module) -> None:
    for parameter in encoder.parameters():
        parameter.zero_()


@torch.no_grad()
def enormous(encoder: nn.Module) -> None:
    for parameter in encoder.parameters():
        parameter.fill_(1e30)


@pytest.mark.parametrize(("noise", "expected"), [(0.0, True), (1e-5, True), (1e-2, False), (1.0, False)])
def test_features_are_constant_below_a_thousandth(noise: float, expected: bool) -> None:
    features = torch.ones(50, 8, dtype=torch.float64)
    features += noise * torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert constant(features) == constant(1e6 * features) == expected
    assert constant(torch.zeros(50, 8))


def test_nothing_is_said_about_a_sound_run(tmp_path: Path) -> None:
    _, listener = run(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path))
    assert listener.notes == []


def test_training_images_under_test_are_said_before_training(tmp_path: Path) -> None:
    data = toy_data(tmp_path / "toy.npz")
    with np.load(tmp_path / "toy.npz") as held:
        arrays = dict(held)
    arrays["x_test"][:9] = arrays["x_train"][:9]
    np.savez(tmp_path / "toy.npz", **arrays)
    listener = Listener(stop_at=1)
    with pytest.raises(InterruptedRunError):
        run(toy_request(data, tmp_path), listener)
    (note,) = listener.notes
    assert "more than half of the test images of toy are also training images" in note


@pytest.mark.usefixtures("doctor")
def test_collapse_is_said_and_recorded(tmp_path: Path, spoil: Callable[[Spoil], None]) -> None:
    spoil(zeroed)
    record, listener = run(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path))
    assert {"features vary", "better than guessing"} <= {each.check for each in record.diagnosed("doubt")}
    assert record.doubts == ()
    assert "zero gradient" in {each.check for each in record.diagnosed("fail")}, "RA of constant logits is no result"
    assert [note.partition(":")[0] for note in listener.notes[:2]] == [
        "the encoder gives all training images the same features",
        "the classifier gives all clean test images the same answer",
    ]


def test_features_that_are_not_finite_are_blamed_on_pre_training(
    tmp_path: Path, spoil: Callable[[Spoil], None]
) -> None:
    spoil(enormous)
    whole = {
        **SMALL,
        "stage1.epochs": 1,
        "stage1.batch_size": 24,
        "stage1.lr": 40.0,
    }  # a second step would have a loss that is not finite
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, overrides=whole)
    with pytest.raises(BenchError, match=r"encoder's features are not finite, although its weights are") as caught:
        run(request)
    assert str(caught.value).endswith("--set stage1.lr=1")  # and not 4: a tenth of too much may be too much
    assert "slf" not in str(caught.value)


@pytest.mark.parametrize("rate", [1e9, 1e20, 1e29])
@pytest.mark.parametrize("batch", [8, 24])
def test_a_rate_that_ruins_a_stage_is_blamed_on_it(tmp_path: Path, rate: float, batch: int) -> None:
    settings: dict[str, Any] = {"stage2.epochs": 1, "stage2.batch_size": batch, "stage2.steps": 1}
    overrides = {**SMALL, **settings, "stage2.warmup_epochs": 0, "stage2.lr": rate}
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, method="deacl", overrides=overrides)
    with pytest.raises(BenchError, match=r"--set stage2\.lr=") as caught:
        run(request)
    assert "not finite" in str(caught.value)
    for path in request.runs_dir.rglob("*.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_tensors(path).tensors.values()), path


def test_a_rate_beyond_float32_is_refused(tmp_path: Path) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, overrides={**SMALL, "slf.lr": 1e39})
    with pytest.raises(BenchError, match="below 1e\\+30"):
        run(request)


@pytest.mark.usefixtures("doctor")
def test_a_test_split_of_one_class_is_said_and_recorded(tmp_path: Path) -> None:
    data = toy_data(tmp_path / "toy.npz")
    arrays = dict(np.load(tmp_path / "toy.npz"))
    arrays["y_test"][:] = 1
    np.savez(tmp_path / "toy.npz", allow_pickle=False, **arrays)
    record, listener = run(toy_request(data, tmp_path))
    assert "all 16 test images are of class 1" in [each.found for each in record.diagnosed("doubt")]
    assert listener.notes[0].startswith("all test images are of class 1")
