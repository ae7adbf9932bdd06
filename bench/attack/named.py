"""Attacks by name: PGD, and whatever an installed package adds through the entry-point group ``bench.attacks``."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.attack.ball import refuse_outside
from bench.attack.objective import Objective
from bench.recipe import EvaluationSettings, Start, Threat
from bench.registry import Registry


class Attack(Protocol):
    """Attacks a batch; called with the arguments of :class:`bench.attack.PGD`."""

    def __call__(
        self,
        objective: Objective,
        images: Tensor,
        *,
        threat: Threat,
        generator: torch.Generator | None = None,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return ``images``, moved within ``threat`` so that ``objective`` becomes large."""


class AttackFactory(Protocol):
    """Makes an attack from the values in a recipe."""

    def __call__(self, steps: int, step_size: float, start: Start) -> Attack:
        """Return the attack; ``step_size`` is in units of eps."""


ATTACKS: Registry[AttackFactory] = Registry("attack", group="bench.attacks")
ATTACKS.add("pgd", "bench.attack.ascent:PGD")


def named_attack(settings: EvaluationSettings) -> Attack:
    """Return the attack behind RA; each of its results is checked.

    Raises:
        BenchError: there is no attack of that name; or a call returns images that were moved too far, are not finite,
            or have another shape.
    """
    attack = ATTACKS.get(settings.attack)(settings.pgd_steps, settings.pgd_step_size, settings.pgd_start)

    def checked(objective: Objective, images: Tensor, *, threat: Threat, **options: Any) -> Tensor:
        x_adv = attack(objective, images, threat=threat, **options)
        refuse_outside(x_adv, images, threat, f"the attack {settings.attack!r}")
        return x_adv

    return checked
