"""ALF and AFF: adversarial finetuning of the linear classifier, or of the whole network."""

from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.attack import PGD, Objective, margin_objective
from bench.method import StepLoss
from bench.nn import Classifier, Encoder, branches, frozen_copy
from bench.protocol.stage import FinetuneStage, Labelled, accuracy
from bench.recipe import AdversarialSettings, AFFSettings, ALFSettings, Threat

A = TypeVar("A", bound=AdversarialSettings)


class AdversarialStage(FinetuneStage[A]):
    """Trains with TRADES, or with cross-entropy on adversarial images (PGD-AT).

    The attack uses the classifier in eval mode. The clean and the adversarial batch pass through the network
    separately, in this order; with ``clean_passes = 2`` the clean batch then passes again.

    Source: TRADES (Zhang et al., ICML 2019), algorithm 1; DeACL's ``trades/trades.py`` at 3fb81e3.
    """

    @property
    def clean_encoder(self) -> Encoder:
        """The encoder for clean images in training."""
        return self.encoder

    def attacked(self) -> Classifier:
        """Return the copy of the present classifier that an attack differentiates."""
        return Classifier(self.encoder, self.head).prepared()

    def forward(self, views: Labelled) -> StepLoss:
        """Return the loss of one step: TRADES' equation 3 as a batch mean, or the adversarial cross-entropy."""
        images, labels, generator = views
        adversarial = self._attack(images, labels, generator)
        if self.plan.loss == "pgd":
            logits = self.head(self.encoder(adversarial))
            return StepLoss(F.cross_entropy(logits, labels), {"robust accuracy": accuracy(logits, labels)})
        clean, attacked = self.head(self.clean_encoder(images)), self.head(self.encoder(adversarial))
        if self.plan.clean_passes == 2:
            with torch.no_grad():
                self.clean_encoder(images)
        total = F.cross_entropy(clean, labels) + self.plan.beta * divergence(clean, attacked).mean()
        scalars = {"accuracy": accuracy(clean, labels), "robust accuracy": accuracy(attacked, labels)}
        return StepLoss(total, scalars)

    def _attack(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        attacked = self.attacked()
        objective = margin_objective(attacked, labels) if self.plan.loss == "pgd" else self._away(images, attacked)
        return PGD.of(self.plan)(objective, images, threat=self._threat, generator=generator)

    @torch.no_grad()
    def _away(self, images: Tensor, attacked: Classifier) -> Objective:
        """Return TRADES' objective: the divergence of the attacked prediction from that of the clean images."""
        same = self.clean_encoder is self.encoder
        clean = (attacked if same else Classifier(self.clean_encoder, self.head).prepared())(images)
        return lambda x: divergence(clean, attacked(x))


class ALFStage(AdversarialStage[ALFSettings]):
    """Adversarial linear finetuning: the encoder gets no gradient; its batch-norm as in SLF."""

    def attacked(self) -> Classifier:
        """Return the copy of the present classifier; an encoder that does not change is copied only once."""
        if self.plan.encoder_bn == "train":
            return super().attacked()
        return Classifier(self._prepared_encoder, frozen_copy(self.head))

    @cached_property
    def _prepared_encoder(self) -> Encoder:
        return self.encoder.prepared()


class AFFStage(AdversarialStage[AFFSettings]):
    """Adversarial full finetuning: encoder and classifier are trained together.

    With ``bn = "dual"`` clean images pass through a branch with its own batch-norm, also in the attack, and the
    adversarial branch is evaluated. Both branches start from the one that a method hands over; in DynACL
    (``test_AFF.py``) they start from the two branches of pre-training.
    """

    def __init__(
        self, settings: AFFSettings, encoder: Encoder, labels: Tensor, num_classes: int, seed: int, threat: Threat
    ) -> None:
        super().__init__(settings, encoder, labels, num_classes, seed, threat)
        self.clean_branch = branches(self.encoder, 2)[1] if settings.bn == "dual" else None

    @property
    def clean_encoder(self) -> Encoder:
        """The clean branch, or the encoder itself with ``bn = "single"``."""
        return self.encoder if self.clean_branch is None else self.clean_branch


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Return KL(softmax(clean) || softmax(attacked)) of each row: [B, C], [B, C] -> [B]."""
    # Under autocast a CPU would leave these in bf16, where rounding makes the divergence of close logits negative.
    exact = torch.promote_types(clean.dtype, torch.float32)
    logp, logq = (F.log_softmax(logits, dim=1, dtype=exact) for logits in (clean, attacked))
    return (logp.exp() * (logp - logq)).sum(dim=1)
