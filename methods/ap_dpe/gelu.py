"""GELU that is quick to differentiate twice: the diversity term does so in every step of the attack."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_FORM = "tanh"
_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _SLOPE


def gelu(x: Tensor) -> Tensor:
    """Return the tanh form of GELU; the framework's own has a slow second derivative.

    It is x s(k) with k = x (a + b x^2), s the sigmoid, a = 2 sqrt(2 / pi) and b = 0.044715 a.
    """
    y: Tensor = _Gelu.apply(x)
    return y


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x, approximate=_FORM)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        of_x: Tensor = _GeluGradient.apply(g, *ctx.saved_tensors)
        return of_x


class _GeluGradient(Function):
    """g y'(x), whose own gradients are v y'(x) and v g y''(x)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        of_x: Tensor = torch.ops.aten.gelu_backward(g, x, approximate=_FORM)
        return of_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(v, x, approximate=_FORM), _second(x).mul_(v).mul_(g)


def _second(x: Tensor) -> Tensor:
    """Return y'' = s' (2 k' + x (k'' + (1 - 2 s) k'^2)), where k' = a + 3 b x^2, x k'' = 6 b x^2, s' = s (1 - s)."""
    square = x * x
    s = torch.sigmoid(x * (_SLOPE + _CUBIC * square))
    k1 = _SLOPE + 3 * _CUBIC * square
    return (2 * k1 + 6 * _CUBIC * square + x * (1 - 2 * s) * k1 * k1).mul_(s).mul_(1 - s)
