"""How far two answers to the same images are apart, in a unit that does not depend on the scale of the logits."""

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-3
"""The share of the logits' spread that rounding may explain: sums of thousands of float32 products in another order
differ by 1e-6 to 1e-5 of it, and with TF32, in which a GPU may compute them, by up to 1e-3."""


class Agreement(NamedTuple):
    """Two answers to the same images, compared."""

    difference: float
    """The largest difference of two logits, as a share of the spread; infinite where one is not finite."""
    changed: Tensor
    """bool [B]: images whose predicted class differs."""
    margin: Tensor
    """float64 [B]: how far the highest of the first logits is above the second highest, as a share of the spread."""

    @property
    def rounding(self) -> bool:
        """Whether rounding explains the difference."""
        return self.difference <= ROUNDING


def agreement(first: Tensor, second: Tensor) -> Agreement:
    """Compare the logits [B, classes] of two passes over the same images."""
    a, b = first.detach().double().cpu(), second.detach().double().cpu()
    scale = max(spread(a), torch.finfo(torch.float64).tiny)
    top = a.topk(min(2, a.shape[1]), dim=1).values
    gap = (a - b).abs().max().item() / scale
    return Agreement(gap if gap == gap else torch.inf, a.argmax(1) != b.argmax(1), (top[:, 0] - top[:, -1]) / scale)


def spread(logits: Tensor) -> float:
    """Return the median over images of the highest logit minus the lowest: [B, classes] -> one number."""
    return float((logits.amax(1) - logits.amin(1)).double().median())
