"""k nearest neighbours: the training images vote, and nothing is trained."""

from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from bench.data import ImageSource, unit_pixels
from bench.nn import Classifier, Encoder
from bench.protocol.stage import ProtocolStage
from bench.recipe import KNNSettings, Threat, TrainPlan

_REST = 1e-6
"""Weight of the votes of images that are not neighbours. It decides only between classes whose votes agree to about
this share, and it gives a class without a neighbour a finite logit, so that an attack has a direction towards it."""
_NO_VOTES = torch.finfo(torch.float32).tiny
"""Stands for the votes of a class without training images, in every precision alike, so that its logit is finite."""
_BATCH = 256
"""Images in a forward pass."""


class SoftVote(nn.Module):
    """Features [B, D] -> logits [B, classes], the logarithm of each class's votes.

    With s_i the cosine similarity to the i-th training image, and N_k those with the k highest (more, where several are
    equal): logit_c = log(sum over i of class c of exp(s_i / temperature) (1 if i is in N_k, otherwise 1e-6)).

    Source: Wu et al., CVPR 2018, section 3.4, but for the small votes of all others.

    Args:
        count: N, the number of training images; ``bank`` is filled later.
        features: D.
        classes: number of classes.
        settings: k and the temperature.
    """

    bank: Tensor
    """Features of the training images, each of length 1: float32 [N, D]."""
    labels: Tensor
    """int64 [N]."""

    def __init__(self, count: int, features: int, classes: int, settings: KNNSettings) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(count, features))
        self.register_buffer("labels", torch.zeros(count, dtype=torch.int64))
        self.classes, self.k, self.temperature = classes, settings.k, settings.temperature
        # Part of the weights, so that the digest of a classifier depends on them.
        self.register_buffer("rule", torch.tensor([self.k, self.temperature], dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of ``features``; their gradient goes through the similarities, not the choice of N_k."""
        similar = F.normalize(features.to(self.bank.dtype), dim=1) @ self.bank.T
        least = similar.detach().topk(self.k, dim=1).values[:, -1:]
        share = torch.where(similar.detach() >= least, 1.0, _REST)
        nearest = similar.detach().amax(1, keepdim=True)  # so that no exponential overflows
        votes = ((similar - nearest) / self.temperature).exp() * share
        classes = torch.arange(self.classes, device=self.labels.device)  # F.one_hot would wait for a GPU
        of_class = votes @ (self.labels[:, None] == classes).to(votes.dtype)
        return of_class.clamp(min=_NO_VOTES).log()


class _NoTraining(TrainPlan):
    """The plan of a stage that only prepares."""

    epochs: Literal[0] = 0
    batch_size: int = 2
    lr: float = 1.0


class KNNStage(ProtocolStage):
    """Computes the features of the training images, without augmentation, by the frozen encoder in eval mode."""

    distributed = True

    def __init__(
        self, settings: KNNSettings, encoder: Encoder, labels: Tensor, num_classes: int, seed: int, threat: Threat
    ) -> None:
        super().__init__()
        settings.check_images(len(labels))
        self.name, self.plan = settings.section, _NoTraining()
        self.encoder = encoder.requires_grad_(False)
        self.vote = SoftVote(len(labels), encoder.feature_dim, num_classes, settings)
        self.vote.labels.copy_(labels)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    def optimizer(self) -> Optimizer:
        """Return one that takes no step: there is no epoch."""
        return SGD([{"params": []}], lr=1.0)

    @torch.no_grad()
    def before_training(self, images: ImageSource) -> None:
        """Fill the bank."""
        self.encoder.eval()
        for place, batch in zip(self.vote.bank.split(_BATCH), images.in_order(_BATCH), strict=True):
            place.copy_(F.normalize(self.encoder(unit_pixels(batch)).float(), dim=1))

    def classifier(self) -> Classifier:
        """Return the encoder with the vote, in eval mode."""
        return Classifier(self.encoder, self.vote).eval()  # type: ignore[arg-type]  # no linear head
