"""Attacks that climb a loss of the classifier, or leave its features, by projected gradient ascent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor, nn

from bench.attack.ascent import PGD
from bench.attack.objective import Loss, Objective, cross_entropy, dlr, log_margin, margin
from bench.errors import BenchError
from bench.recipe import Start, Threat


class Ascent(Protocol):
    """Moves images so that an objective becomes large; called with the arguments of :class:`bench.attack.PGD`.

    With ``per_image = True`` among its attributes it is given a generator for each image, and the outcome of an image
    then depends neither on the batch size nor on the number of devices. Without, it is given one for the batch.
    """

    def __call__(
        self,
        objective: Objective,
        images: Tensor,
        *,
        threat: Threat,
        generator: Any = None,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return ``images``, moved within ``threat`` so that ``objective`` becomes large."""


@dataclass(frozen=True)
class Supervised:
    """The attack on a classifier that an ascent of a loss makes."""

    ascent: Ascent
    loss: Loss = log_margin

    @property
    def per_image(self) -> bool:
        """Whether it takes a generator for each image."""
        return getattr(self.ascent, "per_image", False)

    @property
    def least_classes(self) -> int:
        """As many as the loss compares."""
        return 3 if self.loss is dlr else 2

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        threat: Threat,
        generator: Any,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return ``images`` moved by the ascent; ``on_gradient`` as for :class:`bench.attack.PGD`."""
        return self.ascent(
            lambda x: self.loss(model(x), labels),
            images,
            threat=threat,
            generator=generator,
            on_gradient=on_gradient,
        )

    @classmethod
    def cross_entropy(cls, steps: int, step_size: float, start: Start) -> Self:
        """Return PGD on cross-entropy, as Madry et al. (2018) attack."""
        return cls(PGD(steps, step_size, start), cross_entropy)

    @classmethod
    def margin(cls, steps: int, step_size: float, start: Start) -> Self:
        """Return PGD on the margin of Carlini and Wagner (2017)."""
        return cls(PGD(steps, step_size, start), margin)

    @classmethod
    def dlr(cls, steps: int, step_size: float, start: Start) -> Self:
        """Return PGD on the difference of logits ratio."""
        return cls(PGD(steps, step_size, start), dlr)


@dataclass(frozen=True)
class Embedding:
    """PGD away from the clean features, without labels: it maximises the squared Euclidean distance from them.

    The model may be an encoder without a head, whose outputs are the features, or have a method ``features``.
    """

    ascent: PGD

    per_image = True

    def __post_init__(self) -> None:
        if self.ascent.start == "clean":
            raise BenchError(
                "the attack 'embedding' starts where its gradient is 0: pgd_start is 'clean', and the clean features "
                "are those to get away from. Type --set evaluate.pgd_start=uniform"
            )

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor | None = None, *, threat: Threat, generator: Any
    ) -> Tensor:
        """Return ``images`` whose features are far from the clean ones; ``labels`` are not used."""
        features: Callable[[Tensor], Tensor] = getattr(model, "features", model)
        clean = features(images).detach()
        return self.ascent(lambda x: (features(x) - clean).square().sum(1), images, threat=threat, generator=generator)

    @classmethod
    def of(cls, steps: int, step_size: float, start: Start) -> Self:
        """Return the attack with the numbers of PGD."""
        return cls(PGD(steps, step_size, start))
