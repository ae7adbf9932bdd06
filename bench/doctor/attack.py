"""Checks of the attack: that it does what it should, and that no other attack is much stronger.

Source: Carlini et al., "On evaluating adversarial robustness" (2019), section 5, for the list; Croce and Hein,
"Reliable evaluation of adversarial robustness" (2020), for AutoAttack's own warnings.
"""

import torch

from bench.attack import PGD, log_margin, margin_objective
from bench.doctor.check import Check, Finding, check
from bench.doctor.patient import Patient
from bench.recipe import Threat
from bench.record import RA_AND_AA, TOLERANCE, ra_and_aa, verdict_on

_BLACK_BOX = 0.01
"""The share of images that Square may break beyond AutoAttack's attacks with gradients, which make hundreds of steps.
In 99 published records it broke one image, of 100, in one."""


@check(
    "loss growth",
    question="The attack ends where the loss is higher than at the image.",
    meaning="The attack does not climb: its gradient points nowhere, its steps are too large, or it attacks another "
    "model or other labels than those that are judged.",
    remedy="See the checks of the gradient; lower evaluate.pgd_step_size; check the attack's sign and labels.",
)
@torch.no_grad()
def _loss_growth(patient: Patient) -> Finding | None:
    if patient.threat.eps == 0:
        return None
    labels = patient.sample.labels
    growth = log_margin(patient.classifier(patient.x_adv), labels) - log_margin(patient.logits, labels)
    n, flat = len(labels), int((~(growth > 0)).sum())
    found = (
        f"on {flat} of {n} images the loss is no higher after the attack; its median growth is {growth.median():.3g}"
    )
    return Finding(verdict_on(flat, n), found, {"images": float(n), "not higher": float(flat)})


@check(
    "unbounded attack",
    question="Where every pixel may take any value, the attack breaks every image.",
    meaning="Within such a radius each image can become any other, so an attack that works reaches an accuracy of 0. "
    "This one does not work on this model.",
    remedy="See the checks of the gradient. No RA of this model is to be believed before this is 0.",
)
def _unbounded(patient: Patient) -> Finding:
    x_adv = PGD(10, 0.25, "uniform")(
        margin_objective(patient.attacked, patient.sample.labels),
        patient.sample.images,
        threat=Threat(norm="linf", eps=1.0),
        generator=patient.generator("unbounded"),
    )
    n, left = len(x_adv), int(patient.right(x_adv).sum())
    found = f"{left} of {n} images are right after 10 steps of PGD with eps = 1 (linf)"
    return Finding(verdict_on(left, n), found, {"images": float(n), "right": float(left)})


@check(
    "attack repeated",
    question="The attack of RA, repeated, breaks no images that RA counted as robust.",
    meaning="RA was measured with a weaker attack than its settings say, on another model, or on one that answers at "
    "random.",
    remedy="Evaluate again; compare the digest of the classifier with that in the record.",
)
def _repeated(patient: Patient) -> Finding | None:
    if patient.ra is None or patient.ra.eps != patient.threat.eps:
        return None
    places = patient.sample.positions
    counted = torch.from_numpy(patient.ra.outcome.spread(len(patient.test))[1][places]).to(patient.device)
    broken = int((counted & ~patient.right(patient.x_adv)).sum())
    n, standing = len(places), int(counted.sum())
    found = f"of {n} images RA counted {standing} as robust, and the same attack breaks {broken} of them"
    numbers = {"images": float(n), "robust": float(standing), "broken": float(broken)}
    return Finding(verdict_on(broken, n, usual=TOLERANCE, standing=standing), found, numbers)


@check(
    RA_AND_AA,
    question="On the same images AA is below RA, but not far below, and breaks what RA's attack breaks.",
    meaning="Far below: RA's attack is weak on this model, and AA alone counts. Images that are robust under AA and "
    "broken under PGD or wrong without an attack: the two were measured on other images, or on other models.",
    remedy="Look at the checks of the gradient; evaluate again, both attacks in one command.",
)
def _ra_and_aa(patient: Patient) -> Finding | None:
    found = ra_and_aa(patient.sa, patient.ra, patient.aa, test_images=len(patient.test))
    return Finding(found.verdict, found.found, found.numbers) if found else None


@check(
    "black-box attack",
    question="AutoAttack's attack without gradients breaks nothing that those with gradients have left.",
    meaning="Random search finds what the gradient does not show, so the gradient is masked. A stronger search would "
    "find more, and AA is too high.",
    remedy="See the checks of the gradient, and attack with more queries or through a differentiable stand-in.",
)
def _black_box(patient: Patient) -> Finding | None:
    survivors = patient.aa.survivors if patient.aa else {}
    if patient.aa is None or list(survivors)[-1:] != ["square"] or len(survivors) < 2:
        return None
    before, after = list(survivors.values())[-2:]
    n, broken = patient.aa.outcome.n, before - after
    found = f"of {n} images the attacks with gradients leave {before}, and Square breaks {broken} of them"
    numbers = {"images": float(n), "left": float(before), "broken": float(broken)}
    return Finding(verdict_on(broken, n, tolerance=_BLACK_BOX, standing=before), found, numbers)


ATTACK: tuple[Check, ...] = (_loss_growth, _unbounded, _repeated, _ra_and_aa, _black_box)
