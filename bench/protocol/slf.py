"""SLF, standard linear finetuning: a linear classifier on frozen features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.method import StepLoss
from bench.nn import Encoder
from bench.protocol.stage import Labelled, ProtocolStage, accuracy
from bench.recipe import SLFSettings


class SLFStage(ProtocolStage):
    """Trains a linear classifier with cross-entropy on clean, weakly augmented training images.

    The encoder gets no gradient in either variant. Under ``encoder_bn = "eval"`` it is frozen to the bit;
    under ``"train"`` its batch-norm statistics are overwritten, which changes what is evaluated.

    Source: AdvCL's ``finetuning_advCL_SLF.py`` (eval); DeACL's ``adv_finetune.py`` at 3fb81e3 (train).
    """

    def __init__(self, settings: SLFSettings, encoder: Encoder, labels: Tensor, num_classes: int, seed: int) -> None:
        super().__init__("slf", settings, encoder.requires_grad_(False), labels, num_classes, seed)
        self._encoder_trains = settings.encoder_bn == "train"

    def forward(self, views: Labelled) -> StepLoss:
        """Return the mean cross-entropy of the linear classifier."""
        self.encoder.train(self._encoder_trains)
        with torch.no_grad():
            features = self.encoder(views.images)
        logits = self.head(features)
        return StepLoss(F.cross_entropy(logits, views.labels), {"accuracy": accuracy(logits, views.labels)})
