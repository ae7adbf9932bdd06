"""Batch-norm that is quick to differentiate twice: the diversity term does so in every step of the attack."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_PIXELS = (0, 2, 3)
"""The dimensions of [B, C, H, W] that batch statistics are taken over."""


class TwiceDifferentiableBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with its second derivative in closed form; the same numbers, buffers and weights.

    The framework composes that derivative of many small passes over the activations.
    ``perf/second_derivative.py`` measures the difference.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape; in training mode at least two values a channel are needed."""
        if not self.training:
            return super().forward(x)
        cast(Tensor, self.num_batches_tracked).add_(1)
        standardised = _Standardise.apply(x, self.running_mean, self.running_var, self.momentum, self.eps)
        return torch.addcmul(_per_channel(self.bias, x), standardised, _per_channel(self.weight, x))


def make_twice_differentiable(module: nn.Module) -> None:
    """Put the batch-norm above in the place of every plain one in ``module``, with its weights and buffers."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                quick = TwiceDifferentiableBatchNorm2d(child.num_features, child.eps, child.momentum)
                quick.load_state_dict(child.state_dict())
                setattr(parent, name, quick)


class _Standardise(Function):
    """z = (x - mean) / std with the batch's statistics a channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float, eps: float
    ) -> Tensor:
        z, mean, scale = torch.native_batch_norm(x, None, None, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, mean, scale)
        ctx.eps = eps
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _StandardiseGradient.apply(gradient, *ctx.saved_tensors, ctx.eps), None, None, None, None


class _StandardiseGradient(Function):
    """u = s P g, where s = 1 / std and P g = g - mean(g) - z mean(g z), means being over pixels.

    P is symmetric. So for v, the gradient with respect to u, that with respect to g is w = s P v, and

        d(v . u) / dx = -s (mean(g z) w + mean(v z) u + mean(v u) z),

    because ds / dx = -s^2 z / n and, along any v, (dz / dx) v = s P v.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, mean: Tensor, scale: Tensor, eps: float) -> Tensor:
        u, g_dot_z = _project(g, x, mean, scale, eps)
        ctx.save_for_backward(x, mean, scale, u, g_dot_z)
        ctx.eps = eps
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, u, g_dot_z = ctx.saved_tensors
        w, v_dot_z = _project(v, x, mean, scale, ctx.eps)
        shrink = -scale * x.shape[1] / x.numel()
        gradient = u * _per_channel(shrink * v_dot_z, x)
        gradient = gradient.addcmul_(w, _per_channel(shrink * g_dot_z, x))
        towards_z = shrink * scale * (v * u).sum(_PIXELS)
        gradient = gradient.addcmul_(x - _per_channel(mean, x), _per_channel(towards_z, x))
        return w, gradient, None, None, None


def _project(g: Tensor, x: Tensor, mean: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return s P g, [B, C, H, W], and the sum of g z over pixels, [C]: the gradient kernel of batch-norm has both."""
    u, g_dot_z, _ = torch.ops.aten.native_batch_norm_backward(
        g, x, None, None, None, mean, scale, True, eps, [True, True, False]
    )
    return u, g_dot_z


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] -> [1, C, H, W] in memory: spread over whole images, a product with it runs at full vector length."""
    spread = values[:, None, None].expand(1, *like.shape[1:])
    return spread.contiguous(memory_format=torch.channels_last)
