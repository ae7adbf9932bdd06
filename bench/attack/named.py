"""Attacks by name: those of the bench, and whatever a package adds through the entry-point group ``bench.attacks``."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bench import rng
from bench.attack.apgd import APGD, TargetedAPGD
from bench.attack.ascent import PGD
from bench.attack.ball import ball_around, refuse_outside
from bench.attack.frozen import needing_gradients
from bench.attack.minimal import MinimumNorm
from bench.attack.supervised import Embedding, Supervised
from bench.device import same_default_type
from bench.errors import BenchError
from bench.recipe import EvaluationSettings, Norm, Precision, Settings, Threat, attack_name
from bench.recipe.fields import Name, Text, Whole
from bench.record import Drawn
from bench.registry import Registry

_LARGEST = 2**63
"""Larger numbers, infinite ones and those that are none are words in a record."""


class Attack(Protocol):
    """Attacks one batch.

    With ``per_image = True`` among its attributes, ``generator`` is a list, one an image, on the CPU, and the outcome
    of an image does not depend on its batch. With a method ``nearest(model, images, labels, *, norm)`` it is a
    minimum-norm attack: it returns the nearest misclassified images that it finds, at whatever distance. The fields of
    a dataclass are its settings in the record, ``package`` names whose code runs, and ``least_classes`` is the smallest
    number of classes that it can attack (2).
    """

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
        """Return ``images``, moved within ``threat`` so that ``model`` errs.

        Args:
            model: [B, C, H, W] in [0, 1] -> logits [B, K], frozen and in eval mode; its method ``features`` returns
                the encoder's features [B, D].
            images: float32 [B, C, H, W] in [0, 1].
            labels: int64 [B].
            threat: norm and eps.
            generator: draws everything random, on the images' device.
        """


def _fault(entry: object) -> str:
    if not callable(entry):
        return "cannot be called."
    try:
        if _takes(entry, "labels"):
            signature(entry).bind(None, None, None, threat=None, generator=None)
        else:
            signature(entry).bind(20, 0.25, "uniform")
    except (TypeError, ValueError):
        return (
            "is called neither as an attack, (model, images, labels, *, threat, generator), nor as what makes one, "
            "(steps, step_size, start)."
        )
    return ""


def _takes(call: Callable[..., Any], name: str) -> bool:
    return name in signature(call).parameters


ATTACKS: Registry[Callable[..., Any]] = Registry("attack", group="bench.attacks", fault=_fault)
"""Each entry is an :class:`Attack`; or it makes one, or an :class:`Ascent`, from the recipe's numbers of PGD, called
with ``(steps, step_size, start)``."""
ATTACKS.add("pgd", PGD)
ATTACKS.add("pgd-ce", Supervised.cross_entropy)
ATTACKS.add("pgd-cw", Supervised.margin)
ATTACKS.add("pgd-dlr", Supervised.dlr)
ATTACKS.add("apgd-ce", APGD("ce"))
ATTACKS.add("apgd-dlr", APGD("dlr"))
ATTACKS.add("apgd-t", TargetedAPGD(9, "logit"))
ATTACKS.add("targeted-screen", TargetedAPGD(3, "distance"))
ATTACKS.add("min-norm", MinimumNorm())
ATTACKS.add("embedding", Embedding.of)


class _Said(Settings):
    """What an attack says of itself, as a record can hold it."""

    settings: dict[Text, Text]
    """Those that are words."""
    least_classes: Annotated[Whole, Field(ge=1)]
    package: Name | None


class NamedAttack:
    """An attack of the registry; each of its results is checked.

    Args:
        name: of the attack.
        settings: the recipe's numbers of PGD, for attacks that are made from them.
        stream: the name of its generators; RA's is "pgd".

    Raises:
        BenchError: there is no attack of that name, it cannot be made from these settings, what it says of itself is
            of another type or cannot be written, or its package is not installed.
    """

    def __init__(self, name: str, settings: EvaluationSettings, *, stream: str = "pgd") -> None:
        self.name, self._stream = name, stream
        made = ATTACKS.get(name)
        self.module: str = (made.func if isinstance(made, partial) else made).__module__
        """The module that defines it."""
        self.from_recipe: dict[str, Any] = {}
        """The recipe's steps, step size in units of eps, and start, where the attack is made from them; else empty."""
        if not _takes(made, "labels"):
            steps, step_size, start = settings.pgd_steps, settings.pgd_step_size, settings.pgd_start
            self.from_recipe = {"steps": steps, "step_size": step_size, "start": start}
            made = made(steps, step_size, start)
        self.attack: Any = made if _takes(made, "labels") else Supervised(made)
        self._watched = _takes(self.attack, "on_gradient")
        self.start_drawn: Drawn = "per image" if getattr(self.attack, "per_image", False) else "per batch"
        self.minimal = hasattr(self.attack, "nearest")
        self.settings: dict[str, int | float | str] = {**self.from_recipe, **_plain(self.attack)}
        """The recipe's numbers, where it is made from them; and those and the words in its fields, as a dataclass."""
        said = _Said.parse(
            {
                "settings": {key: value for key, value in self.settings.items() if isinstance(value, str)},
                "least_classes": getattr(self.attack, "least_classes", 2),
                "package": getattr(self.attack, "package", None),
            },
            f"the attack {name!r}",
        )
        self._least_classes, self.package = said.least_classes, said.package
        try:
            self.package_version = version(self.package) if self.package else None
        except PackageNotFoundError:
            raise BenchError(
                f"the attack {name!r} needs the package {self.package}, which is not installed. "
                f"Type: pip install {self.package}"
            ) from None

    def check_classes(self, classes: int) -> None:
        """Raise BenchError if ``classes`` are too few for this attack."""
        if classes < self._least_classes:
            raise BenchError(
                f"the attack {self.name!r} needs at least {self._least_classes} classes; there are {classes}. "
                "Leave it out of --attacks, or choose another with --set evaluate.attack=pgd"
            )

    def check_precision(self, precision: Precision) -> None:
        """Raise BenchError if this attack cannot take its gradients in ``precision``.

        A minimum-norm attack ends on a boundary, which it finds by the very passes that give its gradients. An image on
        that of the network in bf16 may well be right in float32.
        """
        if self.minimal and precision != "fp32":
            raise BenchError(
                f"the attack {self.name!r} looks for the boundary of the network that gives its gradients, which would "
                f"be that of {precision}. Type --set evaluate.attack_precision=fp32, or leave {self.name} out"
            )

    @property
    def steps(self) -> int | None:
        """The number of steps among its settings; None where there is none."""
        return self._count("steps")

    @property
    def title(self) -> str:
        """The attack and its steps, as papers write it: PGD-20."""
        return attack_name(self.name, self.steps)

    @property
    def gradients(self) -> int:
        """How many gradients an image takes at most, by the ``steps`` and ``targets`` of the settings; 0: unknown."""
        targets = self._count("targets") if "targets" in self.settings else 1
        return (self.steps or 0) * (targets or 0)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        threat: Threat,
        seed: int,
        positions: Sequence[int],
        restart: int = 0,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return ``images``, moved within ``threat``, to the last bit, so that ``model`` errs.

        Args:
            model: [B, C, H, W] in [0, 1] -> logits [B, K], frozen and in eval mode.
            images: float [B, C, H, W] in [0, 1].
            labels: int64 [B].
            threat: the allowed set.
            seed: the run's.
            positions: of the images in the test split; an image has the same start in every batch.
            restart: 0-based; each has starts of its own.
            on_gradient: as for :class:`bench.attack.PGD`; called only by ascents.

        Raises:
            BenchError: the model has too few classes or no gradients for this attack, or the result was moved too far,
                is not finite, or has another shape.
        """
        if self._least_classes > 2:
            with torch.no_grad():
                self.check_classes(model(images[:1]).shape[1])
        generator: rng.Generators = image_generators(seed, positions, restart, stream=self._stream)
        if self.start_drawn == "per batch":
            generator = rng.generator(seed, self._stream, positions[0], restart, device=images.device)
        watch = {"on_gradient": on_gradient} if self._watched else {}
        # Copies: what an attack does to them in place cannot make a result look as if it had not moved.
        with self._running(model, images, seed, positions[0], restart):
            x_adv = self.attack(model, images.clone(), labels.clone(), threat=threat, generator=generator, **watch)
        self._refuse(x_adv, images, threat)
        return ball_around(images, threat).project(x_adv.detach())

    def nearest(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, norm: Norm, seed: int, positions: Sequence[int]
    ) -> Tensor:
        """Return the nearest misclassified images that a minimum-norm attack finds, anywhere in [0, 1].

        Arguments are those of calling this.

        Raises:
            BenchError: the model has no gradients, or the result is not finite, leaves [0, 1], or has another shape.
        """
        with self._running(model, images, seed, positions[0]):
            found = self.attack.nearest(model, images.clone(), labels.clone(), norm=norm)
        farthest = 1.0 if norm == "linf" else math.sqrt(images[0].numel())
        self._refuse(found, images, Threat(norm=norm, eps=farthest))
        nearest: Tensor = found.detach()
        return nearest

    @contextmanager
    def _running(self, model: nn.Module, images: Tensor, seed: int, *place: int) -> Iterator[None]:
        """Guard what runs within: what a stranger's attack draws follows the seed, and torch's default type stays."""
        name, instead = f"the attack {self.name!r}", "choose another with --attacks or --set evaluate.attack=pgd"
        own = self.module.partition(".")[0] == "bench"  # these draw from their generators alone
        drawn = nullcontext() if own else rng.scoped(seed, self._stream, "global", *place, device=images.device)
        with drawn, same_default_type(name), needing_gradients(model, images, name, instead):
            yield

    def _count(self, setting: str) -> int | None:
        """Return that setting where it is a whole number above 0: an attack of the user's may have a word there."""
        value = self.settings.get(setting)
        return value if type(value) is int and value > 0 else None

    def _refuse(self, x_adv: object, images: Tensor, threat: Threat) -> None:
        refuse_outside(x_adv, images, threat, f"the attack {self.name!r}")


def image_generators(
    seed: int, positions: Sequence[int], restart: int = 0, *, stream: str = "pgd"
) -> list[torch.Generator]:
    """Return the generator of the start of each test image at ``positions``, for a 0-based ``restart``; on the CPU."""
    return [rng.generator(seed, stream, position, restart) for position in positions]


def _plain(attack: object) -> dict[str, int | float | str]:
    found: dict[str, int | float | str] = {}
    of_fields = {field.name: getattr(attack, field.name) for field in fields(attack)} if is_dataclass(attack) else {}
    for name, value in (attack.keywords if isinstance(attack, partial) else of_fields).items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, int | float) and not abs(value) < _LARGEST:
            found[name] = str(value)
        elif isinstance(value, int | float | str):
            found[name] = value
        elif is_dataclass(value):
            found |= _plain(value)
        elif callable(value):
            found[name] = getattr(value, "__name__", type(value).__name__)
    return found
