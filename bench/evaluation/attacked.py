"""The copy of a classifier that attacks differentiate, in the precision of the recipe."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.device import autocast
from bench.nn import Classifier
from bench.recipe import Precision


def attacked_copy(classifier: Classifier, precision: Precision) -> nn.Module:
    """Return a frozen copy of ``classifier`` for attacks that compute their gradients in ``precision``."""
    prepared = classifier.prepared()
    return prepared if precision == "fp32" else _LowGradients(prepared, precision).eval()


class _LowGradients(nn.Module):
    """Computes in low precision where gradients are enabled, and in float32 where they are not.

    So a library that attacks and judges through one model, as AutoAttack does, judges in float32.
    """

    def __init__(self, model: Classifier, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision = precision

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes], float32."""
        return self._computed(self.model, images)

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the encoder's features [B, D], float32."""
        return self._computed(self.model.features, images)

    def _computed(self, compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with autocast(images.device, self._precision if torch.is_grad_enabled() else "fp32"):
            return compute(images).float()
