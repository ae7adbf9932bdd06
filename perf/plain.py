"""Our networks as a plain implementation has them, with the same weights: the peers' side of a comparison."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.nn import Classifier, Encoder, StridedConv2d

_NARROWEST = 16
"""Channels; see :func:`bench.nn.stride_left`."""


def plain(network: Encoder | Classifier) -> nn.Module:
    """Return a copy made of the framework's own layers, with its own memory format and images as they come.

    Ours converts images to channels-last, and guards its strided convolutions. Both compute the same function.

    Raises SystemExit for a width below 16: the framework's own strided convolutions then write outside their memory.
    """
    encoder, heads = (network, ()) if isinstance(network, Encoder) else (network.encoder, (network.head,))
    copy = nn.Sequential(*map(deepcopy, (encoder.normalise, encoder.backbone, *heads)))
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            if isinstance(child, StridedConv2d):
                if child.in_channels < _NARROWEST:
                    raise SystemExit(f"Plain networks need a width of {_NARROWEST} or more, not {child.in_channels}.")
                setattr(parent, name, _framework_layer(child))
    return copy.to(memory_format=torch.contiguous_format).requires_grad_(True)


def channels_last(network: nn.Module) -> nn.Module:
    """Return a copy of a plain ``network`` whose weights and images are channels-last."""
    return _ChannelsLast(deepcopy(network))


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return out


def _framework_layer(conv: StridedConv2d) -> nn.Conv2d:
    layer = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # a pair, which the class declares as a tuple of any length
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    layer.load_state_dict(conv.state_dict())
    return layer.train(conv.training)
