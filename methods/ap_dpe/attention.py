"""Selfie's attention pooling: from the visible patches to queries for the missing ones."""

import math

import torch
from torch import Tensor, nn

from methods.ap_dpe.gelu import gelu
from methods.ap_dpe.grid import SIDE
from methods.ap_dpe.layer_norm import TwiceDifferentiableLayerNorm

_LAYERS = 13
_DROPOUT = 0.1
_HEAD_DIM = 64


def dropout(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Zero a tenth of ``x`` at random and scale up the rest; without a generator, return ``x``.

    The framework's own dropout draws from the global state, which a resumed run could not repeat.
    """
    if generator is None:
        return x
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= _DROPOUT
    # One factor in x's dtype: both derivatives multiply by it again.
    return x * kept.to(x.dtype).div_(1 - _DROPOUT)


class AttentionLayer(nn.Module):
    """Self-attention, then a feed-forward net of twice the width; each with a residual and LayerNorm after it.

    Attention is written out: fused kernels have no second derivative, which the diversity term needs. Scores are
    kept as keys x queries, so that the softmax runs across rows: along such short rows it is several times
    slower.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, channels // heads
        inner = heads * self.head_dim
        self.query_key_value = nn.Linear(channels, 3 * inner)
        nn.init.normal_(self.query_key_value.weight, std=math.sqrt(2 / (channels + self.head_dim)))
        self.output = nn.Linear(inner, channels)
        nn.init.xavier_normal_(self.output.weight)
        self.norm1 = TwiceDifferentiableLayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.contract = nn.Linear(2 * channels, channels)
        self.norm2 = TwiceDifferentiableLayerNorm(channels)

    def forward(self, x: Tensor, generator: torch.Generator | None, asking: int | None = None) -> Tensor:
        """[B, T, channels] -> [B, asking, channels], the output of the first ``asking`` tokens; None: of all.

        ``generator`` draws the dropout; None: no dropout.
        """
        query, key, value = self._split(self.query_key_value(x))
        query, x = query[:, :asking], x[:, :asking]
        weights = (key / math.sqrt(self.head_dim) @ query.mT).softmax(dim=-2)
        mixed = dropout(weights, generator).mT @ value
        mixed = mixed.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        x = self.norm1(x + dropout(self.output(mixed), generator))
        forward = self.contract(gelu(self.expand(x)))
        out: Tensor = self.norm2(x + dropout(forward, generator))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, 3 * heads * head_dim] -> [3, B * heads, T, head_dim]: queries, keys and values."""
        parts: Tensor = x.unflatten(2, (3, self.heads, self.head_dim))
        return parts.permute(2, 0, 3, 1, 4).flatten(1, 2)


class AttentionPooling(nn.Module):
    """Twelve visible patches -> one query for each missing cell of the grid.

    A learned token u0 goes through 13 layers together with the patches, which carry no positions. From its output u,
    the query for cell p is q_p = u + R[p div 4] + C[p mod 4].

    Args:
        channels: d, features of a patch. Heads are 64 wide as published, but never fewer than four.

    Source: Selfie (Trinh et al., arXiv 1906.02940) as in VITA-Group/Adv-SS-Pretraining at 4ffbebe,
    ``pretraining/attention_pooling``: d = 1024, 16 heads, 109 million parameters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = max(4, channels // _HEAD_DIM)
        self.token = nn.Parameter(torch.zeros(1, 1, channels))
        self.rows = nn.Parameter(torch.randn(SIDE, channels))
        self.columns = nn.Parameter(torch.zeros(SIDE, channels))
        self.layers = nn.ModuleList(AttentionLayer(channels, heads) for _ in range(_LAYERS))

    def forward(self, visible: Tensor, missing: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the queries of the missing cells.

        Args:
            visible: features of the visible patches, [B, V, channels].
            missing: int64 [M], row-major positions in the grid.
            generator: draws the dropout; None: no dropout.

        Returns:
            [B, M, channels].
        """
        x = torch.cat([self.token.expand(len(visible), -1, -1), visible], dim=1)
        *layers, last = self.layers
        for layer in layers:
            x = layer(x, generator)
        answer: Tensor = last(x, generator, asking=1)
        return answer + self.rows[missing // SIDE] + self.columns[missing % SIDE]
