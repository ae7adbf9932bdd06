"""Section 3: images/s under PGD-20 and AutoAttack, ours beside torchattacks where it is installed.

The classifier is untrained, and an image's label is the class that it answers. PGD takes the same time on any weights.
AutoAttack goes on only with images that survive, so the radius is tiny: all survive all four attacks, which is the
longest that an image can take.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from conditions import BF16, COMPILED, FP32, TF32, Conditions, Mode, seconds_of
from sections import Finding, LeftOutError, Part
from torch import Tensor, nn

from bench import rng
from bench.attack import PGD, auto_attack, margin_objective
from bench.cost import Projector, attack_digest, random_facts
from bench.data import Split, unit_pixels
from bench.device import autocast
from bench.evaluation import attacked_copy
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings, Threat

_STEPS, _STEP_SIZE = 20, 0.25
_PGD = Threat(eps=8 / 255)
_ALL_STAND, _ALL_FALL = Threat(eps=1e-6), Threat(eps=1.0)
_FEW = 64
_GRADIENTS, _FORWARDS = 1900, 6800
"""Of AutoAttack for an image that survives it."""


class Attacked:
    """The section, with its classifier."""

    def __init__(self, given: Conditions) -> None:
        self._given = given
        self._auto = _ALL_STAND if given.robust else _ALL_FALL
        self._facts = random_facts("noise", (3, given.side, given.side), 10, given.attacked, given.attacked)

    def parts(self) -> list[Part]:
        """Return the parts; PGD-20 in every mode, then AutoAttack."""
        wanted = [(f"PGD-20, {mode.name}", self._pgd, mode) for mode in (TF32, BF16, FP32, COMPILED)]
        wanted += [(f"AutoAttack, {mode.name}", self._autoattack, mode) for mode in (TF32, BF16)]
        wanted += [(f"a forward pass and a gradient, {mode.name}", self._one, mode) for mode in (FP32, BF16)]
        return [Part(name, partial(work, mode)) for name, work, mode in wanted if mode in self._given.modes]

    def _pgd(self, mode: Mode, left: float) -> Finding:
        """Time the contenders alternately; ours as the bench attacks in this precision, theirs in autocast."""
        given, (images, labels) = self._given, self._batch
        device = given.device
        attack = PGD(_STEPS, _STEP_SIZE, "uniform")
        attacked = attacked_copy(self._classifier, mode.precision)

        def ours() -> Tensor:
            generator = rng.generator(0, "pgd", device=device)
            return attack(margin_objective(attacked, labels), images, threat=_PGD, generator=generator)

        contenders: dict[str, Callable[[], Tensor]] = {"ours": ours}
        if find_spec("torchattacks"):
            theirs = import_module("torchattacks").PGD(
                self._classifier, eps=_PGD.eps, alpha=_STEP_SIZE * _PGD.eps, steps=_STEPS, random_start=True
            )
            contenders["torchattacks"] = autocast(device, mode.precision)(partial(theirs, images, labels))
        with mode.used(given.compiler):
            return _compared(device, contenders, len(images), {"mode": mode.name}, rounds=given.rounds)

    def _one(self, mode: Mode, left: float) -> Finding:
        """Time what `bench plan` projects evaluations from."""
        split = self._few
        with mode.used(self._given.compiler):
            found = Projector(self._given.device).attacks(self._classifier, split, self._auto, mode.precision)
        digest = attack_digest(self._classifier, split.images.shape[1:], mode.precision)
        text = f"{1e6 * found.forward:.3g} and {1e6 * found.gradient:.3g} µs an image"
        return Finding(text, {"mode": mode.name, "attacked": digest, **found._asdict()})

    def _autoattack(self, mode: Mode, left: float) -> Finding:
        given, (images, labels) = self._given, self._batch
        with mode.used(given.compiler):
            count = self._affordable(mode, left)
            few, right = images[:count], labels[:count]
            survivors: dict[str, int] = {}

            def ours(threat: Threat = self._auto) -> Tensor:
                found = auto_attack(
                    attacked_copy(self._classifier, mode.precision),
                    few,
                    right,
                    threat=threat,
                    num_classes=self._facts.num_classes,
                    seed=0,
                    batch_size=count,
                )
                survivors["ours"] = int(found.robust.sum())
                return found.x_adv

            contenders: dict[str, Callable[[], Tensor]] = {"ours": ours}
            ours(_ALL_FALL)  # the first call imports the library
            if find_spec("torchattacks"):
                attack = import_module("torchattacks").AutoAttack(
                    self._classifier, norm="Linf", eps=self._auto.eps, version="standard", n_classes=10, seed=0
                )

                def theirs() -> Tensor:
                    with autocast(given.device, mode.precision):
                        broken: Tensor = attack(few, right)
                    survivors["torchattacks"] = int((self._classifier(broken).argmax(1) == right).sum())
                    return broken

                contenders["torchattacks"] = theirs
            figures = {"images": count, "survivors": survivors}
            found = _compared(given.device, contenders, count, figures, rounds=1, warm_up=False)
        alive = ", ".join(f"{number} of {count} survive {name}" for name, number in survivors.items())
        return Finding(f"{found.text}; {alive}", found.figures)

    def _affordable(self, mode: Mode, left: float) -> int:
        """Return how many images fit in half the time, by the time of a pass on a few."""
        images, _labels = self._batch
        if not self._given.robust:
            return len(images)
        one = Projector(self._given.device).attacks(self._classifier, self._few, self._auto, mode.precision)
        each = (_GRADIENTS * one.gradient + _FORWARDS * one.forward) * (1 + bool(find_spec("torchattacks")))
        count = int(left / 2 / each)
        if count < _FEW:  # fewer would not take less time: the GPU has more units than they give work to
            raise LeftOutError(f"{_FEW} images would take {_FEW * each:.0f} s, and {left:.0f} s are left")
        return min(count, len(images))

    @cached_property
    def _few(self) -> Split:
        images, labels = self._batch
        return Split((255 * images[:_FEW]).round().to(torch.uint8), labels[:_FEW])

    @cached_property
    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return noise, float [N, 3, side, side], and the classes that the classifier answers."""
        shape = (self._given.attacked, *self._facts.image_shape)
        images = torch.randint(256, shape, generator=rng.generator(0, "images")).to(torch.uint8)
        pixels = unit_pixels(images.to(self._given.device))
        with torch.no_grad():
            return pixels, self._classifier(pixels).argmax(1)

    @cached_property
    def _classifier(self) -> Classifier:
        facts = self._facts
        with rng.scoped(0, "classifier"):
            settings = EncoderSettings(width=self._given.width)
            encoder = build_encoder(settings, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)
            head = nn.Linear(encoder.feature_dim, facts.num_classes)
        return Classifier(encoder, head).to(self._given.device).eval().requires_grad_(False)


def _compared(
    device: torch.device,
    contenders: Mapping[str, Callable[[], Tensor]],
    images: int,
    figures: Mapping[str, Any],
    *,
    rounds: int,
    warm_up: bool = True,
) -> Finding:
    """Call the contenders alternately, and return images/s of each and the ratio of ours to the other."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values() if warm_up else ():
        work()
    for _ in range(rounds):
        for name, work in contenders.items():
            seconds[name].append(seconds_of(work, device))
    speed = {name: images / median(times) for name, times in seconds.items()}
    text = ", ".join(f"{name} {value:,.3g} images/s" for name, value in speed.items())
    if "torchattacks" in speed:
        text += f", {speed['ours'] / speed['torchattacks']:.2f}x"
    else:
        text += "; torchattacks is not installed"
    return Finding(text, {**figures, "images_per_second": speed, "seconds": seconds})
