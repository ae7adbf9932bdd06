"""Learning-rate schedules of single papers, which a method's settings add to the bench's."""

import math

from bench.recipe import TrainPlan


def rocl_rate(plan: TrainPlan, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the rate of unit n: linear from the start to the peak l, then l / 2 (1 + cos(pi (n - W) / T)).

    The cosine's period is the whole training T, not T - W after the warm-up W, so the rate does not reach zero.

    Source: RoCL's ``src/warmup_scheduler/scheduler.py`` at b6d5185: start 0.1, peak 1.5, W = 10, T = 1000.
    """
    n, warmup, total = plan.units(epoch, step, steps_per_epoch)
    peak = plan.effective_lr
    if n < warmup:
        return plan.warmup_start + (peak - plan.warmup_start) * (n + 1) / warmup
    return peak / 2 * (1 + math.cos(math.pi * (n - warmup) / total))


def acl_rate(plan: TrainPlan, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the rate of the n-th step, from 1: l n / W while n < W, then cosine from l to the floor at the last.

    Source: ACL's ``train_simCLR.py`` at 399eabd: l = 5, floor 1e-6, W = 10 epochs.
    """
    n = epoch * steps_per_epoch + step + 1
    warmup, total = round(plan.warmup_epochs * steps_per_epoch), plan.epochs * steps_per_epoch
    peak = plan.effective_lr
    if n < warmup:
        return peak * n / warmup
    progress = (n - warmup) / max(1, total - warmup)
    return plan.lr_floor + (peak - plan.lr_floor) / 2 * (1 + math.cos(math.pi * progress))


def advcl_rate(plan: TrainPlan, *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the rate of the e-th epoch, from 1: m + (l - m) (1 + cos(pi e / T)) / 2, reached linearly in the warm-up.

    During warm-up the rate rises each step from the start to the cosine's value at the warm-up's last epoch.

    Source: AdvCL's ``utils.py`` at 24cb7a6: l = 0.5, m = 5e-4, start 0.01, 10 warm-up epochs.
    """
    floor, peak = plan.lr_floor, plan.effective_lr

    def cosine(epochs: float) -> float:
        return floor + (peak - floor) * (1 + math.cos(math.pi * epochs / plan.epochs)) / 2

    now, warmup = epoch * steps_per_epoch + step, round(plan.warmup_epochs * steps_per_epoch)
    if now < warmup:
        return plan.warmup_start + (cosine(plan.warmup_epochs) - plan.warmup_start) * now / warmup
    return cosine(epoch + 1)
