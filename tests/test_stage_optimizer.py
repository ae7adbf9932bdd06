"""The optimiser of a stage: its groups, what is refused, its saved state, and the parameters that it does not train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from toy_stage import EPOCHS, STEPS, StopAfter, ToyStage, assert_same_file, make_plan, run, state_file, stop_at

from bench.errors import BenchError, InterruptedRunError
from bench.method import StepLoss
from bench.train import finished_path


class Chosen(ToyStage):
    """Trains with the optimiser that ``built`` makes of it."""

    def __init__(self, built: Callable[["Chosen"], Any]) -> None:
        super().__init__(make_plan())
        self._built = built

    def optimizer(self) -> Optimizer:
        made: Optimizer = self._built(self)
        return made


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


class Pair(Optimizer):
    """Trains the encoder with one optimiser and the head with another one."""

    def __init__(self, stage: Chosen) -> None:
        self.inner = SGD(stage.encoder.parameters(), lr=0.1, momentum=0.9), Adam(stage.head.parameters(), lr=0.1)
        super().__init__([group for one in self.inner for group in one.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        for one in self.inner:
            one.step()


class Ticking(SGD):
    """Saves the number of its steps beside what torch saves."""

    ticks = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "ticks": self.ticks}


class Remembering(SGD):
    """Remembers in its state, beside the momenta, what ``remember`` makes of a parameter."""

    def __init__(self, stage: Chosen, remember: Callable[[Any, Tensor], Any]) -> None:
        super().__init__(stage.parameters(), lr=0.1, momentum=0.9)
        self._remember = remember

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self._remember(self.state, parameter)
        return loss


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (lambda stage: None, r"the optimizer\(\) of a stage returned a NoneType"),
        (lambda stage: LBFGS(stage.parameters()), "returned a LBFGS, whose step cannot be taken without a closure"),
        (lambda stage: Pair(stage), r"returned a Pair, which holds other optimisers\. It must return one .* a group"),
        (lambda stage: Ticking(stage.parameters(), lr=1), "returned a Ticking, whose state_dict.. has another form"),
        (lambda stage: SGD([nn.Parameter(torch.ones(2))], lr=1), "1 parameter of the optimiser of Chosen could not be"),
    ],
)
def test_an_optimiser_that_cannot_train_or_be_saved_is_refused(
    built: Callable[[Chosen], Any], message: str, tmp_path: Path
) -> None:
    stage = Chosen(built)
    with pytest.raises(BenchError, match=message):
        run(stage, tmp_path)
    assert stage.seen == []


@pytest.mark.parametrize(
    ("remember", "message"),
    [
        (
            lambda state, one: state[one].update(kind="warm"),
            r"state holds kind\.encoder.*, a str, which",
        ),
        (lambda state, one: state.update(ticks=1), "state holds 'ticks', which cannot be saved"),
        (lambda state, one: state.update({one.detach(): {}}), "state holds the state of a tensor that no group holds"),
    ],
)
def test_an_optimiser_whose_state_cannot_be_saved_is_refused_after_its_first_step(
    remember: Callable[[Any, Tensor], Any], message: str, tmp_path: Path
) -> None:
    stage = Chosen(lambda stage: Remembering(stage, remember))
    with pytest.raises(BenchError, match=message):
        run(stage, tmp_path)
    assert len(stage.seen) == 1


def test_an_optimiser_s_state_of_any_type_continues_exactly(tmp_path: Path) -> None:
    """1 + 2**-40 is no float32, and 2**24 + 1 neither."""

    def remember(state: Any, parameter: Tensor) -> None:
        kept = state[parameter]
        fine, count = kept.get("fine", parameter.double().abs()), kept.get("count", torch.full((1,), 2**24))
        kept |= {"fine": fine * (1 + 2**-40), "count": count + 1}
        parameter.data.add_(kept["fine"] * (kept["count"] % 2))

    def stage() -> Chosen:
        return Chosen(lambda stage: Remembering(stage, remember))

    run(stage(), tmp_path / "straight")
    stop_at(stage(), tmp_path / "stopped", STEPS + 1)
    run(stage(), tmp_path / "stopped")
    assert_same_file(finished_path(tmp_path / "straight", "toy"), finished_path(tmp_path / "stopped", "toy"))


def test_parameters_that_nothing_trains_are_named(tmp_path: Path) -> None:
    monitor = StopAfter(10**6)
    run(Chosen(lambda stage: SGD(stage.head.parameters(), lr=0.1)), tmp_path, monitor=monitor)
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
