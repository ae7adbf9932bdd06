"""Losses that several methods share: pure functions of embeddings."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    z = F.normalize(at_least_float32(torch.cat([z1, z2])), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(similarity, partner)


def negative_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return -cos(a_i, b_i) for each row: [N, D], [N, D] -> [N].

    Source: DeACL (Zhang et al., ECCV 2022), the "CosSim loss" of section 3.3.
    """
    return -F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=1)


def off_diagonal(matrix: Tensor) -> Tensor:
    """Return ``matrix`` [D, D] with zeros on its diagonal, through which no gradient passes."""
    return matrix - matrix.diagonal().diag()


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32 where autocast left it in half precision; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
