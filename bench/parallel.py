"""Where devices that share a run would meet: the only three places. Today there is one device, and nothing to do.

The engine splits and synchronises, losses that compare the images of a batch gather: none of them, and no method, knows
how many devices there are.
"""

from torch import Tensor, nn


def share(index: Tensor) -> Tensor:
    """Return the part of a batch that this device works on: positions int64 [B] -> [B of this device]."""
    return index


def gathered(features: Tensor) -> Tensor:
    """Return the rows of all devices, in the order of the whole batch, with gradients to each: [B, ...] -> [B, ...]."""
    return features


def synchronise(module: nn.Module) -> None:
    """Make the gradients of ``module`` those of the whole batch; called after each backward pass."""
