"""Learning rate schedules: pure functions of the plan and of how far training has come."""

import math

from bench.recipe import TrainPlan


def learning_rate(plan: TrainPlan, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of 0-based ``step`` of 0-based ``epoch``."""
    if plan.schedule == "steps":
        return plan.effective_lr * 0.1 ** sum(epoch >= decay for decay in plan.decay_epochs)
    now = epoch * steps_per_epoch + step
    warmup, total = round(plan.warmup_epochs * steps_per_epoch), plan.epochs * steps_per_epoch
    if plan.schedule == "acl":
        return _acl(plan, now + 1, warmup=warmup, total=total)
    if plan.schedule == "advcl":
        return _advcl(plan, epoch + 1, now, warmup_steps=warmup)
    if plan.schedule_unit == "epoch":
        now, warmup, total = epoch, round(plan.warmup_epochs), plan.epochs
    shape = _rocl if plan.schedule == "rocl" else _warmup_cosine
    return shape(plan, now, warmup=warmup, total=total)


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


def _rocl(plan: TrainPlan, index: int, *, warmup: int, total: int) -> float:
    """Return the rate of unit n = ``index``: linear from the start to the peak l, then l / 2 (1 + cos(pi (n - W) / T)).

    The cosine's period is the whole training T, not what is left of it, so the rate does not reach zero.

    Source: RoCL's ``src/warmup_scheduler/scheduler.py`` at b6d5185: start 0.1, peak 1.5, W = 10, T = 1000.
    """
    peak = plan.effective_lr
    if index < warmup:
        return plan.warmup_start + (peak - plan.warmup_start) * (index + 1) / warmup
    return peak / 2 * (1 + math.cos(math.pi * (index - warmup) / total))


def _acl(plan: TrainPlan, step: int, *, warmup: int, total: int) -> float:
    """Return the rate of 1-based ``step``: l n / W while n < W, then cosine from l to the floor at the last step.

    Source: ACL's ``train_simCLR.py`` at 399eabd: l = 5, floor 1e-6, W = 10 epochs.
    """
    peak = plan.effective_lr
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return plan.lr_floor + (peak - plan.lr_floor) / 2 * (1 + math.cos(math.pi * progress))


def _advcl(plan: TrainPlan, epoch: int, step: int, *, warmup_steps: int) -> float:
    """Return the rate of 1-based ``epoch``: m + (l - m) (1 + cos(pi e / T)) / 2, reached linearly in the warm-up.

    During warm-up the rate rises each step from the start to the cosine's value at the warm-up's last epoch.

    Source: AdvCL's ``utils.py`` at 24cb7a6: l = 0.5, m = 5e-4, start 0.01, 10 warm-up epochs.
    """
    floor, peak = plan.lr_floor, plan.effective_lr
    if step < warmup_steps:
        target = floor + (peak - floor) * (1 + math.cos(math.pi * plan.warmup_epochs / plan.epochs)) / 2
        return plan.warmup_start + (target - plan.warmup_start) * step / warmup_steps
    return floor + (peak - floor) * (1 + math.cos(math.pi * epoch / plan.epochs)) / 2
