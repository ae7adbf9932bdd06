"""The work of an encoder, shared out over the devices of a run; every result is that of one device.

Tensors are of two kinds. *Whole* ones are the same on every device: images, features, losses, weights. *Shares* differ:
what a device computes between :class:`_Share` and :class:`_Whole`. The gradient of a whole tensor is its gradient, on
every device. The gradient of a share is kept times the number of devices. Then the mean over the devices is the
gradient of a weight in both cases: of an encoder, where each device knows the part of its own images, and of a head,
which every device passes all features through. :func:`synchronise` takes that mean.

Each backward pass below is made of the same functions again, so second derivatives are right too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.parallel.processes import devices
from bench.recipe import BatchNormScope

_scope: BatchNormScope | None = None
"""Whether the work of encoders is shared out at present, and how their batch-norm computes."""


@contextmanager
def sharing(batch_norm: BatchNormScope = "batch") -> Iterator[None]:
    """Share out the work of encoders in this block, which all devices must run with the same values."""
    with _set(batch_norm if devices() > 1 else None):
        yield


def over_devices(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return ``network(images)``: [B, ...] -> [B, ...], computed by all devices within :func:`sharing`.

    Args:
        network: treats every image by itself, but for batch-norm.
        images: the same on all devices.
    """
    scope = _scope
    if scope is None:  # an export comes by here, whose graph must not be of one batch size: len() would fix it
        return network(images)
    total = len(images)
    if total < devices():  # too few to share: every device computes all of them
        with _set(None):
            return network(images)
    with _set(None):
        share = _Share.apply(images)
        if scope == "device":
            own: Tensor = network(share)
        else:
            with _WholeBatchNorm([size / total for size in _sizes(total)]):
                own = network(share)
    whole: Tensor = _Whole.apply(own, total)
    return whole


def synchronise(module: nn.Module) -> None:
    """Replace each gradient of ``module`` by its mean over the devices; called after each backward pass."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if devices() == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= devices()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@contextmanager
def _set(scope: BatchNormScope | None) -> Iterator[None]:
    global _scope
    before, _scope = _scope, scope
    try:
        yield
    finally:
        _scope = before


def _sizes(total: int) -> list[int]:
    """Return how many of ``total`` images each device gets; the first ones get one more where they do not divide."""
    return [len(part) for part in torch.arange(total).tensor_split(devices())]


class _Share(Function):
    """Whole to share: the images of this device."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        ctx.total = len(whole)
        return whole.tensor_split(devices())[dist.get_rank()].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole: Tensor = _Whole.apply(gradient, ctx.total)
        return whole / devices()


class _Whole(Function):
    """Share to whole: the rows of all devices, in the order of the batch."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, total: int) -> Tensor:
        sizes = _sizes(total)
        padded = share.new_zeros(sizes[0], *share.shape[1:])
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        share: Tensor = _Share.apply(gradient)
        return share * devices(), None


class _Sum(Function):
    """The sum of a share over all devices, for use in the computations of shares."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient)
        return total


class _WholeBatchNorm(TorchFunctionMode):
    """Makes batch-norm in training, within this block, take its statistics over the shares of all devices.

    Args:
        weights: the part of the batch that each device has.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self._weight = weights[dist.get_rank()]

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
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.dim())]
        mean: Tensor = _Sum.apply(self._weight * wide.mean(dims))
        centred = wide - _per_channel(mean, x)
        var: Tensor = _Sum.apply(self._weight * centred.square().mean(dims))
        if running_mean is not None and running_var is not None:
            count = x.numel() / x.shape[1] / self._weight
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            running_var.lerp_((var.detach() * (count / (count - 1))).to(running_var.dtype), momentum)
        scale = (var + eps).rsqrt()
        y = centred * _per_channel(scale if weight is None else scale * weight, x)
        return (y if bias is None else y + _per_channel(bias, x)).to(x.dtype)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...]: as many dimensions as ``like``."""
    return values.view(1, -1, *[1] * (like.dim() - 2))
