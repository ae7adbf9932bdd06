"""Optimisers as the papers' repositories used them, over named parameters."""

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from bench.recipe import TrainPlan


class LARS(SGD):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888), then SGD with momentum.

    For a tensor p with gradient g: r = eta |p| / (|g| + wd |p| + 1e-8), clipped to min(r / lr, 1) where
    ``clip`` asks for it (LARC), and g <- r (g + wd p). A tensor whose p or g is zero keeps r = 1 and, as in
    solo-learn, its undecayed gradient. ``exclude_vectors``: one-dimensional tensors are neither scaled nor
    decayed.

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
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=0.0)
        self._decay, self._eta, self._clip, self._exclude = weight_decay, eta, clip, exclude_vectors

    @classmethod
    def of(cls, plan: TrainPlan, params: Iterable[Tensor]) -> Self:
        """Return the optimiser of ``params`` with the numbers of ``plan``."""
        return cls(
            params,
            lr=plan.effective_lr,
            momentum=plan.momentum,
            nesterov=plan.nesterov,
            weight_decay=plan.weight_decay,
            eta=plan.lars_eta,
            clip=plan.lars_clip,
            exclude_vectors=plan.lars_exclude_vectors,
        )

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scale the gradients in place, then take SGD's step."""
        self.scale_gradients()
        return super().step(closure)

    @torch.no_grad()
    def scale_gradients(self) -> None:
        """Replace each gradient g by r (g + wd p)."""
        for group in self.param_groups:
            scaled = [p for p in group["params"] if p.grad is not None and not (self._exclude and p.ndim == 1)]
            if scaled:
                self._scale(scaled, float(group["lr"]))

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
    params = trained(module)
    if plan.optimizer == "lars":
        return LARS.of(plan, params)
    return SGD(
        params,
        lr=plan.effective_lr,
        momentum=plan.momentum,
        nesterov=plan.nesterov,
        weight_decay=plan.weight_decay,
    )


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of ``module`` that require a gradient, in its order."""
    return [p for p in module.parameters() if p.requires_grad]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
