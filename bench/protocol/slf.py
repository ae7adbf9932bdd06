"""SLF, standard linear finetuning: a linear classifier on frozen features."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import rng
from bench.data.views import WeakView
from bench.method import Stage, StepLoss
from bench.nn import Classifier, Encoder
from bench.recipe import SLFSettings


class _Batch(NamedTuple):
    images: Tensor
    labels: Tensor


class SLFStage(Stage):
    """Trains a linear classifier with cross-entropy on clean, weakly augmented training images.

    The encoder gets no gradient in either variant. Under ``encoder_bn = "eval"`` it is frozen to the bit;
    under ``"train"`` its batch-norm statistics are overwritten, which changes what is evaluated.

    Source: AdvCL's ``finetuning_advCL_SLF.py`` (eval); DeACL's ``adv_finetune.py`` at 3fb81e3 (train).

    Args:
        settings: the protocol's numbers.
        encoder: what to evaluate; the stage works on it in place.
        labels: int64 [N], of the training images.
        num_classes: C.
        seed: the run's seed, for the classifier's initialisation.
    """

    name = "slf"

    def __init__(self, settings: SLFSettings, encoder: Encoder, labels: Tensor, num_classes: int, seed: int) -> None:
        super().__init__()
        self.plan: SLFSettings = settings
        self.encoder = encoder.requires_grad_(False)
        with rng.scoped(seed, "init", self.name):
            self.head = torch.nn.Linear(encoder.feature_dim, num_classes)
        self.register_buffer("labels", labels, persistent=False)
        self._view = WeakView(flip_prob=settings.flip_prob)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> _Batch:
        """uint8 [B, C, H, W] -> weak views, float [B, C, H, W] in [0, 1], and their labels, int64 [B]."""
        labels = self.get_buffer("labels")
        return _Batch(self._view(images, generator), labels[index])

    def forward(self, views: _Batch) -> StepLoss:
        """Return the mean cross-entropy of the linear classifier."""
        self.encoder.train(self.plan.encoder_bn == "train")
        with torch.no_grad():
            features = self.encoder(views.images)
        logits = self.head(features)
        accuracy = (logits.argmax(1) == views.labels).float().mean()
        return StepLoss(F.cross_entropy(logits, views.labels), {"accuracy": accuracy})

    def classifier(self) -> Classifier:
        """Return the classifier to evaluate."""
        return Classifier(self.encoder, self.head).eval()
