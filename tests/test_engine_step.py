"""What a stage hands to the engine: its loss, the numbers that it logs, and its positions."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_stage import EPOCHS, StopAfter, ToyStage, assert_same_file, make_plan, run, state_file, stop_at

from bench.data import ImageSource
from bench.errors import BenchError
from bench.method import StepLoss
from bench.train import finished_path

NAN = torch.tensor(math.nan)


class Answering(ToyStage):
    """Returns what ``answer`` makes of its loss, and logs ``noted`` after each epoch."""

    def __init__(self, answer: Callable[[StepLoss], Any] = lambda loss: loss, noted: Mapping[str, Any] = {}) -> None:
        super().__init__(make_plan())
        self._answer, self._noted = answer, noted

    def forward(self, views: Tensor) -> StepLoss:
        answer: StepLoss = self._answer(super().forward(views))
        return answer

    def after_epoch(self, epoch: int, images: ImageSource) -> Mapping[str, float]:
        return self._noted


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda loss: loss.total, "a Tensor"),
        (lambda loss: StepLoss(loss.total.repeat(3)), r"'the loss' of shape \(3,\)"),
        (lambda loss: StepLoss(loss.total.detach()), "a loss without a gradient"),
        (lambda loss: StepLoss(loss.total, {"kind": loss.total.item()}), "'kind' as a float"),
        (lambda loss: StepLoss(loss.total, {"kind": torch.ones(2)}), r"'kind' of shape \(2,\)"),
        (lambda loss: StepLoss(loss.total, {"loss": torch.ones(())}), "a scalar called 'loss', which the bench logs"),
        (lambda loss: StepLoss(loss.total, {"lr": torch.ones(())}), "a scalar called 'lr', which the bench logs"),
    ],
)
def test_what_is_no_loss_is_refused_in_the_first_step(
    answer: Callable[[StepLoss], Any], fault: str, tmp_path: Path
) -> None:
    stage = Answering(answer)
    with pytest.raises(BenchError, match=rf"stage 'toy' \(Answering\) returned {fault}.* It must return StepLoss\("):
        run(stage, tmp_path)
    assert len(stage.seen) == 1


@pytest.mark.parametrize("noted", ["loss", "double", "lr"])
def test_the_review_of_an_epoch_replaces_no_number_of_its_steps(noted: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=f"returned '{noted}' from after_epoch, which its steps log already"):
        run(Answering(noted={noted: 1.0}), tmp_path)


def test_a_number_that_is_not_finite_is_left_out_and_said(tmp_path: Path) -> None:
    def unmeasured(loss: StepLoss) -> StepLoss:
        return StepLoss(loss.total, {**loss.scalars, "selected": NAN})

    monitor = StopAfter(10**6)
    progress = run(Answering(unmeasured, {"reviewed": math.inf, "held out": 0.5}), tmp_path, monitor=monitor)
    assert [{*entry} for entry in progress.history] == [{"loss", "double", "lr", "held out"}] * EPOCHS
    assert "stage toy: 'selected' is not finite in epoch 1, whose history leaves it out" in monitor.notes
    assert len(monitor.notes) == 2 * EPOCHS
    assert run(Answering(), tmp_path).history == progress.history


def test_a_stop_after_it_continues_to_the_same_state(tmp_path: Path) -> None:
    def late(stopped: int) -> Callable[[StepLoss], StepLoss]:
        """Only the second step of the stage is not measured; the stop falls between it and the epoch's end."""
        steps = iter(range(stopped, 100))
        return lambda loss: StepLoss(loss.total, {"selected": NAN if next(steps) == 1 else loss.total.detach()})

    run(Answering(late(0)), tmp_path / "straight")
    stop_at(Answering(late(0)), tmp_path / "stopped", 3)
    progress = run(Answering(late(3)), tmp_path / "stopped")
    assert ["selected" in entry for entry in progress.history] == [False, True, True]
    assert_same_file(*(finished_path(tmp_path / name, "toy") for name in ("straight", "stopped")))


@pytest.mark.parametrize("noted", [None, 0.5, torch.ones(2), {"purity": "high"}, {"purity": torch.ones(2)}])
def test_a_review_that_returns_no_numbers_is_refused(noted: Any, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"stage 'toy' \(Answering\) returned .* from after_epoch that is no mapping"):
        run(Answering(noted=noted), tmp_path)


@pytest.mark.parametrize(
    ("name", "number", "fault"),
    [
        ("a\0b", 1.0, "holds characters that cannot be printed"),
        (3, 1.0, "must be text"),
        ("n" * 2001, 1.0, "must have at most 2000 characters"),
        ("big", 1e200, r"numbers\.big: must be at most 1e\+100 \(given: 1e\+200\)"),
    ],
)
def test_a_number_that_no_record_can_hold_is_refused_in_the_first_epoch(
    name: Any, number: float, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=rf"stage 'toy' logs what no record can hold: .*{fault}"):
        run(Answering(noted={name: number}), tmp_path)
    assert not state_file(tmp_path).exists()
    logged = torch.tensor(number, dtype=torch.float64)
    with pytest.raises(BenchError, match=rf"stage 'toy' logs what no record can hold: .*{fault}"):
        run(Answering(lambda loss: StepLoss(loss.total, {name: logged})), tmp_path)


def test_a_number_that_only_some_steps_log_is_refused(tmp_path: Path) -> None:
    calls = iter(range(100))

    def some(loss: StepLoss) -> StepLoss:
        return loss if next(calls) else StepLoss(loss.total, {"first": loss.total.detach()})

    with pytest.raises(BenchError, match=r"stage 'toy' logs '(double|first)' in some steps alone"):
        run(Answering(some), tmp_path)


class Chosen(ToyStage):
    """Trains on what ``chosen`` says."""

    def __init__(self, chosen: Any) -> None:
        super().__init__(make_plan())
        self._chosen = chosen

    def positions(self, count: int) -> Tensor:
        found: Tensor = self._chosen
        return found


@pytest.mark.parametrize(
    ("chosen", "what"),
    [
        (torch.tensor([0, 11]), r"torch\.int64 \(2,\)"),
        (torch.tensor([-1, 2]), r"torch\.int64 \(2,\)"),
        (torch.ones(11, dtype=torch.bool), r"torch\.bool \(11,\)"),
        (torch.ones(0).long(), r"torch\.int64 \(0,\)"),
        ([0, 1, 2], "a list"),
    ],
)
def test_positions_that_are_none_are_refused(chosen: Any, what: str, tmp_path: Path) -> None:
    message = rf"stage 'toy' returned {what} from positions\. .* int64 \[n\], .* one position, each from 0 to 10"
    with pytest.raises(BenchError, match=message):
        run(Chosen(chosen), tmp_path)


def test_a_step_that_changes_the_default_type_is_refused(tmp_path: Path) -> None:
    def doubled(loss: StepLoss) -> StepLoss:
        torch.set_default_dtype(torch.float64)
        return loss

    with pytest.raises(BenchError, match=r"stage 'toy' makes torch\.float64 the default type of torch"):
        run(Answering(doubled), tmp_path)
    assert torch.get_default_dtype() == torch.float32


def test_running_statistics_that_are_not_finite_are_a_matter_of_the_learning_rate(tmp_path: Path) -> None:
    class Overflowing(ToyStage):
        def after_step(self) -> None:
            super().after_step()
            self.encoder.backbone.norm.running_var.fill_(math.inf)  # type: ignore[union-attr, operator]

    with pytest.raises(
        BenchError, match=r"statistics that are not finite after epoch 1 \(stage\..*running_var .* --set"
    ):
        run(Overflowing(make_plan()), tmp_path)


def test_a_buffer_that_is_not_finite_is_no_matter_of_the_learning_rate(tmp_path: Path) -> None:
    stage = ToyStage(make_plan())
    stage.register_buffer("sums", torch.full((2,), math.nan))
    with pytest.raises(BenchError, match=r"has a buffer that is not finite after epoch 1, sums\. Nothing") as told:
        run(stage, tmp_path)
    assert "--set" not in str(told.value)
