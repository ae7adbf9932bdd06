"""The network of an entry as a backbone, so that a released classifier is built, saved and checked like an encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.nn import BackboneFactory
from bench.robustbench import Entry, find_entry
from bench.zoo.released.weights import new_network, released_network


class ReleasedBackbone(nn.Module):
    """A whole classifier: its features are its logits."""

    memory_format = torch.contiguous_format
    """Networks of the zoo reshape with ``view``, which fails where channels come last."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = classes

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] in [0, 1] -> logits [B, classes]."""
        logits: Tensor = self.network(images)
        return logits


def released_backbone(name: str) -> BackboneFactory:
    """Return what builds the network of the entry ``name``, with random weights; raises BenchError."""
    entry = find_entry(name)

    def build(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, **options: Any) -> nn.Module:
        return ReleasedBackbone(new_network(entry), entry.classes)

    return build


def released_tensors(entry: Entry, folder: Path, weights: Path | None = None) -> dict[str, Tensor]:
    """Return the weights of ``entry`` by the names of :class:`bench.nn.Encoder` with a :class:`ReleasedBackbone`.

    Arguments and errors are those of :func:`bench.zoo.released.weights.released_network`.
    """
    network = released_network(entry, folder, weights)
    return {f"backbone.network.{name}": tensor for name, tensor in network.state_dict().items()}
