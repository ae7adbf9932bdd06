"""Projected gradient ascent: the attack engine of both training and evaluation."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from bench import rng
from bench.attack.ball import Ball, ball_around
from bench.attack.frozen import attacking, no_path
from bench.attack.objective import GradientWatch, Objective, margin_objective
from bench.errors import BenchError, short, unknown, warn
from bench.recipe import AttackSettings, Norm, Start, Threat, with_checked_arguments
from bench.recipe.fields import Number, Seed, Whole

_GAUSSIAN_SCALE = 0.001  # TRADES, algorithm 1


@dataclass(frozen=True)
class PGD:
    """Projected ascent on any objective; the result is inside the ball to the last bit.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018), section 2.1.
    """

    steps: int
    """Gradient steps; with 0 the start is returned, projected."""
    step_size: float
    """Length of a step in units of eps: 0.25 is 2/255 at 8/255."""
    start: Start
    """Where the first gradient is taken."""
    per_image: ClassVar[bool] = True
    """Takes a generator for each image."""

    def __post_init__(self) -> None:
        if self.start not in get_args(Start):
            raise unknown("start", str(self.start), get_args(Start))
        kinds = (self.steps, Integral), (self.step_size, Real)
        numbers = all(isinstance(value, kind) and not isinstance(value, bool) for value, kind in kinds)
        if not numbers or self.steps < 0 or not 0 <= self.step_size < math.inf:
            raise BenchError(
                f"PGD of {self.steps} steps of {self.step_size} eps: the first must be a whole number, the second a "
                "finite one, and neither may be negative. Pass, for example, 20 and 0.25."
            )

    @classmethod
    def of(cls, settings: AttackSettings) -> Self:
        """Return the attack that ``settings`` describe."""
        return cls(settings.steps, settings.step_size, settings.start)

    def __call__(
        self,
        objective: Objective,
        images: Tensor,
        *,
        threat: Threat,
        generator: rng.Generators | None = None,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return the last iterate.

        Args:
            objective: the function to maximise, [B, C, H, W] -> [B].
            images: [B, C, H, W], float32 or float64, in [0, 1]; the result keeps their memory format.
            threat: the ball to stay in.
            generator: draws the start; one for the batch, on the images' device, or one for each image, on the CPU
                (:func:`bench.attack.image_generators`). Needed for every start except "clean".
            on_gradient: called at each step with the objective's gradient, [B, C, H, W].

        Raises:
            BenchError: a random start without a generator.
        """
        run = self.iterates(objective, images, threat=threat, generator=generator, on_gradient=on_gradient)
        return deque(run, maxlen=1).pop()  # one iterate in memory at a time

    def iterates(
        self,
        objective: Objective,
        images: Tensor,
        *,
        threat: Threat,
        generator: rng.Generators | None = None,
        on_gradient: Callable[[Tensor], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the projected start and then each step: the k-th is what the attack with ``steps=k`` returns.

        Arguments and errors are those of a call.
        """
        images = images.detach()
        ball = ball_around(images, threat)
        length = self.step_size * threat.eps
        x = _start(ball, images, self.start, generator)
        yield ball.project(x)
        for _ in range(self.steps):
            gradient = _gradient(objective, x)
            if on_gradient:
                on_gradient(gradient)
            # From the raw start: the papers' noise may leave [0, 1] until the first projection. A gradient that is
            # NaN gives no direction: without the zero the image itself would become NaN.
            x = ball.project(x + length * ball.step(gradient.nan_to_num()))
            yield x


def _start(ball: Ball, images: Tensor, start: Start, generator: rng.Generators | None) -> Tensor:
    if start == "clean":
        return images
    if generator is None:
        raise BenchError(
            f"the start {start!r} draws noise, but no generator was given. "
            "Pass generator=bench.rng.generator(seed, 'attack'), or start='clean'."
        )
    if start == "gaussian":
        return images + _GAUSSIAN_SCALE * rng.normal(images.shape, generator, images)
    x = ball.random_start(generator)
    return x.clamp(0, 1) if start == "uniform-clamped" else x


def _gradient(objective: Objective, x: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = objective(x).sum()
        if not value.requires_grad:  # no path leads back to the pixels: a gradient of zero, which the watch notes
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(value, x, materialize_grads=True)
    return gradient


@with_checked_arguments
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: Number,
    norm: Norm = "linf",
    steps: Whole = 20,
    step_size: Number = 0.25,
    start: Start = "uniform",
    seed: Seed = 0,
) -> Tensor:
    """Return ``images`` changed so that a classifier errs: the attack that RA is measured with, as one call.

    For another objective than the classifier's margin, use :class:`PGD`. A warning says on how many images it has no
    gradient, neither at its first step nor at its last: these show little about the model.

    Args:
        model: [B, C, H, W] in [0, 1] -> logits [B, K]; attacked in eval mode, and unchanged afterwards.
        images: [B, C, H, W], float32 or float64, in [0, 1].
        labels: int64 [B], the right classes.
        eps: the radius, in the units of the images: 8 / 255.
        norm: linf or l2.
        steps: gradient steps, at least 1.
        step_size: length of a step, in units of eps.
        start: where the first gradient is taken.
        seed: of the starts; with the run's seed and the whole test split they are those of RA.

    Raises:
        BenchError: images, labels or a model that are not such, or a value out of range.
    """
    _refuse_images(images)
    threat = Threat.parse({"norm": norm, "eps": eps}, "pgd")
    attack = PGD.of(AttackSettings.parse({"steps": steps, "step_size": step_size, "start": start}, "pgd"))
    if steps < 1:  # the start of a training stage may be all of its attack, but noise is none
        raise BenchError(f"steps is {steps}: that is the random start, and no attack. Pass 1 or more, such as 20.")
    generators = [rng.generator(seed, "pgd", position, 0) for position in range(len(images))]
    with attacking(model):
        images, labels = (given.clone() if given.is_inference() else given for given in (images, labels))
        _refuse_model(model, images, labels)
        objective, watch = margin_objective(model, labels), GradientWatch()
        x_adv = attack(objective, images, threat=threat, generator=generators, on_gradient=watch)
    if still := int((watch.first & watch.last).sum()):
        warn(
            f"{still} of {len(images)} images have no gradient at PGD's first step and at its last: it has hardly "
            "attacked them, and accuracy on them shows little. Look for rounding, argmax and masks in the model."
        )
    return x_adv


def _refuse_images(images: Tensor) -> None:
    """Raise BenchError unless they are a batch of pixels in [0, 1]."""
    if images.is_meta or images.layout is not torch.strided:
        raise BenchError(
            f"images are {images.layout} on {images.device}, which an attack cannot read. Pass dense ones on the CPU "
            "or a GPU."
        )
    if not images.numel():
        raise BenchError(f"there are no images: their shape is {list(images.shape)}. Pass one or more, [B, C, H, W].")
    found = ""
    if not images.is_floating_point():
        instead = "For uint8 images, pass images / 255"
    elif images.ndim != 4:
        instead = "For a single image, pass images[None]; for grey ones, images[:, None]"
    else:
        low, high = images.aminmax()
        if 0 <= low <= high <= 1:
            return
        found = f", from {low:g} to {high:g}"
        if low.isnan():
            instead = "Look for NaN in what made them"
        elif low < 0:
            instead = "Put what normalises them into the model"
        else:
            instead = "If they are from 0 to 255, pass images / 255"
    raise BenchError(
        f"images are {images.dtype} of shape {list(images.shape)}{found}; an attack takes floats [B, C, H, W] from 0 "
        f"to 1. {instead}."
    )


def _refuse_model(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise BenchError unless ``model`` returns logits with a gradient for ``images``, and ``labels`` are classes."""
    try:
        with torch.enable_grad():
            logits = model(images.detach().requires_grad_())
    except (Exception, SystemExit) as error:  # of a network that takes other images, or is on another device
        raise BenchError(
            f"the model cannot take these images, {images.dtype} of shape {list(images.shape)} on {images.device} "
            f"({short(error)})."
        ) from error
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise BenchError(
            f"the model returns {found} for {len(images)} images. Pass one that returns logits [B, K], K > 1."
        )
    if not logits.isfinite().all():
        raise BenchError("the model's logits are not all finite. Look for NaN and infinity in its weights.")
    if not logits.requires_grad:
        raise no_path("PGD")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or labels.device != images.device:
        raise BenchError(
            f"labels are {labels.dtype} of shape {list(labels.shape)} on {labels.device}; {len(images)} images need "
            f"as many classes, torch.int64 [B], on {images.device}{_classes(labels, images)}."
        )
    if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise BenchError(
            f"labels are from {labels.min()} to {labels.max()}, and the model has {logits.shape[1]} classes, from 0 to "
            f"{logits.shape[1] - 1}."
        )


def _classes(labels: Tensor, images: Tensor) -> str:
    """Return what makes classes of ``images`` of ``labels``, to be typed; empty where nothing would."""
    typed = "labels"
    if labels.ndim == 2 and len(labels) == len(images):
        typed += "[:, 0]" if labels.shape[1] == 1 else ".argmax(1)"  # the second of one-hot labels, already int64
    if labels.dtype != torch.int64 and not typed.endswith("argmax(1)"):
        typed += ".long()"
    if labels.device != images.device:
        typed += ".to(images.device)"
    return "" if typed == "labels" else f", such as {typed}"
