"""Heads: the small networks that pre-training puts on an encoder and evaluation discards."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from bench.nn.copying import frozen_copy
from bench.nn.encoder import Encoder


def mlp(sizes: Sequence[int], *, batch_norm: bool = False) -> nn.Sequential:
    """Return Linear layers of the given ``sizes`` with ReLU (and BatchNorm1d before it) between them.

    The keys are those of solo-learn's projectors: 0, 2 without batch-norm; 0, 1, 3 with it.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        norm = [nn.BatchNorm1d(after)] if batch_norm else []
        layers += [nn.Linear(before, after), *norm, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Classifier(nn.Module):
    """An encoder and a linear head: [B, C, H, W] in [0, 1] -> logits [B, classes]."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``images``."""
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return the features of ``images``: [B, C, H, W] -> [B, feature_dim]."""
        features: Tensor = self.encoder(images)
        return features

    def prepared(self) -> "Classifier":
        """Return a frozen eval-mode copy that is cheaper to attack; see :meth:`Encoder.prepared`."""
        return Classifier(self.encoder.prepared(), frozen_copy(self.head)).eval()
