"""The copy of a classifier that attacks differentiate, in the precision of the recipe."""

import torch
from torch import Tensor, nn

from bench.device import autocast
from bench.nn import Classifier
from bench.recipe import Precision


def attacked_copy(classifier: Classifier, precision: Precision) -> nn.Module:
    """Return a frozen copy of ``classifier`` for attacks that compute their gradients in ``precision``."""
    prepared = classifier.prepared()
    return prepared if precision == "fp32" else _LowGradients(prepared, precision)


class _LowGradients(nn.Module):
    """Computes in low precision where gradients are enabled, and in float32 where they are not.

    So a library that attacks and judges through one model, as AutoAttack does, judges in float32.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision = precision

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes], float32."""
        with autocast(images.device, self._precision if torch.is_grad_enabled() else "fp32"):
            logits: Tensor = self.model(images)
        return logits.float()
