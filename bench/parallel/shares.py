"""The work of encoders and of strong views, shared out over the devices of a run; every result is that of one device.

Tensors are of two kinds. *Whole* ones are the same on every device: images, features, losses, weights. *Shares* differ:
what a device computes between :class:`_Share` and :class:`_Whole`. The gradient of a whole tensor is its gradient, on
every device. The gradient of a share is kept times the number of devices. Then the mean over the devices is the
gradient of a weight in both cases: of an encoder, where each device knows the part of its own images, and of a head,
which every device passes all features through. :func:`synchronise` takes that mean.

Each backward pass below is made of the same functions again, so second derivatives are right too; batch-norm over all
devices has none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function
from torch.utils._pytree import tree_map_only

from bench.parallel.batch_norm import WholeBatchNorm
from bench.parallel.processes import devices
from bench.recipe import BatchNormScope

_scope: BatchNormScope | None = None
"""Whether the work of encoders is shared out at present, and how their batch-norm computes."""


@contextmanager
def sharing(batch_norm: BatchNormScope = "batch") -> Iterator[None]:
    """Share out the work of encoders in this block, which all devices must run with the same values."""
    with _set(batch_norm if devices() > 1 else None):
        yield


def over_devices(network: Callable[..., Tensor], images: Tensor, *given: Any) -> Tensor:
    """Return ``network(images, *given)``: [B, ...] -> [B, ...], computed by all devices within :func:`sharing`.

    Args:
        network: treats every image by itself, but for batch-norm.
        images: the same on all devices.
        given: tensors with a row for each image, or nested tuples of such; no gradient flows to them.
    """
    scope = _scope
    if scope is None:  # an export comes by here, whose graph must not be of one batch size: len() would fix it
        return network(images, *given)
    total = len(images)
    if total < devices():  # too few to share: every device computes all of them
        with _set(None):
            return network(images, *given)
    with _set(None):
        share = _Share.apply(images)
        given = tree_map_only(Tensor, _own_rows, given)
        if scope == "device":
            own: Tensor = network(share, *given)
        else:
            with WholeBatchNorm([size / total for size in _sizes(total)]):
                own = network(share, *given)
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


def _own_rows(whole: Tensor) -> Tensor:
    return whole.tensor_split(devices())[dist.get_rank()]


class _Share(Function):
    """Whole to share: the images of this device."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        ctx.total = len(whole)
        return _own_rows(whole).contiguous()

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
