"""Encoders that share a trunk, that is everything up to layer 3 including batch-norm, with different ends."""

from copy import deepcopy
from typing import cast

from torch import Tensor, nn

from bench.errors import BenchError
from bench.nn import Encoder, ResNet

_TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3")


class MeanOf(nn.Module):
    """The mean of the outputs of several modules with the same output shape."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the parts."""
        total: Tensor = sum(part(x) for part in self.parts) / len(self.parts)
        return total


def with_layer4(trunk: Encoder, layer4: nn.Module) -> Encoder:
    """Return an encoder of the modules of ``trunk`` up to layer 3, not copied, and then ``layer4``.

    All tasks, clean and attacked, patches and whole images, share one set of batch-norm statistics, as in the
    authors' code.
    """
    return _ended(trunk, layer4, trunk.feature_dim)


def without_layer4(trunk: Encoder) -> Encoder:
    """Return an encoder that shares ``trunk`` up to layer 3 and ends there: half as many features, pooled."""
    return _ended(trunk, nn.Identity(), trunk.feature_dim // 2)


def _ended(trunk: Encoder, layer4: nn.Module, feature_dim: int) -> Encoder:
    backbone = resnet_of(trunk)
    shared = {id(part): part for part in (getattr(backbone, name) for name in _TRUNK)}
    # deepcopy treats objects in its memo as already copied.
    ended = deepcopy(backbone, {**shared, id(backbone.layer4): layer4})
    ended.feature_dim = feature_dim
    return Encoder(ended, trunk.normalise)


def resnet_of(encoder: Encoder) -> ResNet:
    """Return the backbone, or raise BenchError if it does not consist of a stem and four stages."""
    if not all(hasattr(encoder.backbone, part) for part in (*_TRUNK, "layer4")):
        raise BenchError(
            f"AP-DPE splits its encoder after layer3, so it needs a ResNet of the bench, with "
            f"{', '.join(_TRUNK)} and layer4. Choose --encoder resnet18, resnet34 or resnet50, or preact-resnet18, "
            "preact-resnet34 or preact-resnet50; the last is the paper's."
        )
    return cast(ResNet, encoder.backbone)
