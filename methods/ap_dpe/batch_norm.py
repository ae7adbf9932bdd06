"""Batch-norm that is quick to differentiate twice: the diversity term does so in every step of the attack."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from bench.parallel import devices

_PIXELS = (0, 2, 3)
"""The dimensions of [B, C, H, W] that batch statistics are taken over."""
_CACHE_LINE = 16
"""Floats in a cache line: with fewer channels, the sums of the framework's threads share a line, and two threads are
slower than one."""
_SUMS_ONLY = [False, True, True]

_gradient_kernel = torch.ops.aten.native_batch_norm_backward


class TwiceDifferentiableBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with its second derivative in closed form; the same numbers, buffers and weights.

    The framework computes that derivative in many small passes over the activations.
    ``perf/second_derivative.py`` measures the difference.
    """

    def __init__(self, like: nn.BatchNorm2d) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, device="meta")
        self.load_state_dict(like.state_dict(), assign=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape; in training mode at least two values a channel are needed.

        Training uses the precision of the weights, also under autocast. On several devices the framework's batch-norm
        computes, whose statistics are those of all of them.
        """
        if not self.training or devices() > 1:
            return super().forward(x)
        x = x.to(self.weight.dtype)
        cast(Tensor, self.num_batches_tracked).add_(1)
        statistics = (self.running_mean, self.running_var, self.momentum, self.eps)
        if not (self.weight.requires_grad or self.bias.requires_grad):
            # In an attack this saves one pass over the activations in each direction.
            return cast(Tensor, _Normalise.apply(x, self.weight, self.bias, *statistics))
        standardised = _Normalise.apply(x, None, None, *statistics)
        return torch.addcmul(_per_channel(self.bias, x), standardised, _per_channel(self.weight, x))


class _Normalise(Function):
    """y = weight z + bias with z = (x - mean) / std by the batch's statistics a channel; constant weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, *statistics: Any) -> Tensor:
        running_mean, running_var, momentum, ctx.eps = statistics
        y, mean, scale = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, ctx.eps)
        ctx.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _NormaliseGradient.apply(gradient, *ctx.saved_tensors, ctx.eps), *[None] * 6


class _NormaliseGradient(Function):
    """u = a P g with a = weight / std and P g = g - mean(g) - z mean(g z), means being over pixels.

    P is symmetric. So if v is the gradient with respect to u, the gradient with respect to g is w = a P v, and

        d(v . u) / dx = -(mean(g z) w + mean(v z) u + mean(v u) z) / std,

    because d(1 / std) / dx = -z / (n std^2) and, along any v, (dz / dx) v = P v / std.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float
    ) -> Tensor:
        u, g_dot_z = _project(g, x, weight, mean, scale, eps)
        ctx.save_for_backward(x, weight, mean, scale, u, g_dot_z)
        ctx.eps = eps
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, u, g_dot_z = ctx.saved_tensors
        w, v_dot_z = _project(v, x, weight, mean, scale, ctx.eps)
        shrink = -scale * x.shape[1] / x.numel()
        along_z = shrink * scale * (v * u).sum(_PIXELS)
        gradient = torch.addcmul(_per_channel(-mean * along_z, x), x, _per_channel(along_z, x))
        gradient = gradient.addcmul_(u, _per_channel(shrink * v_dot_z, x))
        gradient = gradient.addcmul_(w, _per_channel(shrink * g_dot_z, x))
        return w, gradient, *[None] * 4


def _project(
    g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return a P g, [B, C, H, W], and the sum of g z over pixels, [C]: batch-norm's gradient kernel returns both."""
    channels = x.shape[1]
    fold = _CACHE_LINE // math.gcd(channels, _CACHE_LINE)
    if channels < _CACHE_LINE and x[:, 0].numel() % fold == 0:
        return _project_few_channels(g, x, weight, mean, scale, eps, fold)
    weight = torch.ones_like(mean) if weight is None else weight  # a GPU's kernel returns no sums without weights
    u, g_dot_z, _ = _gradient_kernel(g, x, weight, None, None, mean, scale, True, eps, [True, True, False])
    return u, g_dot_z


def _project_few_channels(
    g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, eps: float, fold: int
) -> tuple[Tensor, Tensor]:
    """As ``_project``, for channels that do not fill a cache line: the kernel treats ``fold`` pixels as one.

    The kernel then returns sums over every fold-th pixel; they are added, and P g is computed from them.
    """
    folded = (*(_fold(t, fold) for t in (g, x)), torch.ones_like(mean).repeat(fold))
    sums = _gradient_kernel(*folded, None, None, mean.repeat(fold), scale.repeat(fold), True, eps, _SUMS_ONLY)
    g_dot_z, g_sum = (part.view(fold, -1).sum(0) for part in sums[1:])
    a = scale if weight is None else scale * weight
    share = x.shape[1] / x.numel()
    along_z = -a * scale * share * g_dot_z
    u = torch.addcmul(_per_channel(-a * share * g_sum - mean * along_z, x), x, _per_channel(along_z, x))
    return u.addcmul_(g, _per_channel(a, x)), g_dot_z


def _fold(x: Tensor, pixels: int) -> Tensor:
    """[B, C, H, W] -> [B H W / pixels, pixels C], without a copy where channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, pixels * x.shape[1])


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] -> [1, C, H, W] in memory: spread over whole images, a product with it runs at full vector length."""
    spread = values[:, None, None].expand(1, *like.shape[1:])
    return spread.contiguous(memory_format=torch.channels_last)
