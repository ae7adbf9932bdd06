"""The only three places where several devices of one run would exchange data. Today there is one device.

The engine calls ``share`` and ``synchronise``; losses that compare the images of a batch call ``gathered``. No other
code depends on the number of devices.
"""

from torch import Tensor, nn


def share(index: Tensor) -> Tensor:
    """Return the part of a batch that this device works on: positions int64 [B] -> [B of this device]."""
    return index


def gathered(features: Tensor) -> Tensor:
    """Return the rows of all devices, in the order of the whole batch, with gradients to each: [B, ...] -> [B, ...]."""
    return features


def synchronise(module: nn.Module) -> None:
    """Combine the gradients of ``module`` over the whole batch; called after each backward pass."""
