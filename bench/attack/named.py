"""Attacks by name: PGD, and whatever an installed package adds through the entry-point group ``bench.attacks``."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bench import rng
from bench.attack.ball import refuse_outside
from bench.attack.objective import Objective
from bench.recipe import EvaluationSettings, Start, Threat
from bench.record import Drawn
from bench.registry import Registry


class Attack(Protocol):
    """Attacks a batch; called with the arguments of :class:`bench.attack.PGD`.

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


class AttackFactory(Protocol):
    """Makes an attack from the values in a recipe."""

    def __call__(self, steps: int, step_size: float, start: Start) -> Attack:
        """Return the attack; ``step_size`` is in units of eps."""


ATTACKS: Registry[AttackFactory] = Registry("attack", group="bench.attacks")
ATTACKS.add("pgd", "bench.attack.ascent:PGD")


class NamedAttack:
    """The attack behind RA; each of its results is checked.

    Raises:
        BenchError: there is no attack of that name.
    """

    def __init__(self, settings: EvaluationSettings) -> None:
        self._name = settings.attack
        factory = ATTACKS.get(settings.attack)
        self._attack = factory(settings.pgd_steps, settings.pgd_step_size, settings.pgd_start)
        self.start_drawn: Drawn = "per image" if getattr(self._attack, "per_image", False) else "per batch"

    def __call__(
        self,
        objective: Objective,
        images: Tensor,
        *,
        threat: Threat,
        seed: int,
        positions: Sequence[int],
        restart: int = 0,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return ``images``, moved within ``threat`` so that ``objective`` becomes large.

        Args:
            objective: as for :class:`bench.attack.PGD`.
            images: float [B, C, H, W] in [0, 1].
            threat: the allowed set.
            seed: the run's.
            positions: of the images in the test split; an image has the same start in every batch.
            restart: 0-based; each has starts of its own.
            on_gradient: as for :class:`bench.attack.PGD`.

        Raises:
            BenchError: the result was moved too far, is not finite, or has another shape.
        """
        generator: rng.Generators = image_generators(seed, positions, restart)
        if self.start_drawn == "per batch":
            generator = rng.generator(seed, "pgd", positions[0], restart, device=images.device)
        x_adv = self._attack(objective, images, threat=threat, generator=generator, on_gradient=on_gradient)
        refuse_outside(x_adv, images, threat, f"the attack {self._name!r}")
        return x_adv


def image_generators(seed: int, positions: Sequence[int], restart: int = 0) -> list[torch.Generator]:
    """Return the generator of the start of each test image at ``positions``, for a 0-based ``restart``; on the CPU."""
    return [rng.generator(seed, "pgd", position, restart) for position in positions]
