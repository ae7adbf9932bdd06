"""The base of all protocols, a stage with labels that ends in a classifier, and of those that train a linear one."""

from collections.abc import Mapping
from typing import Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from bench import rng
from bench.data import ImageSource
from bench.data.views import WeakView
from bench.method import Stage
from bench.nn import Classifier, Encoder
from bench.protocol.selection import BestEpoch, held_out
from bench.recipe import FinetuneSettings, LinearSettings, Threat
from bench.record import LabelledSubset

S = TypeVar("S", bound=FinetuneSettings)


class Labelled(NamedTuple):
    """A batch of a protocol."""

    images: Tensor
    """Weak views, float [B, C, H, W] in [0, 1]."""
    labels: Tensor
    """int64 [B]."""
    generator: torch.Generator
    """For later random numbers of the step: the attack's start."""


class ProtocolStage(Stage):
    """A stage that makes a classifier of a pre-trained encoder, which :attr:`encoder` holds."""

    def classifier(self) -> Classifier:
        """Return the classifier to evaluate, in eval mode."""
        raise NotImplementedError

    @property
    def selected_epoch(self) -> int | None:
        """The epoch whose classifier is evaluated, from 1 on, if one was selected; None: the last."""
        return None

    @property
    def labelled(self) -> LabelledSubset | None:
        """The training images whose labels are used; None: all of them."""
        return None


class FinetuneStage(ProtocolStage, Generic[S]):
    """A linear classifier on an encoder; subclasses define what is trained and the loss.

    Args:
        settings: the protocol's settings.
        encoder: the encoder to evaluate; the stage changes it in place.
        labels: int64 [N], of the training images.
        num_classes: C.
        seed: the run's seed, for the classifier's initialisation and the images held out.
        threat: the threat model for training and selection.

    Raises:
        BenchError: too few images to select on.
    """

    distributed = True
    per_image = True

    def __init__(
        self, settings: S, encoder: Encoder, labels: Tensor, num_classes: int, seed: int, threat: Threat
    ) -> None:
        super().__init__()
        self.name = settings.section
        self.plan: S = settings
        self.encoder = encoder.requires_grad_(not isinstance(settings, LinearSettings))
        with rng.scoped(seed, "init", self.name):
            self.head = torch.nn.Linear(encoder.feature_dim, num_classes)
        if settings.head_init == "zero":
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)
        self.register_buffer("labels", labels, persistent=False)
        self._view = WeakView(crop=settings.crop, flip_prob=settings.flip_prob)
        self._threat = threat
        self.best: BestEpoch | None = None
        if settings.selection == "best":
            chosen = held_out(settings, len(labels), num_classes, seed)
            self.best = BestEpoch(Classifier(self.encoder, self.head), chosen, settings, threat, seed)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder is in train mode only with ``encoder_bn = "train"``."""
        super().train(mode)
        if isinstance(self.plan, LinearSettings):
            self.encoder.train(mode and self.plan.encoder_bn == "train")
        return self

    def positions(self, count: int) -> Tensor:
        """Return all positions except those held out to select the epoch."""
        everything = super().positions(count)
        return everything if self.best is None else everything[~torch.isin(everything, self.best.chosen.cpu())]

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Labelled:
        """uint8 [B, C, H, W] -> weak views with their labels."""
        return Labelled(self._view(images, generator), self.get_buffer("labels")[index], generator)

    def after_epoch(self, epoch: int, images: ImageSource) -> Mapping[str, float]:
        """Keep the classifier if it is the best so far, with ``selection = "best"``."""
        if self.best is None:
            return {}
        return self.best.judge(Classifier(self.encoder, self.head), epoch, images, self.get_buffer("labels"))

    def classifier(self) -> Classifier:
        """Return the classifier to evaluate, in eval mode."""
        last = Classifier(self.encoder, self.head)
        return (last if self.best is None else self.best.classifier).eval()

    @property
    def selected_epoch(self) -> int | None:
        """The epoch whose classifier is evaluated, from 1 on, if one was selected; None: the last."""
        return None if self.best is None else int(self.best.epoch)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of rows of ``logits`` [B, C] whose largest entry is at ``labels`` [B]: a scalar."""
    return (logits.argmax(1) == labels).float().mean()
