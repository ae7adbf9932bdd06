"""What the protocols share: a labelled training stage that ends in a classifier."""

from typing import NamedTuple

import torch
from torch import Tensor

from bench import rng
from bench.data.views import WeakView
from bench.method import Stage
from bench.nn import Classifier, Encoder
from bench.recipe import ProtocolSettings


class Labelled(NamedTuple):
    """A batch of a protocol."""

    images: Tensor
    """Weak views, float [B, C, H, W] in [0, 1]."""
    labels: Tensor
    """int64 [B]."""
    generator: torch.Generator
    """For what is drawn later in the step: the attack's start."""


class ProtocolStage(Stage):
    """A linear classifier on an encoder; subclasses say what is trained, and by which loss.

    Args:
        name: the protocol's name.
        settings: its numbers.
        encoder: what to evaluate; the stage works on it in place.
        labels: int64 [N], of the training images.
        num_classes: C.
        seed: the run's seed, for the classifier's initialisation.
    """

    def __init__(
        self, name: str, settings: ProtocolSettings, encoder: Encoder, labels: Tensor, num_classes: int, seed: int
    ) -> None:
        super().__init__()
        self.name = name
        self.plan: ProtocolSettings = settings
        self.encoder = encoder
        with rng.scoped(seed, "init", name):
            self.head = torch.nn.Linear(encoder.feature_dim, num_classes)
        self.register_buffer("labels", labels, persistent=False)
        self._view = WeakView(flip_prob=settings.flip_prob)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Labelled:
        """uint8 [B, C, H, W] -> weak views with their labels."""
        return Labelled(self._view(images, generator), self.get_buffer("labels")[index], generator)

    def classifier(self) -> Classifier:
        """Return the classifier to evaluate."""
        return Classifier(self.encoder, self.head).eval()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of rows of ``logits`` [B, C] whose largest entry is at ``labels`` [B]: a scalar."""
    return (logits.argmax(1) == labels).float().mean()
