"""Learning rates at the epochs that the papers' formulas make easy to check, and between them."""

import math
from typing import Any

import numpy as np
import pytest

from bench.recipe import SLFSettings, TrainPlan
from bench.recipe.plan import SHAPE
from bench.recipe.tiers import load_tier
from methods.acl import ACLSettings
from methods.advcl import AdvCLSettings
from methods.rocl import RoCLSettings


def rates(plan: TrainPlan, steps_per_epoch: int = 1) -> list[float]:
    """The rate of every step of the plan, in order."""
    return [
        plan.rate(epoch=epoch, step=step, steps_per_epoch=steps_per_epoch)
        for epoch in range(plan.epochs)
        for step in range(steps_per_epoch)
    ]


# DeACL repository, stage-2 script: 100 epochs, 0.5, warm-up of 10 epochs from 0.003.
def deacl(**changes: Any) -> TrainPlan:
    values = {"epochs": 100, "batch_size": 256, "lr": 0.5, "lr_batch": 256, "warmup_epochs": 10, "warmup_start": 0.003}
    return TrainPlan(**{**values, **changes})


@pytest.mark.parametrize(
    ("epoch", "rate", "digits"),
    [
        (0, 0.003, 15),
        (1, 0.05822, 5),
        (2, 0.11344, 5),
        (9, 0.5, 15),
        (10, 0.5, 15),
        (55, 0.25, 15),
        (98, 6.1e-4, 5),
        (99, 1.5e-4, 5),
    ],
)
def test_deacls_second_stage_at_its_key_epochs(epoch: int, rate: float, digits: int) -> None:
    found = rates(deacl())[epoch]
    assert found == pytest.approx(rate, abs=0.51 * 10**-digits if digits < 15 else 1e-15)


def test_the_rate_moves_once_an_epoch_unless_told_otherwise() -> None:
    plan = deacl()
    assert rates(plan, steps_per_epoch=3) == [rate for rate in rates(plan) for _ in range(3)]


def by_concatenation(start: float, peak: float, floor: float, warmup: int, total: int) -> np.ndarray:
    """Warm-up and cosine as arrays: a line that includes both ends, then half a period without its last point."""
    cosine = np.cos(np.linspace(0, np.pi, total - warmup, endpoint=False))
    return np.concatenate([np.linspace(start, peak, warmup), floor + (peak - floor) * (cosine + 1) / 2])


@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize(
    ("epochs", "warmup", "steps"), [(100, 10, 3), (4, 1, 7), (5, 0, 2), (3, 3, 4), (1, 1, 2), (1, 0, 1), (20, 2, 1)]
)
def test_warmup_and_cosine_against_an_independent_formula(unit: str, epochs: int, warmup: int, steps: int) -> None:
    plan = deacl(epochs=epochs, warmup_epochs=warmup, schedule_unit=unit, lr_floor=0.001)
    per_unit, units = (1, steps) if unit == "epoch" else (steps, 1)
    expected = by_concatenation(0.003, 0.5, 0.001, warmup * per_unit, epochs * per_unit).repeat(units)
    assert rates(plan, steps) == pytest.approx(expected.tolist(), abs=1e-14)


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_rates_rise_to_the_peak_and_fall_towards_the_floor(unit: str) -> None:
    plan = deacl(schedule_unit=unit, batch_size=512, lr_floor=0.01)
    found = rates(plan, steps_per_epoch=2)
    top = found.index(max(found))
    assert max(found) == pytest.approx(1.0, abs=1e-12)  # twice the batch, twice the rate
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert min(found) == 0.003
    assert 0.01 < found[-1] < 0.0105


def test_the_peak_holds_for_two_units_and_the_last_rate_is_not_the_floor() -> None:
    found = rates(deacl())
    assert [epoch for epoch, rate in enumerate(found) if rate == pytest.approx(0.5, abs=1e-15)] == [9, 10]
    assert 0 < found[-1] < 2e-4


# AdvCL's protocols, as DeACL follows them: 25 epochs, a tenth from the 0-based epochs 15 and 20.
@pytest.mark.parametrize("lr", [0.1, 0.01])
def test_the_protocols_rate_drops_twice(lr: float) -> None:
    found = rates(SLFSettings(lr=lr), steps_per_epoch=2)
    expected = [lr] * 30 + [lr / 10] * 10 + [lr / 100] * 10
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_schedule_of_steps_without_any_is_constant() -> None:
    assert set(rates(TrainPlan(epochs=9, batch_size=2, lr=0.3, schedule="steps"))) == {0.3}


# The other papers'


def test_rocls_rates() -> None:
    """RoCL, training script: 0.24, 0.38, ... 1.50 at epoch 9; then 0.75 (1 + cos(pi (e - 10) / 1000))."""
    plan = RoCLSettings()
    found = rates(plan)
    assert found[:3] == pytest.approx([0.24, 0.38, 0.52], abs=1e-12)
    assert found[9:11] == pytest.approx([1.5, 1.5], abs=1e-12)
    assert found[510] == pytest.approx(0.75, abs=1e-12)
    assert found[999] == pytest.approx(4.5e-4, abs=5e-6)


def test_acls_rates() -> None:
    """ACL, training script: 5 n / 980 before the 980th update, then a cosine to 1e-6 at the 98,000th."""
    plan = ACLSettings()
    updates = (1, 490, 979, 980, 49_490, 98_000)
    found = [plan.rate(epoch=(n - 1) // 98, step=(n - 1) % 98, steps_per_epoch=98) for n in updates]
    assert found == pytest.approx([5 / 980, 2.5, 5 * 979 / 980, 5.0, (5 + 1e-6) / 2, 1e-6], rel=1e-12)


def test_advcls_rates() -> None:
    """AdvCL, training script: from 0.01 towards 0.499877 in ten epochs of steps, then cosine in 1-based epochs."""
    plan = AdvCLSettings()
    found = rates(plan, steps_per_epoch=4)
    assert found[0] == 0.01
    assert found[20] == pytest.approx((0.01 + 0.499877) / 2, abs=1e-6)
    assert found[:40] == pytest.approx(np.linspace(0.01, 0.499877, 41)[:-1].tolist(), abs=1e-6)
    assert found[40:44] == [found[40]] * 4
    assert found[40] == pytest.approx(5e-4 + 0.4995 * (1 + math.cos(math.pi * 11 / 1000)) / 2, abs=1e-12)
    assert found[-1] == pytest.approx(5e-4, abs=1e-12)


def test_a_fraction_of_an_epoch_warms_up_by_steps() -> None:
    plan = TrainPlan(epochs=4, batch_size=4, lr=1.0, warmup_epochs=0.4, warmup_start=0.1, schedule_unit="step")
    rates = [plan.rate(epoch=0, step=step, steps_per_epoch=10) for step in range(6)]
    assert rates[:5] == pytest.approx([0.1, 0.4, 0.7, 1.0, 1.0])
    assert rates[5] < 1
    rocl = RoCLSettings(**{**plan.model_dump(), "schedule": "rocl"})
    rates = [rocl.rate(epoch=0, step=step, steps_per_epoch=10) for step in range(5)]
    assert rates == pytest.approx([0.325, 0.55, 0.775, 1.0, 1.0])


@pytest.mark.parametrize("tier", ["tiny", "mini", "short"])
def test_decays_keep_their_share_of_a_shortened_stage(tier: str) -> None:
    whole = TrainPlan(epochs=30, batch_size=256, lr=0.1, schedule="steps", decay_epochs=(15, 24))
    short = TrainPlan(**{**whole.model_dump(), **load_tier(tier).scale(whole), "schedule_unit": "step"})
    found = rates(short, steps_per_epoch=100)
    falls = [n / len(found) for n in range(1, len(found)) if found[n] < found[n - 1]]
    assert found[0] == short.effective_lr
    assert falls == pytest.approx([0.5, 0.8], abs=0.01)


def test_decays_fall_with_an_epoch_where_the_rate_does_not_move_each_step() -> None:
    plan = TrainPlan(epochs=4, batch_size=2, lr=1.0, schedule="steps", decay_epochs=(1.5, 3))
    assert rates(plan, steps_per_epoch=2) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    longer = TrainPlan(**{**plan.model_dump(), **plan.stretched(8)})
    assert '"decay_epochs":[3,6]' in longer.model_dump_json(), "as plans of whole epochs were always written"


def test_an_epoch_at_rate_zero_is_refused() -> None:
    values = {"epochs": 4, "batch_size": 2, "lr": 1.0, "warmup_epochs": 1}
    with pytest.raises(ValueError, match=r"warmup_epochs 1 is an epoch at rate 0 .* set schedule_unit=step, a"):
        TrainPlan(**values)
    for mended in ({"schedule_unit": "step"}, {"warmup_start": 0.1}, {"warmup_epochs": 0}, {"warmup_epochs": 2}):
        assert max(rates(TrainPlan(**{**values, **mended}), steps_per_epoch=5)) == 1


OTHER: dict[str, Any] = {
    **{"decay_epochs": (1,), "warmup_epochs": 3.0, "warmup_start": 0.2, "lr_floor": 0.05, "schedule_unit": "epoch"},
}


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [(kind, name) for kind in (TrainPlan, ACLSettings, AdvCLSettings, RoCLSettings) for name in kind.schedules],
)
@pytest.mark.parametrize("field", sorted(SHAPE))
def test_a_schedule_reads_what_it_says(settings: type[TrainPlan], schedule: str, field: str) -> None:
    common = {"epochs": 6, "batch_size": 4, "lr": 1.0, "schedule": schedule, "schedule_unit": "step", "lr_floor": 0.01}
    plan = settings(**{**common, "decay_epochs": (1.5,), "warmup_epochs": 2.5, "warmup_start": 0.1})
    changed = settings(**{**plan.model_dump(), field: OTHER[field]})
    assert (rates(plan, 4) != rates(changed, 4)) == (field not in plan.unread)
