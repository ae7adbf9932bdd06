"""Checks of the gradient that attacks follow: whether there is one, and whether it says where the loss grows.

Source: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (2018), section 3: gradients
that do not exist, that are random, or that are those of another function.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.attack import log_margin, margin_objective
from bench.doctor.check import Check, Finding, check
from bench.doctor.patient import Patient, shaken
from bench.record import verdict_on

_SLOPE_STEPS = (1 / 50, 1 / 500)
"""Of eps, in its norm. On ResNets the slope over the first is 0.93 to 1.03 of the gradient's, on each image; over steps
of eps/10 it was down to 0.78 where training was not adversarial, since the gradient changes on the way. A gradient that
is right for the second alone is that of this function, with jumps: the vote of a kNN, where a neighbour changes."""

_SLOPES = (0.5, 2.0)
"""A slope outside differs from its gradient by more than a factor of 2."""

_NEARBY = 1 / 10
"""Of eps, in its norm: the most that a random move may be, less than half a step of the attack."""

_FLAT = 1 / 20
"""The share of pixels without a gradient that are worth a question. Sound classifiers had none."""

_INFLUENCE = 3 / 4
"""Of that of a mean pixel, in squares of the logits' distance, which add up over independent moves of a step of the
attack. Pixels without a gradient have about 1 on stairs, 0 where they are cut off, and far less than this where they
are not the largest of their max-pool."""

_MOVES = 4
"""Random moves that the influence is a mean over."""

_COSINE = 0.5
"""After that move, the gradients of sound classifiers had cosines of 0.93 or more, on each image."""


@check(
    "zero gradient",
    question="Every image has a gradient that is finite and not zero, before the attack and at its end.",
    meaning="The attack has no direction and leaves the image as it is. RA counts it as robust, and no attack with "
    "gradients has been made.",
    remedy="Look for rounding, argmax, detach, no_grad and conversions to NumPy between pixels and logits. A layer "
    "without a gradient needs a differentiable stand-in for attacks (BPDA).",
)
def _zero_gradient(patient: Patient) -> Finding:
    images, labels = patient.sample.images, patient.sample.labels
    before = without_direction(input_gradient(patient.attacked, images, labels))
    # Without any path from the logits to the pixels no attack can run, and all images stay where they are.
    x_adv = images if before.all() else patient.x_adv
    after = without_direction(input_gradient(patient.attacked, x_adv, labels))
    n, first, last = len(labels), int(before.sum()), int(after.sum())
    numbers = {"images": float(n), "at the image": float(first), "at the end of the attack": float(last)}
    found = f"of {n} images, {first} have no gradient before the attack and {last} at its end"
    counted = patient.ra.no_gradient if patient.ra else None
    if patient.ra and counted:
        total = patient.ra.outcome.n
        found += f"; during RA {counted.first} and {counted.last} of {total}"
        n, first, last = total, max(first, counted.first), max(last, counted.last)
    return Finding(verdict_on(max(first, last), n), found, numbers)


@check(
    "pixels without gradient",
    question="From a random start, pixels whose gradient is zero hardly move the logits.",
    meaning="The attack leaves these pixels where its start has put them, although they count: some layer is flat in "
    "most places and has a slope in a few. Images look robust that are not, so RA and AA are too high.",
    remedy="Look for rounding, thresholds and lookup tables between pixels and logits. Such a layer needs a "
    "differentiable stand-in for attacks (BPDA).",
)
@torch.no_grad()
def _pixels_without_gradient(patient: Patient) -> Finding | None:
    images, labels = patient.sample.images, patient.sample.labels
    generator, radius = patient.generator("pixels without gradient"), patient.pixel_radius
    start = shaken(images, radius, generator)
    gradient = input_gradient(patient.attacked, start, labels)
    known = ~without_direction(gradient)
    n = int(known.sum())
    if not n:
        return None  # no gradient at all
    shares = (gradient == 0).flatten(1).double().mean(1)
    logits = patient.attacked(start)
    of_some, of_all = (torch.zeros_like(shares) for _ in range(2))
    for _ in range(_MOVES):
        moved = shaken(start, patient.recipe.evaluate.pgd_step_size * radius, generator)
        of_some += _squared_distance(patient.attacked(torch.where(gradient == 0, moved, start)), logits)
        of_all += _squared_distance(patient.attacked(moved), logits)
    influence = of_some / of_all / shares
    masked = known & (shares > _FLAT) & (influence > _INFLUENCE)
    count, middle = int(masked.sum()), float(shares[known].median())
    found = (
        f"on {count} of {n} images pixels without a gradient move the logits about as much as others; the median image "
        f"has {middle:.1%} such pixels"
    )
    return Finding(verdict_on(count, n), found, {"images": float(n), "masked": float(count), "share": middle})


@check(
    "finite difference",
    question="A small step along the gradient changes the loss as the gradient promises, or at least a step ten times "
    "smaller does.",
    meaning="The gradient is that of another function: of a stand-in for a layer, of a random draw that is over, or of "
    "one branch of several. Attacks that follow it are too weak. Where only the smaller step keeps the promise, the "
    "loss has jumps, such as a vote of nearest neighbours; that is a note.",
    remedy="Check every layer with a backward pass of its own, and every use of detach. A stand-in that is there for "
    "attacks (BPDA) is found as well: the row keeps its flag. Run other attacks: bench doctor --deep.",
)
def _finite_difference(patient: Patient) -> Finding | None:
    images, labels = patient.sample.images, patient.sample.labels
    steps = [share * patient.pixel_radius for share in _SLOPE_STEPS]
    wide, narrow = (slope_ratios(patient.attacked, images, labels, step) for step in steps)
    known = ~(wide.isnan() | narrow.isnan())
    n = int(known.sum())
    if not n:
        return None  # no gradient at all
    low, high = _SLOPES
    over_wide, over_narrow = ((ratios[known] < low) | (ratios[known] > high) for ratios in (wide, narrow))
    wrong, jumps = int((over_wide & over_narrow).sum()), int((over_wide & ~over_narrow).sum())
    middle = float(wide[known].double().median())
    found = (
        f"on {wrong} of {n} images the loss changes by less than {low:g} or more than {high:g} of what the gradient "
        f"promises, however small the step; on {jumps} more over the larger of two steps; the median is {middle:.3g}"
    )
    verdict = verdict_on(wrong, n)
    if verdict == "fail":
        verdict = "doubt"  # a stand-in that was made on purpose (BPDA) is such a gradient, and may lead further
    if verdict == "sound" and jumps:
        verdict = "note"
    numbers = {"images": float(n), "wrong": float(wrong), "jumps": float(jumps), "median": middle}
    return Finding(verdict, found, numbers)


@check(
    "gradient stability",
    question="The gradient keeps its direction over random moves of up to a tenth of eps.",
    meaning="The gradient is shattered: it is right at one point and says nothing about the way ahead, so that the "
    "steps of an attack go back and forth.",
    remedy="Look for random parts and for layers with many steps or waves. Average the gradient over small moves "
    "(EOT), or run a black-box attack: bench doctor --deep.",
)
def _stability(patient: Patient) -> Finding | None:
    images, labels = patient.sample.images, patient.sample.labels
    step = _NEARBY * patient.pixel_radius
    cosines = nearby_cosines(patient.attacked, images, labels, step, patient.generator("nearby"))
    known = cosines[~cosines.isnan()]
    if not len(known):
        return None  # no gradient at all
    turned, middle = int((known < _COSINE).sum()), float(known.double().median())
    found = f"on {turned} of {len(known)} images the cosine is below {_COSINE:g}; the median is {middle:.3g}"
    return Finding(
        verdict_on(turned, len(known)), found, {"images": float(len(known)), "turned": float(turned), "median": middle}
    )


@check(
    "inner optimisation",
    question="The model computes no gradients while it answers.",
    meaning="The model optimises something for each image (purification, test-time training). The gradient that "
    "attacks get leaves that out, so RA and AA are too high.",
    remedy="Attack through the inner steps, or with an attack that is made for this defence. Beside static models the "
    "row needs a remark.",
)
@torch.no_grad()
def _inner_optimisation(patient: Patient) -> Finding:
    with _Watch() as watch:
        patient.attacked(patient.sample.images[:2])  # two: of one image no batch-norm in train mode has statistics
    numbers = {"operations": float(watch.with_gradients)}
    if not watch.with_gradients:
        return Finding("sound", "a pass that was asked for no gradients computes none", numbers)
    found = f"a pass that was asked for no gradients runs {watch.with_gradients} operations with gradients turned on"
    return Finding("doubt", found, numbers)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return that of logits [B, K], for each image: float64 [B]."""
    return (a.double() - b.double()).square().sum(1)


class _Watch(TorchFunctionMode):
    """Counts operations that are made with gradients turned on."""

    with_gradients = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else (result,)
        self.with_gradients += any(isinstance(one, Tensor) and one.requires_grad for one in tensors)
        return result


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the log-margin, [B, C, H, W]; zero where no path leads from the logits to the pixels."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        values = margin_objective(model, labels)(x).sum()
        if not values.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(values, x, materialize_grads=True)
    return gradient


def without_direction(gradient: Tensor) -> Tensor:
    """Return which images have a gradient that is zero everywhere or not finite somewhere: [B, ...] -> bool [B]."""
    flat = gradient.flatten(1)
    return (flat == 0).all(1) | ~flat.isfinite().all(1)


@torch.no_grad()
def slope_ratios(model: nn.Module, images: Tensor, labels: Tensor, step: float) -> Tensor:
    """Return, for each image, the measured slope of the log-margin over the slope that its gradient promises.

    The slope is that along the gradient's sign, from ``step`` before to ``step`` behind the image. Pixels nearer than
    that to 0 or 1 are moved inwards first, so that no image leaves [0, 1].

    Returns:
        [B]; 1 for a differentiable model and a small step, NaN without a gradient.
    """
    images = images.clamp(step, 1 - step)
    gradient = input_gradient(model, images, labels)
    ahead, behind = (log_margin(model(images + way * step * gradient.sign()), labels) for way in (1, -1))
    promised = 2 * step * gradient.abs().flatten(1).sum(1)
    return (ahead - behind) / torch.where(promised == 0, torch.nan, promised)


@torch.no_grad()
def nearby_cosines(model: nn.Module, images: Tensor, labels: Tensor, step: float, generator: torch.Generator) -> Tensor:
    """Return the cosine of each image's gradient and that after a random move of every pixel, by up to ``step``.

    Returns:
        [B]; NaN where one of the two has no gradient.
    """
    gradients = [input_gradient(model, x, labels) for x in (images, shaken(images, step, generator))]
    missing = without_direction(gradients[0]) | without_direction(gradients[1])
    # Scaled first: the function takes lengths below 1e-8 for 1e-8.
    a, b = (F.normalize(gradient.flatten(1), p=torch.inf, eps=0.0) for gradient in gradients)
    return F.cosine_similarity(a, b).masked_fill(missing, torch.nan)


GRADIENT: tuple[Check, ...] = (
    _zero_gradient,
    _pixels_without_gradient,
    _finite_difference,
    _stability,
    _inner_optimisation,
)
