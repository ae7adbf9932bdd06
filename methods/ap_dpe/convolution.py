"""Convolution that is quick to differentiate twice: the diversity term does so in every step of the attack."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bench.nn import stride_left

_Pair = tuple[int, int]
_OF_INPUT, _OF_WEIGHT = [True, False, False], [False, True, False]


class TwiceDifferentiableConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose second derivative needs as few convolutions as possible; the same numbers and weights.

    The framework also computes the derivative for frozen weights, as a convolution whose kernel is as large as the
    image. ``perf/second_derivative.py`` measures the difference.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        channels, kernel = (like.in_channels, like.out_channels), cast(_Pair, like.kernel_size)
        geometry = cast(_Pair, like.stride), cast(_Pair, like.padding)
        super().__init__(*channels, kernel, *geometry, bias=like.bias is not None, device="meta")
        self.load_state_dict(like.state_dict(), assign=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W'], as ``nn.Conv2d``."""
        x, stride = stride_left(self, x)
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = _Convolve.apply(x, weight, stride, self.padding)
        return out if self.bias is None else out + self.bias[:, None, None]


class _Convolve(Function):
    """y = W * x. The gradient of g . y for x is W^T * g, and for W it is the correlation of x and g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_input = _InputGradient.apply(g, weight, x.detach(), *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_weight = _gradients(g, x, weight, ctx.geometry, _OF_WEIGHT)[1] if ctx.needs_input_grad[1] else None
        return of_input, of_weight, None, None


class _InputGradient(Function):
    """u = W^T * g, for inputs shaped like x. It is bilinear, so v . u = g . (W * v), differentiated like _Convolve."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, x: Tensor, *geometry: Any) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.geometry = geometry
        return _gradients(g, x, weight, geometry, _OF_INPUT)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        of_g = F.conv2d(v, weight, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_weight = _gradients(g, v, weight, ctx.geometry, _OF_WEIGHT)[1] if ctx.needs_input_grad[1] else None
        return of_g, of_weight, *[None] * 3


def _gradients(g: Tensor, x: Tensor, weight: Tensor, geometry: Any, which: list[bool]) -> Sequence[Tensor]:
    """Return the gradients of g . (W * x) for x, W and a bias, those selected by ``which``."""
    gradients: Sequence[Tensor] = torch.ops.aten.convolution_backward(
        g, x, weight, None, *geometry, (1, 1), False, (0, 0), 1, which
    )
    return gradients
