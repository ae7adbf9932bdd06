"""Checks of a deep visit: other attacks in the same ball, none of which may break much more than RA's does.

Each counts the images that RA's attack leaves standing and the other attack breaks: RA is too high by so many.

Source: Carlini et al., "On evaluating adversarial robustness" (2019), section 5.
"""

from typing import Any

import torch
from torch import Tensor

from bench.attack import (
    PGD,
    Loss,
    NamedAttack,
    Objective,
    correct,
    cross_entropy,
    log_margin,
    margin,
    margin_objective,
    square,
    square_fits,
)
from bench.doctor.check import Check, Finding, check
from bench.doctor.patient import Patient, shaken
from bench.doctor.surrogate import trained_surrogate
from bench.recipe import Threat
from bench.record import TOLERANCE, verdict_on

_STARTS = 4
"""More starts of RA's attack."""

_TIMES = 5
"""How many times the steps of RA's attack."""

_BLIND = 0.01
"""The share of images that an attack without the model's gradient may break: on sound models, none of a hundred."""

_NEARBY = 4
"""Points whose gradients are averaged, within a step of the attack."""

_SUITE = ("pgd-cw", "pgd-dlr", "apgd-dlr", "targeted-screen")
"""Attacks beside AutoAttack's, cheapest first, each on what the ones before it left."""

_QUERIES = 300
"""Of Square: enough to break a model whose gradient is hidden, a fraction of AutoAttack's 5,000."""


@check(
    "smaller radius",
    question="RA at half of eps is no lower than at eps: what breaks an image there is allowed here.",
    meaning="RA rises with eps, so the attack fails at eps: its steps are too long for the loss, which is shattered.",
    remedy="See the checks of the gradient, and lower evaluate.pgd_step_size.",
    deep=True,
)
def _smaller_radius(patient: Patient) -> Finding:
    half = Threat(norm=patient.threat.norm, eps=patient.threat.eps / 2)
    return _beside(patient, "the same attack with half of eps", _again(patient, threat=half))


@check(
    "number of steps",
    question="Five times the steps break little more, and a quarter of them breaks nothing that all have left.",
    meaning="More steps break more: the attack is not at its end, and RA is too high. Fewer break more: it does not "
    "climb.",
    remedy="Raise evaluate.pgd_steps until RA stays the same (bench sweep-steps), or lower evaluate.pgd_step_size.",
    deep=True,
)
def _steps(patient: Patient) -> Finding | None:
    if not _numbers(patient):
        return None  # the attack has its own
    steps = patient.recipe.evaluate.pgd_steps
    counts = (max(1, steps // 4), _TIMES * steps)
    x_adv = [_again(patient, pgd_steps=count) for count in counts]
    return _beside(patient, f"the same attack with {counts[0]} or {counts[1]} steps", *x_adv)


@check(
    "restarts",
    question="More random starts break little more.",
    meaning="The outcome depends on where the attack starts: the loss has many small peaks, or the model is random.",
    remedy="Raise evaluate.pgd_restarts until RA stays the same.",
    deep=True,
)
def _restarts(patient: Patient) -> Finding | None:
    if _numbers(patient).get("start", "clean") == "clean":
        return None  # no start is random, or the attack has its own
    x_adv = [_again(patient, restart=restart) for restart in range(1, 1 + _STARTS)]
    return _beside(patient, f"the same attack from {_STARTS} more starts", *x_adv)


@check(
    "margin loss",
    question="The margin of the two highest logits is no better loss than RA's own.",
    meaning="RA's loss loses sight of the nearest class, such as where all logits are close together. RA is too high; "
    "AutoAttack's loss does not depend on the scale of logits.",
    remedy="Remove the temperature. See the check scale of logits.",
    deep=True,
)
def _margin(patient: Patient) -> Finding:
    labels = patient.sample.labels

    def objective(loss: Loss) -> Objective:
        return lambda x: loss(patient.attacked(x), labels)

    finding = _beside(patient, "PGD on the margin", _climbed(patient, objective(margin)))
    left = int(patient.right(_climbed(patient, objective(cross_entropy))).sum())
    standing = int(finding.numbers["left by RA's attack"])
    numbers = {**finding.numbers, "left by cross-entropy": float(left)}
    found = f"{finding.found}. PGD on cross-entropy leaves {left}"
    # Others who attack by cross-entropy will measure a higher RA; this one does not depend on it.
    misled = verdict_on(max(0, left - standing), len(labels)) in ("doubt", "fail")
    return Finding("note" if misled and finding.verdict == "sound" else finding.verdict, found, numbers)


@check(
    "averaged gradient",
    question="The mean gradient of a few points nearby leads to little more than the gradient at the image itself.",
    meaning="The gradient is right where it is taken and says little about what lies a step ahead, such as on stairs "
    "with a slope here and there. RA is too high.",
    remedy="See the checks of the gradient. Attack with gradients that are averaged over small moves.",
    deep=True,
)
def _averaged(patient: Patient) -> Finding:
    generator, labels = patient.generator("averaged gradient"), patient.sample.labels
    step = patient.recipe.evaluate.pgd_step_size * patient.pixel_radius

    def objective(x: Tensor) -> Tensor:
        losses = []
        for _ in range(_NEARBY):
            inside = shaken(x.detach(), step, generator)
            losses.append(log_margin(patient.attacked(x + (inside - x).detach()), labels))  # also where it is cut to 1
        return torch.stack(losses).mean(0)

    return _beside(patient, f"PGD on the mean of {_NEARBY} points nearby", _climbed(patient, objective))


@check(
    "random search",
    question="Square, which needs no gradient, breaks nothing that RA's attack leaves.",
    meaning="Random search finds what the gradient does not show: the gradient is masked, and RA is too high.",
    remedy="See the checks of the gradient. Only AA counts, and it may be too high as well.",
    deep=True,
)
def _random_search(patient: Patient) -> Finding | None:
    if patient.aa is not None:
        return None  # AutoAttack has asked it more, on more images: see "black-box attack"
    if not square_fits(patient.sample.images.shape[1:], patient.threat.norm):
        return None
    standing, x_adv = patient.right(patient.x_adv), patient.sample.images.clone()
    if standing.any():
        x_adv[standing] = square(
            patient.attacked,
            patient.sample.images[standing],
            patient.sample.labels[standing],
            threat=patient.threat,
            seed=patient.seed,
            queries=_QUERIES,
        )
    return _beside(patient, f"Square with {_QUERIES} queries", x_adv, tolerance=_BLIND)


@check(
    "transfer",
    question="Images that were made for another network break nothing that RA's attack leaves.",
    meaning="An attack that never saw the model is better than one that follows its gradient: the gradient is masked, "
    "and RA is too high.",
    remedy="See the checks of the gradient. Only AA counts, and it may be too high as well.",
    deep=True,
)
def _transfer(patient: Patient) -> Finding | None:
    other = trained_surrogate(patient)
    if other is None:
        return None
    objective = margin_objective(other, patient.sample.labels)
    return _beside(patient, "the attack on a small plain network", _climbed(patient, objective), tolerance=_BLIND)


@check(
    "missed by AutoAttack",
    question="The attack suite (margin, logit ratio, nearest targets) breaks no image that AutoAttack leaves.",
    meaning="AutoAttack's attacks are not enough for this model, and AA is too high.",
    remedy="Evaluate with --attacks, and report the accuracy after the whole list beside AA.",
    deep=True,
)
def _missed(patient: Patient) -> Finding | None:
    if patient.aa is None or patient.aa.eps != patient.threat.eps:
        return None
    sample, n = patient.sample, len(patient.sample.labels)
    robust = dict(zip(patient.aa.outcome.positions(len(patient.test)), patient.aa.outcome.unpack(), strict=True))
    left = [place for place, position in enumerate(sample.positions) if robust.get(position)]
    standing = left
    for name in _SUITE:
        if not standing:
            break
        x_adv = NamedAttack(name, patient.recipe.evaluate, stream=f"attacks.{name}")(
            patient.attacked,
            sample.images[standing],
            sample.labels[standing],
            threat=patient.threat,
            seed=patient.seed,
            positions=[sample.positions[place] for place in standing],
        )
        with torch.no_grad():
            right = correct(patient.classifier(x_adv), sample.labels[standing])
        standing = [place for place, still in zip(standing, right.tolist(), strict=True) if still]
    missed = [sample.positions[place] for place in left if place not in standing]
    named = f" (test images {', '.join(map(str, missed))})" if missed else ""
    found = f"of {n} images AutoAttack leaves {len(left)}, and the suite breaks {len(missed)} of them{named}"
    numbers = {"images": float(n), "left by AutoAttack": float(len(left)), "broken": float(len(missed))}
    return Finding(verdict_on(len(missed), n, tolerance=_BLIND, standing=len(left)), found, numbers)


def _beside(patient: Patient, attack: str, *x_adv: Tensor, tolerance: float = TOLERANCE) -> Finding:
    """Return the verdict on the images that RA's attack leaves, and one of the batches ``x_adv`` breaks."""
    left = patient.right(patient.x_adv)
    broken = left & ~torch.stack([patient.right(one) for one in x_adv]).all(0)
    n, standing, count = len(left), int(left.sum()), int(broken.sum())
    found = f"of {n} images RA's attack leaves {standing}, and {attack} breaks {count} of them"
    numbers = {"images": float(n), "left by RA's attack": float(standing), "broken": float(count)}
    return Finding(verdict_on(count, n, tolerance=tolerance, usual=tolerance, standing=standing), found, numbers)


def _numbers(patient: Patient) -> dict[str, Any]:
    """Return the recipe's steps, step size and start, where RA's attack is made from them."""
    return NamedAttack(patient.recipe.evaluate.attack, patient.recipe.evaluate).from_recipe


def _again(patient: Patient, *, threat: Threat | None = None, restart: int = 0, **settings: Any) -> Tensor:
    """Return the sample after RA's attack with other settings."""
    evaluate = patient.recipe.evaluate.model_copy(update=settings)
    return NamedAttack(evaluate.attack, evaluate)(
        patient.attacked,
        patient.sample.images,
        patient.sample.labels,
        threat=threat or patient.threat,
        seed=patient.seed,
        positions=patient.sample.positions,
        restart=restart,
    )


def _climbed(patient: Patient, objective: Objective) -> Tensor:
    """Return the sample after PGD on another objective, with the recipe's steps."""
    settings = patient.recipe.evaluate
    attack = PGD(settings.pgd_steps, settings.pgd_step_size, settings.pgd_start)
    return attack(objective, patient.sample.images, threat=patient.threat, generator=patient.generator("start"))


STRENGTH: tuple[Check, ...] = (
    _smaller_radius,
    _steps,
    _restarts,
    _margin,
    _averaged,
    _random_search,
    _transfer,
    _missed,
)
