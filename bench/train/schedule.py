"""Learning rate schedules: pure functions of the plan and of how far training has come."""

import math

from bench.recipe import TrainPlan


def learning_rate(plan: TrainPlan, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of 0-based ``step`` of 0-based ``epoch``."""
    if plan.schedule == "steps":
        return plan.effective_lr * 0.1 ** sum(epoch >= decay for decay in plan.decay_epochs)
    unit = steps_per_epoch if plan.schedule_unit == "step" else 1
    index = epoch * steps_per_epoch + step if plan.schedule_unit == "step" else epoch
    return _warmup_cosine(plan, index, warmup=plan.warmup_epochs * unit, total=plan.epochs * unit)


def _warmup_cosine(plan: TrainPlan, index: int, *, warmup: int, total: int) -> float:
    """Return the rate of unit n = ``index``: linear warm-up, then cosine.

    With W the warm-up's length, T the total, s the start, l the peak and f the floor: n < W:
    s + n (l - s) / (W - 1); n >= W: f + (l - f) / 2 (1 + cos(pi (n - W) / (T - W))).

    Source: DeACL's and solo-learn's LinearWarmupCosineAnnealing. Its divisor W - 1 lets the peak hold for
    two units; the last unit's rate is small but not the floor.
    """
    peak = plan.effective_lr
    if index < warmup:
        return plan.warmup_start + index * (peak - plan.warmup_start) / max(1, warmup - 1)
    progress = (index - warmup) / max(1, total - warmup)
    return plan.lr_floor + (peak - plan.lr_floor) / 2 * (1 + math.cos(math.pi * progress))
