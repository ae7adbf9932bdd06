"""What the checks may read about one evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import NamedAttack, correct
from bench.data import Split, unit_pixels
from bench.errors import BenchError
from bench.evaluation import attacked_copy, autoattack_images
from bench.nn import Classifier
from bench.recipe import RELEASED, Recipe, Threat
from bench.record import AutoAttackEvaluation, Inventory, Outcome, PGDEvaluation

M = TypeVar("M", bound=nn.Module)

SAMPLE = 32
"""Images of the sample: of a fault that affects a tenth of all images, 32 miss all with a chance of 3 %."""

_DEEP_SAMPLE = 128
"""Images of the sample of a deep visit: a difference of 15 of them is no accident, where of 32 it takes 6."""


class Sample(NamedTuple):
    """A few test images, on the patient's device."""

    positions: list[int]
    """In the test split, ascending."""
    images: Tensor
    """float32 [B, C, H, W] in [0, 1]."""
    labels: Tensor
    """int64 [B]."""


@dataclass(frozen=True)
class Patient:
    """One classifier, the data that it was evaluated on, and what was measured. Checks leave it as it is."""

    classifier: Classifier
    """In eval mode, on ``device``."""
    test: Split
    recipe: Recipe
    """Of protocol and evaluation: its dataset is that of ``test``."""
    seed: int
    device: torch.device
    protocol: str
    encoder_sha256: str
    """Digest of the encoder's weights before the protocol trained its classifier."""
    classifier_sha256: str
    """Digest of the classifier's weights and buffers before they were evaluated."""
    train: Split | None = None
    """None: the training images are not at hand."""
    inventory: Inventory | None = None
    """What was counted when the data were read; None: nothing was."""
    sa: Outcome | None = None
    """None, as ``ra`` and ``aa``: not measured."""
    ra: PGDEvaluation | None = None
    aa: AutoAttackEvaluation | None = None
    deep: bool = False
    """Whether the visit is a deep one: every check is made, and the sample is larger."""

    @property
    def released(self) -> bool:
        """Whether it is a whole classifier that nothing here has trained."""
        return self.protocol == RELEASED

    @property
    def threat(self) -> Threat:
        """The threat model of the evaluation."""
        return Threat(norm=self.recipe.threat.norm, eps=self.recipe.eval_eps)

    @property
    def pixel_radius(self) -> float:
        """How far all pixels of an image may move together within the threat model."""
        pixels = self.sample.images[0].numel()
        return self.threat.eps if self.threat.norm == "linf" else min(1.0, self.threat.eps / pixels**0.5)

    @cached_property
    def sample(self) -> Sample:
        """A few of the images that AutoAttack is run on: the same for all methods and seeds on one dataset."""
        among = autoattack_images(self.recipe)
        order = torch.randperm(len(among), generator=rng.generator(0, "doctor", self.recipe.dataset.sha256))
        chosen = sorted(among[place] for place in order[: _DEEP_SAMPLE if self.deep else SAMPLE].tolist())
        images = unit_pixels(self.test.images[chosen].to(self.device))
        return Sample(chosen, images, self.test.labels[chosen].to(self.device))

    @cached_property
    def attacked(self) -> nn.Module:
        """The frozen copy of the classifier that RA and AA differentiate."""
        return attacked_copy(self.classifier, self.recipe.evaluate.attack_precision)

    @cached_property
    def x_adv(self) -> Tensor:
        """The sample after the attack of RA, from its first start: float32 [B, C, H, W] in [0, 1]."""
        return NamedAttack(self.recipe.evaluate.attack, self.recipe.evaluate)(
            self.attacked,
            self.sample.images,
            self.sample.labels,
            threat=self.threat,
            seed=self.seed,
            positions=self.sample.positions,
        )

    @cached_property
    @torch.no_grad()
    def logits(self) -> Tensor:
        """The classifier's answer to the sample: float32 [B, classes]."""
        logits: Tensor = self.classifier(self.sample.images)
        return logits

    @cached_property
    @torch.no_grad()
    def reached(self) -> tuple[Tensor, Tensor]:
        """What reaches the encoder when the classifier gets the sample, and the attacked sample.

        Raises:
            BenchError: nothing does, or it has another shape.
        """
        sent, seen = torch.cat([self.sample.images, self.x_adv]), []
        with watching([self.classifier.encoder], lambda _, x: seen.append(x)):
            self.classifier(sent)
        if not seen or seen[0].shape != sent.shape:
            raise BenchError("the classifier does not hand its images to its encoder, so the unit of eps is not known.")
        clean, attacked = seen[0].chunk(2)
        return clean, attacked

    @torch.no_grad()
    def right(self, images: Tensor) -> Tensor:
        """Return whether the classifier gives each of ``images``, variants of the sample, its label: bool [B]."""
        return correct(self.classifier(images), self.sample.labels)

    def generator(self, *names: str | int) -> torch.Generator:
        """Return a fresh generator for the stream called ``names``, on the patient's device."""
        return rng.generator(self.seed, "doctor", *names, device=self.device)


@contextmanager
def watching(parts: Sequence[M], watch: Callable[[M, Tensor], None]) -> Iterator[None]:
    """Call ``watch`` with each of ``parts`` and its input before each of its passes."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        watch(cast(M, module), inputs[0])

    hooks = [part.register_forward_pre_hook(before) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def shaken(images: Tensor, step: float, generator: torch.Generator) -> Tensor:
    """Return ``images`` with every pixel moved at random by up to ``step``, within [0, 1]."""
    noise = 2 * torch.rand(images.shape, generator=generator, device=images.device) - 1
    return (images + step * noise).clamp(0, 1)
