"""Layer-norm that is quick to differentiate twice: the diversity term does so in every step of the attack."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class TwiceDifferentiableLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last dimension with its second derivative in closed form; the same numbers and weights.

    The framework computes that derivative in about twenty operations, each too small to use the machine well.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> the same shape, in the precision of the weights, also under autocast."""
        z: Tensor = _Standardise.apply(x.to(self.weight.dtype), self.eps)
        return torch.addcmul(self.bias, z, self.weight)


class _Standardise(Function):
    """z = (x - mean) / std, mean and std being those of a row of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        z, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, z.detach(), mean, scale)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _StandardiseGradient.apply(gradient, *ctx.saved_tensors), None


class _StandardiseGradient(Function):
    """u = P g / std with P g = g - mean(g) - z mean(g z), means being over a row.

    P is symmetric. So if v is the gradient with respect to u, the gradient with respect to g is w = P v / std, and

        d(v . u) / dx = -(mean(g z) w + mean(v z) u + mean(v u) z) / std,

    as in :mod:`methods.ap_dpe.batch_norm`.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        u = _project(g, x, mean, scale)
        ctx.save_for_backward(g, x, z, mean, scale, u)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, x, z, mean, scale, u = ctx.saved_tensors
        w = _project(v, x, mean, scale)
        terms = ((g, z, w), (v, z, u), (v, u, z))
        gradient = sum((a * b).mean(-1, keepdim=True) * along for a, b, along in terms)
        return w, gradient.mul_(-scale), *[None] * 3


def _project(g: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return P g / std: layer-norm's gradient kernel."""
    u, _, _ = torch.ops.aten.native_layer_norm_backward(
        g, x, x.shape[-1:], mean, scale, None, None, [True, False, False]
    )
    projected: Tensor = u
    return projected
