"""What a stage hands to the engine: its loss, the numbers that it logs, and an optimiser with groups."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer
from toy_stage import EPOCHS, STEPS, StopAfter, ToyStage, assert_same_file, make_plan, run, state_file, stop_at

from bench.data import ImageSource
from bench.errors import BenchError, InterruptedRunError
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


class Grouped(ToyStage):
    """The head learns at a tenth of the plan's rate."""

    def optimizer(self) -> Optimizer:
        peak = self.plan.effective_lr
        head: dict[str, Any] = {"params": self.head.parameters(), "lr": peak / 10}
        return SGD([{"params": self.encoder.parameters()}, head], lr=peak)


def test_groups_keep_their_rates_in_proportion_also_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, ...]] = []
    step = SGD.step

    def watched(self: SGD, *given: Any) -> Any:
        seen.append(tuple(group["lr"] for group in self.param_groups))
        return step(self, *given)

    monkeypatch.setattr(SGD, "step", watched)
    stop_at(Grouped(make_plan()), tmp_path, 6)
    run(Grouped(make_plan()), tmp_path)
    plan = make_plan()
    expected = [plan.rate(n // STEPS, n % STEPS, STEPS) for n in range(EPOCHS * STEPS)]
    assert [rates[0] for rates in seen] == expected
    assert [rates[1] for rates in seen] == pytest.approx([rate / 10 for rate in expected])
    assert not state_file(tmp_path).exists()


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
    """Trains on what ``chosen`` says, and with the optimiser that ``built`` makes of it."""

    def __init__(self, chosen: Tensor | None = None, built: Callable[["Chosen"], Any] | None = None) -> None:
        super().__init__(make_plan())
        self._chosen, self._built = chosen, built

    def positions(self, count: int) -> Tensor:
        return super().positions(count) if self._chosen is None else self._chosen

    def optimizer(self) -> Optimizer:
        made: Optimizer = self._built(self) if self._built else super().optimizer()
        return made


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


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (lambda stage: None, r"the optimizer\(\) of a stage returned a NoneType"),
        (lambda stage: LBFGS(stage.parameters()), "returned a LBFGS. .* whose step takes one gradient"),
        (lambda stage: SGD([nn.Parameter(torch.ones(2))], lr=1), "1 parameter of the optimiser of Chosen could not be"),
    ],
)
def test_an_optimiser_that_cannot_train_or_be_saved_is_refused(
    built: Callable[[Chosen], Any], message: str, tmp_path: Path
) -> None:
    stage = Chosen(built=built)
    with pytest.raises(BenchError, match=message):
        run(stage, tmp_path)
    assert stage.seen == []


def test_parameters_that_nothing_trains_are_named(tmp_path: Path) -> None:
    monitor = StopAfter(10**6)
    run(Chosen(built=lambda stage: SGD(stage.head.parameters(), lr=0.1)), tmp_path, monitor=monitor)
    (note,) = monitor.notes
    assert note.startswith("stage toy: no group of its optimiser holds encoder.backbone.conv.weight and 3 more, which")


class Detached(ToyStage):
    """Its steps give the head a gradient; the encoder has one only in those where ``joined`` is true."""

    def __init__(self, joined: Callable[[int], bool] = lambda step: False) -> None:
        super().__init__(make_plan())
        self._joined = joined

    def forward(self, views: Tensor) -> StepLoss:
        features = self.encoder(views)
        features = features if self._joined(len(self.seen)) else features.detach()
        self._keys = features.detach()
        return StepLoss(self.head(features).square().mean())


def test_parameters_without_a_gradient_in_an_epoch_are_named_once(tmp_path: Path) -> None:
    monitor = StopAfter(10**6)
    run(Detached(), tmp_path, monitor=monitor)
    (note,) = monitor.notes
    message = "stage toy: no step of epoch 1 had a gradient for encoder.backbone.conv.weight and 3 more, which keep"
    assert note.startswith(message)


def test_parameters_with_a_gradient_in_some_steps_are_not_named(tmp_path: Path) -> None:
    monitor = StopAfter(10**6)
    run(Detached(lambda step: step == STEPS), tmp_path, monitor=monitor)
    assert monitor.notes == []


def test_only_a_whole_epoch_tells_which_parameters_have_no_gradient(tmp_path: Path) -> None:
    first, then = StopAfter(2), StopAfter(10**6)
    with pytest.raises(InterruptedRunError):
        run(Detached(), tmp_path, monitor=first)
    run(Detached(), tmp_path, monitor=then)
    assert first.notes == []
    (note,) = then.notes
    assert "no step of epoch 2 had a gradient for" in note


def test_what_a_stage_freezes_for_an_epoch_needs_no_gradient(tmp_path: Path) -> None:
    class Thawing(Detached):
        def before_epoch(self, epoch: int) -> None:
            self.encoder.requires_grad_(epoch > 0)

    monitor = StopAfter(10**6)
    run(Thawing(lambda step: step > STEPS), tmp_path, monitor=monitor)
    assert monitor.notes == []


def test_gradients_that_a_stage_clears_tell_nothing(tmp_path: Path) -> None:
    class Clearing(ToyStage):
        def after_step(self) -> None:
            super().after_step()
            self.zero_grad()

    monitor = StopAfter(10**6)
    run(Clearing(make_plan()), tmp_path, monitor=monitor)
    assert monitor.notes == []


def test_a_step_that_changes_the_default_type_is_refused(tmp_path: Path) -> None:
    def doubled(loss: StepLoss) -> StepLoss:
        torch.set_default_dtype(torch.float64)
        return loss

    with pytest.raises(BenchError, match=r"stage 'toy' makes torch\.float64 the default type of torch"):
        run(Answering(doubled), tmp_path)
    assert torch.get_default_dtype() == torch.float32


class Plain(ToyStage):
    """Keeps four things that no state dict has, and a step changes one of them."""

    turns: Tensor

    def __init__(self, change: Callable[[Any], None] = lambda stage: None) -> None:
        super().__init__(make_plan())
        self.warm, self.kind, self.centre = 0.5, "cold", torch.zeros(4)
        self.register_buffer("turns", torch.zeros(()), persistent=False)
        self._change = change

    def after_step(self) -> None:
        super().after_step()
        self._change(self)


@pytest.mark.parametrize(
    ("name", "kind", "change"),
    [
        ("warm", "a plain attribute", lambda stage: setattr(stage, "warm", 2 * stage.warm)),
        ("kind", "a plain attribute", lambda stage: setattr(stage, "kind", "warm")),
        ("centre", "a plain attribute", lambda stage: stage.centre.add_(1)),
        ("head.in_features", "a plain attribute", lambda stage: setattr(stage.head, "in_features", 5)),
        ("turns", "a buffer with persistent=False", lambda stage: stage.turns.add_(1)),
    ],
)
def test_state_that_no_checkpoint_has_is_reported_once(
    name: str, kind: str, change: Callable[[Any], None], tmp_path: Path
) -> None:
    monitor, same = StopAfter(10**6), StopAfter(10**6)
    run(Plain(), tmp_path / "same", monitor=same)
    assert same.notes == []
    run(Plain(change), tmp_path / "changed", monitor=monitor)
    (note,) = monitor.notes
    assert note.startswith(f"stage toy: '{name}' is {kind} that training changes, and no saved state has it")


class Curriculum(Plain):
    """``begin`` sets what changes between epochs."""

    def __init__(self, begin: Callable[[Any, int], None], change: Callable[[Any], None] = lambda stage: None) -> None:
        super().__init__(change)
        self._begin = begin

    def before_epoch(self, epoch: int) -> None:
        self._begin(self, epoch)


@pytest.mark.parametrize(
    "begin",
    [
        lambda stage, epoch: setattr(stage, "warm", (epoch + 1) / EPOCHS),
        lambda stage, epoch: setattr(stage, "kind", f"epoch {epoch}"),
        lambda stage, epoch: setattr(stage, "centre", torch.full((4,), epoch + 1.0)),
        lambda stage, epoch: stage.centre.fill_(epoch + 1),
        lambda stage, epoch: stage.turns.fill_(epoch + 1),
    ],
)
def test_what_an_epoch_begins_with_needs_no_saved_state(begin: Callable[[Any, int], None], tmp_path: Path) -> None:
    monitor = StopAfter(10**6)
    run(Curriculum(begin), tmp_path, monitor=monitor)
    assert monitor.notes == []


def test_what_a_step_changes_is_reported_even_if_each_epoch_begins_with_it(tmp_path: Path) -> None:
    def begin(stage: Plain, epoch: int) -> None:
        stage.warm = epoch + 1.0

    monitor = StopAfter(10**6)
    run(Curriculum(begin, lambda stage: setattr(stage, "warm", stage.warm / 2)), tmp_path, monitor=monitor)
    assert [note.split(" is ")[0] for note in monitor.notes] == ["stage toy: 'warm'"]


def test_what_depends_on_the_epochs_before_is_reported_and_counted_once(tmp_path: Path) -> None:
    def begin(stage: Plain, epoch: int) -> None:
        stage.warm *= 2

    monitor, stage = StopAfter(10**6), Curriculum(begin)
    run(stage, tmp_path, monitor=monitor)
    assert [note.split(" is ")[0] for note in monitor.notes] == ["stage toy: 'warm'"]
    assert stage.warm == 0.5 * 2**EPOCHS


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
