"""AutoAttack is not believed blindly: what the library returns is checked, and what it flags is kept."""

import sys
from collections.abc import Callable
from typing import Any

import pyautoattack
import pytest
import torch
from attacked_linear import COUNT, LINF, Linear, Probabilities, data, run
from attacked_linear import quick as quick
from torch import Tensor

from bench.attack.official import Flags
from bench.errors import BenchError

pytestmark = pytest.mark.usefixtures("one_thread")


# What is not believed


def lie(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], Tensor]) -> None:
    """Let the library return ``answer(images)`` for every attack."""

    def evaluation(_: Any, images: Tensor, labels: Tensor, **__: Any) -> tuple[Tensor, Tensor]:
        return answer(images), labels

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", evaluation)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x + 2 * LINF.eps,
        lambda x: (x - LINF.eps - 1e-5).clamp(0, 1),
        lambda x: x * torch.nan,
        lambda x: torch.where(x == x.max(), torch.nan, x),
    ],
    ids=["far", "just too far", "nan", "one nan"],
)
def test_an_image_outside_the_ball_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], Tensor]
) -> None:
    lie(monkeypatch, answer)
    with pytest.raises(BenchError, match=r"apgd-ce of pyautoattack.*outside the threat model"):
        run()


def test_an_image_outside_the_pixel_range_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lie(monkeypatch, lambda x: x - 0.04)
    with pytest.raises(BenchError, match=r"outside the threat model.*pixels in \[-0.04"):
        run(images=data().images.mul(0).add(Linear().weight.detach()[data().labels].view(COUNT, 3, 8, 8) > 0))


def test_outcomes_come_from_the_model_and_not_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    lie(monkeypatch, lambda x: x)  # says that it broke images, and gives them back unchanged
    result = run()
    assert torch.equal(result.robust, result.clean)


def test_logits_that_are_not_finite_under_attack_are_refused() -> None:
    """The library takes NaN for an answer, class 0, so images of class 0 would withstand."""

    class Detector(Linear):
        def forward(self, x: Tensor) -> Tensor:
            moved = (x[:, None] != data().images).flatten(2).any(2).all(1)
            return super().forward(x).masked_fill(moved[:, None], torch.nan)

    detector, zeros = Detector(), data().labels == 0
    with pytest.raises(BenchError, match=r"not all finite under AutoAttack's apgd-ce.*autoattack=false$"):
        run(detector, images=data().images[zeros], labels=data().labels[zeros])


# What it warns of


@pytest.mark.usefixtures("quick")
def test_flags_are_kept_once_of_each_kind() -> None:
    warnings = run(Probabilities()).warnings
    assert len([w for w in warnings if "probability distribution" in w]) == 1
    flags = Flags(["there are 3 points with zero gradient!"])
    flags.warning("there are 12 points with zero gradient!")
    flags.log("Warning: there are 1 points with zero gradient!")
    flags.log("robust accuracy: 10.00%")
    flags.debug("running square")
    flags.log("Warning: it seems to be a dynamic defense!")
    assert flags.raised == ["there are 3 points with zero gradient!", "it seems to be a dynamic defense!"]


class Dynamic(Linear):
    """A defence that differentiates while it classifies."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = x.detach().requires_grad_()
            torch.autograd.grad(super().forward(probe).sum(), probe)
        return super().forward(x)


@pytest.mark.usefixtures("quick")
def test_a_flagged_model_does_not_flag_the_next() -> None:
    def tracer(*_: Any) -> None:
        return None

    previous = sys.gettrace()
    sys.settrace(tracer)
    try:
        assert any("dynamic" in warning for warning in run(Dynamic()).warnings)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(previous)
    assert run().warnings == ()


def test_square_beating_the_gradient_attacks_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluation(self: Any, x: Tensor, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        moved = x - LINF.eps * Linear().weight.detach()[y].sign().view(x.shape)
        return (moved if self.attacks_to_run == ["square"] else x), y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", evaluation)
    result = run()
    assert result.robust.sum() < result.survivors["fab-t"].sum()
    assert len(result.warnings) == 1
    assert "Square Attack has decreased the robust accuracy" in result.warnings[0]
