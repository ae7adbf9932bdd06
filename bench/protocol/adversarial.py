"""ALF and AFF: adversarial finetuning of the linear classifier, or of everything."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.attack import Threat, cross_entropy_objective, pgd
from bench.method import StepLoss
from bench.nn import Classifier, Encoder
from bench.protocol.stage import Labelled, ProtocolStage, accuracy
from bench.recipe import AdversarialSettings, AFFSettings, ALFSettings


class AdversarialStage(ProtocolStage):
    """Trains with TRADES, or with cross-entropy on adversarial images (PGD-AT).

    The attack sees the classifier in eval mode. The clean and the adversarial batch pass through the network
    separately, the clean one once: TRADES' released code computes it twice, which changes no gradient and
    only moves batch-norm's running statistics further towards clean images.

    Source: TRADES (Zhang et al., ICML 2019), algorithm 1; DeACL's ``trades/trades.py`` at 3fb81e3.
    """

    def __init__(
        self,
        name: str,
        settings: AdversarialSettings,
        encoder: Encoder,
        labels: Tensor,
        num_classes: int,
        seed: int,
        threat: Threat,
    ) -> None:
        super().__init__(name, settings, encoder, labels, num_classes, seed)
        self.plan: AdversarialSettings = settings
        self._threat = threat

    def forward(self, views: Labelled) -> StepLoss:
        """Return the loss of one step: TRADES' equation 3 as a batch mean, or the adversarial cross-entropy."""
        images, labels, generator = views
        adversarial = self._attack(images, labels, generator)
        if self.plan.loss == "pgd":
            logits = self._logits(adversarial)
            return StepLoss(F.cross_entropy(logits, labels), {"robust accuracy": accuracy(logits, labels)})
        clean, attacked = self._logits(images), self._logits(adversarial)
        total = F.cross_entropy(clean, labels) + self.plan.beta * divergence(clean, attacked).mean()
        scalars = {"accuracy": accuracy(clean, labels), "robust accuracy": accuracy(attacked, labels)}
        return StepLoss(total, scalars)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def _attack(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        attacked = Classifier(self.encoder, self.head).prepared()
        if self.plan.loss == "pgd":
            objective = cross_entropy_objective(attacked, labels)
        else:
            with torch.no_grad():
                clean = attacked(images)

            def objective(x: Tensor) -> Tensor:
                return divergence(clean, attacked(x))

        return pgd(
            objective,
            images,
            threat=self._threat,
            steps=self.plan.steps,
            step_size=self.plan.step_size * self._threat.eps,
            start=self.plan.start,
            generator=generator,
        )


class ALFStage(AdversarialStage):
    """Adversarial linear finetuning: the encoder gets no gradient; its batch-norm as in SLF."""

    def __init__(
        self,
        settings: ALFSettings,
        encoder: Encoder,
        labels: Tensor,
        num_classes: int,
        seed: int,
        threat: Threat,
    ) -> None:
        super().__init__("alf", settings, encoder.requires_grad_(False), labels, num_classes, seed, threat)
        self._encoder_trains = settings.encoder_bn == "train"

    def _logits(self, images: Tensor) -> Tensor:
        self.encoder.train(self._encoder_trains)
        with torch.no_grad():
            features = self.encoder(images)
        logits: Tensor = self.head(features)
        return logits


class AFFStage(AdversarialStage):
    """Adversarial full finetuning: encoder and classifier are trained together."""

    def __init__(
        self,
        settings: AFFSettings,
        encoder: Encoder,
        labels: Tensor,
        num_classes: int,
        seed: int,
        threat: Threat,
    ) -> None:
        super().__init__("aff", settings, encoder.requires_grad_(True), labels, num_classes, seed, threat)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Return KL(softmax(clean) || softmax(attacked)) of each row: [B, C], [B, C] -> [B]."""
    logp, logq = F.log_softmax(clean, dim=1), F.log_softmax(attacked, dim=1)
    return (logp.exp() * (logp - logq)).sum(dim=1)
