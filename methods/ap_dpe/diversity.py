"""The diversity term: how different the pretext tasks' attacks on the same image are."""

from collections.abc import Sequence

import torch
from torch import Tensor

_JITTER = 1e-5


def log_det(gradients: Sequence[Tensor]) -> Tensor:
    """Return log det(G^T G + 1e-5 I) for each image, G's columns being the tasks' unit gradients.

    For three tasks it lies between -21.9 (all parallel) and about 0 (orthogonal).

    Args:
        gradients: one tensor [B, ...] per task.

    Returns:
        float64 [B]: in float32 the determinant of near-parallel gradients can round to zero or below.

    Source: VITA-Group/Adv-SS-Pretraining at 4ffbebe, ``pretraining/attack_algo_ensemble.py``.
    """
    rows = torch.stack([gradient.flatten(1) for gradient in gradients], dim=1).double()
    # Lengths divide the few products, not the many rows.
    length = torch.linalg.vector_norm(rows, dim=2) + 1e-10
    gram = rows @ rows.mT / (length[:, :, None] * length[:, None, :])
    gram = gram + _JITTER * torch.eye(len(gradients), dtype=rows.dtype, device=rows.device)
    value: Tensor = torch.linalg.slogdet(gram).logabsdet
    return value


def diversity(losses: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Return ``log_det`` of the tasks' input gradients, differentiable once more: float64 [B].

    Args:
        losses: each task's loss of each image, [B].
        inputs: the images that each was computed from, [B, C, H, W], requiring gradients.
    """
    # Gradients of the batch mean, as in the authors' code: their scale matters near the guard of the norm.
    pairs = zip(losses, inputs, strict=True)
    return log_det([torch.autograd.grad(loss.mean(), x, create_graph=True)[0] for loss, x in pairs])
