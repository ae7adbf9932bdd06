"""Momentum networks: a copy that follows another network as the moving average of its weights."""

import math
from copy import deepcopy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

Rate = Annotated[float, Field(ge=0, le=1)]
"""Share of its old weights that a momentum network keeps at an update."""


class MomentumNetwork(nn.Module):
    """A copy of ``online`` without gradients, whose parameters follow: m <- tau m + (1 - tau) p.

    Update k of K (from 0) has tau_k = tau_K - (tau_K - tau_0) (cos(pi k / K) + 1) / 2.

    Only parameters follow. The copy has its own batch-norm buffers: it stays in train mode, normalises by its
    batch and keeps running statistics of its own inputs.

    Args:
        online: the network to copy; later calls of :meth:`follow` take a network of the same layout.
        tau: tau_0 and tau_K.
        updates: K, the updates of the whole training.

    Source: BYOL (Grill et al., NeurIPS 2020), section 3.1; ``solo/utils/momentum.py`` of solo-learn at fca55e3.
    """

    updates_done: Tensor

    def __init__(self, online: nn.Module, *, tau: tuple[Rate, Rate], updates: int) -> None:
        super().__init__()
        self.network = deepcopy(online).requires_grad_(False)
        self._tau, self._updates = tau, updates
        self.register_buffer("updates_done", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the copy's output; no gradient."""
        output: Tensor = self.network(images)
        return output

    @torch.no_grad()
    def follow(self, online: nn.Module) -> None:
        """Move towards the parameters of ``online``, once; this never waits for the device."""
        ours: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(online.parameters())
        gaps = list(torch._foreach_sub(theirs, ours))
        torch._foreach_mul_(gaps, self._share())
        torch._foreach_add_(ours, gaps)
        self.updates_done += 1

    def _share(self) -> Tensor:
        """Return 1 - tau as a scalar on the device. (cos x + 1) / 2 = cos(x / 2)^2 avoids cancellation."""
        first, last = self._tau
        progress = self.updates_done / self._updates
        return (1 - last) + (last - first) * (math.pi / 2 * progress).cos().square()
