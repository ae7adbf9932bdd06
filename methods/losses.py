"""Losses that several methods share, pure functions of embeddings, and the precision that all losses have."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F

_P = ParamSpec("_P")


def in_float32(loss: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Decorate a function of tensors so that autocast does not lower it: half precision is raised to float32 first.

    Without it a product of float32 embeddings would be rounded to the 8 bits of bf16: similarities near 1, whose
    differences are the loss, would be 1 or 0.996. float64 stays.
    """

    @wraps(loss)
    def exact(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        raised = [_raised(value) for value in args]
        first = raised[0] if isinstance(raised[0], Tensor) else raised[0][0]
        with torch.autocast(first.device.type, enabled=False):
            return loss(*raised, **kwargs)

    return exact


def _raised(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_raised(one) for one in value]
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


@in_float32
def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of two views' embeddings.

    For each of the 2N embeddings the partner is the one positive and the 2N - 2 others are negatives:
    mean over i of -log(exp(s_ip / T) / sum over j != i of exp(s_ij / T)), with s the cosine similarity.

    Args:
        z1: [N, D], embeddings of the first views.
        z2: [N, D], embeddings of the second views, in the same order.
        temperature: T > 0.

    Source: SimCLR (Chen et al., ICML 2020), equation 1 and algorithm 1.
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(similarity, partner)


@in_float32
def negative_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return -cos(a_i, b_i) for each row: [N, D], [N, D] -> [N].

    Source: DeACL (Zhang et al., ECCV 2022), the "CosSim loss" of section 3.3.
    """
    return -F.cosine_similarity(a, b, dim=1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return ``matrix`` [D, D] with zeros on its diagonal, through which no gradient passes."""
    return matrix - matrix.diagonal().diag()
