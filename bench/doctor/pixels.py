"""Checks of the pixels: what reaches the encoder, what attacks return, and the unit of eps."""

from collections.abc import Iterable, Iterator
from math import log

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bench.attack import correct, distance
from bench.data import unit_pixels
from bench.doctor.check import Check, Finding, check
from bench.doctor.patient import Patient, watching
from bench.errors import BenchError
from bench.record import Verdict, mcnemar_exact
from bench.zoo import CONSTANTS

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, one a channel."""

_FEW = 128
"""Test images whose statistics or answers are compared."""

_BOUND = 1e-6
"""How far float32 may be outside: half an ulp of 1 is 6e-8."""

_SURE = 0.001
"""Level of the test whether other constants are better: a few are tried, and a sound model should never be flagged."""

_VARIANCES = 4.0
"""Augmentation changes the variance of what a network sees by less than two. Pixels that should have been divided by
their standard deviation of 0.2 to 0.35, and were not, have one that is 8 to 25 times too small."""


@check(
    "pixel range",
    question="Images reach the encoder as pixels in [0, 1].",
    meaning="Something before the encoder changes the pixels, such as a normalisation. The attack's eps and its limits "
    "of 0 and 1 then hold for other numbers than those that the encoder sees.",
    remedy="Make normalisation the first layer inside the encoder.",
)
def _range(patient: Patient) -> Finding:
    seen = torch.cat(patient.reached)
    low, high = seen.min().item(), seen.max().item()
    said = f"pixels of clean and attacked images reach the encoder between {low:.6g} and {high:.6g}"
    inside = low >= -_BOUND and high <= 1 + _BOUND
    return Finding("sound" if inside else "fail", said, {"lowest": low, "highest": high})


@check(
    "inside the ball",
    question="Every attacked image is within eps of its image and in [0, 1], computed in float64.",
    meaning="The attack breaks its own rules, so RA is too low, and is no number under this threat model.",
    remedy="Project the attack's result, or use the bench's own attack.",
)
def _inside(patient: Patient) -> Finding:
    eps = patient.threat.eps
    try:
        x_adv = patient.x_adv
    except BenchError as error:  # raised by the attack's own check
        return Finding("fail", str(error).partition(". ")[0][:500])
    moved = distance(x_adv, patient.sample.images, patient.threat.norm).max().item()
    low, high = x_adv.min().item(), x_adv.max().item()
    said = f"{len(x_adv)} images moved by at most {moved:.9g} (eps {eps:.9g}), to pixels between {low:g} and {high:g}"
    return Finding("sound", said, {"moved": moved, "eps": eps, "lowest": low, "highest": high})


@check(
    "unit of eps",
    question="eps is a distance of pixels in [0, 1], as the encoder receives them, and the usual one of the data.",
    meaning="eps counts in another unit, such as pixels divided by their standard deviation, so RA and AA are those of "
    "another radius.",
    remedy="Give eps on the [0, 1] scale of pixels, such as --set threat.eps=8/255, and normalise inside the encoder.",
)
def _unit(patient: Patient) -> Finding:
    facts, norm, eps = patient.recipe.dataset, patient.threat.norm, patient.threat.eps
    images, x_adv = patient.sample.images, patient.x_adv
    arrived = distance(*patient.reached, norm).max().item()
    sent, usual = distance(x_adv, images, norm).max().item(), facts.radius(norm)
    numbers = {"moved": sent, "moved at the encoder": arrived, "eps": eps, "usual eps": usual}
    if abs(arrived - sent) > _BOUND + 0.01 * sent:
        said = f"the attack moves pixels by {sent:.4g}, and at the encoder they have moved by {arrived:.4g}"
        return Finding("fail", said, numbers)
    scale = eps / usual if usual else 1.0
    # A whole multiple of the usual radius is a choice: 4 times it is near 1 / 0.25, a common deviation.
    chosen = scale > 0 and any(abs(times - round(times)) < 1e-6 for times in (scale, 1 / scale) if times >= 1)
    deviations = [] if chosen else [1 / std for std in facts.std if std > 0]
    units = {"divided by the standard deviation of a channel": deviations}
    units["in grey levels from 0 to 255"] = [255.0, 1 / 255]
    for unit, factors in units.items():
        if any(abs(log(scale / factor)) < 0.02 for factor in factors if scale > 0):
            said = f"eps is {eps:.4g}, {scale:.3g} times the usual {usual:.4g}: that radius for pixels {unit}"
            return Finding("doubt", said, numbers)
    said = f"the attack moves pixels by {arrived:.4g} as the encoder sees them; eps is {eps:.4g}, usual {usual:.4g}"
    return Finding("sound" if abs(scale - 1) < 1e-6 else "note", said, numbers)


@check(
    "normalisation",
    question="The model is not better on pixels that are normalised with other constants.",
    meaning="The model was trained on normalised pixels, and here it gets them as they are. Its accuracies are not "
    "those of the model that was trained.",
    remedy="Give the encoder its constants: --normalisation, or encoder.normalisation in the recipe.",
)
@torch.no_grad()
def _normalisation(patient: Patient) -> Finding | None:
    images, labels = _test_images(patient)
    known = {**CONSTANTS, "the data": (patient.recipe.dataset.mean, patient.recipe.dataset.std)}
    fitting = {name: each for name, each in known.items() if len(each[0]) == images.shape[1] and min(each[1]) > 0}
    if not fitting:
        return None
    right, *others = (correct(patient.classifier(x), labels) for x in (images, *_normalised(images, fitting.values())))
    found = {name: (then.double().mean().item(), then) for name, then in zip(fitting, others, strict=True)}
    plain = right.double().mean().item()
    name, (share, then) = max(found.items(), key=lambda pair: pair[1][0])
    said = (
        f"right on {100 * plain:.1f} % of {len(labels)} test images as they are, and on {100 * share:.1f} % normalised "
        f"with the constants of {name}"
    )
    p_value = mcnemar_exact(int((then & ~right).sum()), int((right & ~then).sum()))
    better = share > plain and p_value < _SURE / len(found)
    return Finding("fail" if better else "sound", said, {"as they are": plain, "normalised": share})


@check(
    "input statistics",
    question="The first batch-norm sees values as in training.",
    meaning="The images differ from those that the encoder was trained on: they are not normalised as in training, are "
    "scaled differently, or are of another kind.",
    remedy="Compare the encoder's normalisation with that of its training; see --normalisation.",
)
@torch.no_grad()
def _statistics(patient: Patient) -> Finding | None:
    images, _ = _test_images(patient)
    norms = [
        part
        for part in patient.classifier.encoder.modules()
        if isinstance(part, _BatchNorm) and part.running_var is not None
    ]
    seen: list[tuple[_BatchNorm, Tensor]] = []
    with watching(norms, lambda norm, x: seen.append((norm, x))):
        patient.classifier(images)
    if not seen:
        return None  # a network without batch-norm
    norm, x = seen[0]
    values = x.double().transpose(0, 1).flatten(1)
    assert norm.running_mean is not None, "a batch-norm that keeps variances keeps means"
    assert norm.running_var is not None, "only such layers are watched"
    mean, variance = norm.running_mean.double(), norm.running_var.double() + norm.eps
    ratio = float(((values.var(1) + norm.eps) / variance).log().median().exp())
    shift = float(((values.mean(1) - mean) / variance.sqrt()).abs().median())
    said = (
        f"over {len(images)} test images the first batch-norm sees {ratio:.2g} times the variance that it saw in "
        f"training, and means that are {shift:.2g} standard deviations away"
    )
    odd = not 1 / _VARIANCES <= ratio <= _VARIANCES
    verdict: Verdict = "sound" if not odd else "note" if patient.recipe.pretrained_on else "doubt"
    return Finding(verdict, said, {"variance": ratio, "distance of means": shift})


def _normalised(images: Tensor, constants: Iterable[Constants]) -> Iterator[Tensor]:
    for each in constants:
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in each)
        yield (images - mean) / std


def _test_images(patient: Patient) -> tuple[Tensor, Tensor]:
    """Return some test images, evenly spaced, as float [B, C, H, W] in [0, 1], and their labels."""
    every = slice(None, None, -(-len(patient.test) // _FEW))
    images, labels = patient.test.images[every], patient.test.labels[every]
    return unit_pixels(images.to(patient.device)), labels.to(patient.device)


PIXELS: tuple[Check, ...] = (_range, _inside, _unit, _normalisation, _statistics)
