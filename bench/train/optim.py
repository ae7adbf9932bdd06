"""Optimisers as the papers' repositories used them, over named parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from bench.recipe import TrainPlan


class LARS(SGD):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888), then SGD with momentum.

    For a tensor p with gradient g: r = eta |p| / (|g| + wd |p| + 1e-8), clipped to min(r / lr, 1) where
    ``clip`` asks for it (LARC), and g <- r (g + wd p). A tensor whose p or g is zero keeps r = 1 and, as in
    solo-learn, its undecayed gradient. ``exclude_vectors``: one-dimensional tensors are neither scaled nor
    decayed. ``lr_in_momentum``: the momentum buffer gathers lr g instead of g, as in ACL's own optimiser,
    which differs while the rate moves.

    The trust ratios stay on the device: a step never waits for it.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        eta: float,
        clip: bool,
        exclude_vectors: bool,
        lr_in_momentum: bool,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=0.0)
        self._decay, self._eta, self._clip, self._exclude = weight_decay, eta, clip, exclude_vectors
        self._lr_in_momentum = lr_in_momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scale the gradients in place, then take SGD's step."""
        for group in self.param_groups:
            scaled = [p for p in group["params"] if p.grad is not None and not (self._exclude and p.ndim == 1)]
            if scaled:
                self._scale(scaled, float(group["lr"]))
        if not self._lr_in_momentum:
            return super().step(closure)
        rates = [float(group["lr"]) for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            torch._foreach_mul_([p.grad for p in group["params"] if p.grad is not None], rate)
            group["lr"] = 1.0
        result = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return result

    def _scale(self, params: list[Tensor], lr: float) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        weight_norm = torch.stack(torch._foreach_norm(params))
        grad_norm = torch.stack(torch._foreach_norm(grads))
        ratio = self._eta * weight_norm / (grad_norm + self._decay * weight_norm + 1e-8)
        if self._clip and lr > 0:
            ratio = (ratio / lr).clamp(max=1.0)
        live = (weight_norm > 0) & (grad_norm > 0)
        decay = live * torch.full_like(ratio, self._decay)  # a bare number would be rounded to float32
        torch._foreach_add_(grads, torch._foreach_mul(params, list(decay.unbind())))
        torch._foreach_mul_(grads, list(torch.where(live, ratio, torch.ones_like(ratio)).unbind()))


def build_optimizer(plan: TrainPlan, module: nn.Module) -> Optimizer:
    """Return the optimiser of ``plan`` over every parameter of ``module`` that requires a gradient."""
    params = [p for p in module.parameters() if p.requires_grad]
    common = {"lr": plan.effective_lr, "momentum": plan.momentum, "nesterov": plan.nesterov}
    if plan.optimizer == "sgd":
        return SGD(params, weight_decay=plan.weight_decay, **common)  # type: ignore[arg-type]
    return LARS(
        params,
        **common,  # type: ignore[arg-type]
        weight_decay=plan.weight_decay,
        eta=plan.lars_eta,
        clip=plan.lars_clip,
        exclude_vectors=plan.lars_exclude_vectors,
        lr_in_momentum=plan.lars_lr_in_momentum,
    )


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
