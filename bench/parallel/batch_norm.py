"""Batch-norm whose statistics are those of the whole batch, of which each device holds a share.

The passes over the images are the kernels of PyTorch's own batch-norm; between them the devices exchange two numbers
a channel. PyTorch's ``SyncBatchNorm`` does the same on GPUs alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class WholeBatchNorm(TorchFunctionMode):
    """Makes batch-norm in training, within this block, take its statistics over the shares of all devices.

    Args:
        weights: the part of the batch that each device has.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self._weights = weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        y, mean, var = _Normalised.apply(x, weight, bias, self._weights, eps)
        if running_mean is not None and running_var is not None:
            count = x.numel() / x.shape[1] / self._weights[dist.get_rank()]
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
        whole: Tensor = y
        return whole


class _Normalised(Function):
    """Share to share: (y, mean, var), with the mean and the biased variance [C] of the whole batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, weights: Sequence[float], eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _statistics(x, weights)
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.weights, ctx.eps = weights, eps
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, var = ctx.saved_tensors
        share = ctx.weights[dist.get_rank()]
        if torch.is_grad_enabled():  # second derivatives will follow, which PyTorch's kernels do not have here
            inputs = [each for each in (x, weight, bias) if each is not None and each.requires_grad]
            y = _differentiable(x, weight, bias, share, ctx.eps)
            found = iter(torch.autograd.grad(y, inputs, gradient, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None
        factor = torch.ones_like(var) if weight is None else weight  # CUDA's kernel gives no sums without one
        # As if mean and variance were constants; and two sums a channel, which say how they move.
        own, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, factor, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([by_weight, by_bias])
        dist.all_reduce(sums)
        slope, level = sums * (-share * x.shape[1] / x.numel()) * (var + ctx.eps).rsqrt() * factor
        own += F.batch_norm(x, mean, var, slope, level, eps=ctx.eps)
        return own, by_weight if weight is not None else None, by_bias if bias is not None else None, None, None


def _statistics(x: Tensor, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance [C] of the whole batch, of which ``x`` is this device's share."""
    # Given statistics to replace, in full precision, the kernel returns its own in full precision too.
    kept = x.new_zeros(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    own = torch.stack(torch.batch_norm_update_stats(x, kept[0], kept[1], 1.0))
    shares = [torch.empty_like(own) for _ in weights]
    dist.all_gather(shares, own)
    means, variances = torch.stack(shares, 1)
    weight = own.new_tensor(weights)[:, None]
    mean = (weight * means).sum(0)
    return mean, (weight * (variances + (means - mean).square())).sum(0)


def _differentiable(x: Tensor, weight: Tensor | None, bias: Tensor | None, share: float, eps: float) -> Tensor:
    """Return the same y as :class:`_Normalised`, in operations that can be differentiated any number of times."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    dims = [0, *range(2, x.dim())]
    mean: Tensor = _Sum.apply(share * wide.mean(dims, keepdim=True))
    centred = wide - mean
    var: Tensor = _Sum.apply(share * centred.square().mean(dims, keepdim=True))
    y = centred * (var + eps).rsqrt()
    if weight is not None:
        y = y * weight.view(mean.shape)
    return (y if bias is None else y + bias.view(mean.shape)).to(x.dtype)


class _Sum(Function):
    """The sum of a share over all devices, as a share."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient)
        return total
