"""Checks of the model: that it is one fixed function of each image, and gives logits."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.doctor.agreement import ROUNDING, Agreement, agreement, spread
from bench.doctor.check import Check, Finding, check
from bench.doctor.patient import Patient
from bench.errors import short
from bench.nn import Classifier
from bench.record import Verdict

_ALONE = 4
"""Images that are passed alone: each costs a pass."""

_SMALL_SPREAD = 1e-2
"""Cross-entropy is about log(classes), which float32 holds to 2e-7. Where the logits' whole spread is below this, a
change by 2e-5 of it changes no digit of the loss, by which AutoAttack chooses its step size."""

_CHANGES_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@check(
    "deterministic",
    question="The same images give the same logits each time.",
    meaning="The model draws random numbers or remembers earlier images. Each step of an attack then follows another "
    "function, so the attack is too weak, and RA and AA are too high.",
    remedy="Remove the random or stateful part, or attack its expectation over many draws, which this evaluation does "
    "not do.",
)
@torch.no_grad()
def _deterministic(patient: Patient) -> Finding:
    images = patient.sample.images
    repeats = [agreement(patient.logits, patient.classifier(images)) for _ in range(2)]
    worst = max(repeats, key=lambda one: one.difference)
    if worst.difference == 0:
        return Finding("sound", f"two more passes over {len(images)} images give the same bits", {"difference": 0.0})
    changed = int(torch.stack([one.changed for one in repeats]).any(0).sum())
    found = (
        f"logits of the same {len(images)} images differ by up to {_share(worst.difference)} of their spread from pass "
        f"to pass, and {changed} predictions change"
    )
    return Finding("note" if worst.rounding else "fail", found, _numbers(worst.difference, changed))


@check(
    "eval mode",
    question="Every part of the model is in eval mode, and no batch-norm uses the statistics of the batch.",
    meaning="Dropout or batch-norm that is left in train mode makes the answer to an image random, or dependent on the "
    "other images of its batch.",
    remedy="Let the model's train() pass eval mode on to all parts, and give each batch-norm running statistics.",
)
def _eval_mode(patient: Patient) -> Finding:
    parts = [*patient.classifier.named_modules(), *patient.attacked.named_modules()]
    wrong = {name or "the whole model": part for name, part in parts if part.training or _by_batch(part)}
    if not wrong:
        return Finding("sound", f"all {len(parts)} parts are in eval mode", {"in train mode": 0.0})
    acting = any(isinstance(part, _CHANGES_IN_TRAINING) for part in wrong.values())
    names = ", ".join(f"{name} ({type(part).__name__})" for name, part in list(wrong.items())[:3])
    found = f"{len(wrong)} of {len(parts)} parts are in train mode or use the statistics of the batch, such as {names}"
    return Finding("fail" if acting else "doubt", found, {"in train mode": float(len(wrong))})


def _by_batch(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None


@check(
    "logits",
    question="The outputs are logits, not probabilities.",
    meaning="A softmax at the end flattens the loss where the model is sure, and losses apply a second one. Attacks "
    "by cross-entropy lose their gradient, so RA is too high.",
    remedy="Return the values before the softmax.",
)
def _logits(patient: Patient) -> Finding:
    logits = patient.logits.double()
    off = (logits.sum(1) - 1).abs().max().item()
    lowest = logits.min().item()
    # A row of logits that happens to be positive and to sum to 1 within 1e-4, for every image, is no accident.
    probabilities = lowest >= 0 and off < 1e-4
    numbers = {"lowest": lowest, "largest distance of a sum from 1": min(off, 1e30)}
    if probabilities:
        return Finding("fail", f"the outputs of all {len(logits)} images are positive and sum to 1", numbers)
    return Finding("sound", f"outputs go down to {lowest:.3g} and their sums are up to {off:.3g} from 1", numbers)


@check(
    "scale of logits",
    question="The logits are neither so close together nor so far apart that float32 loses the loss.",
    meaning="Cross-entropy on logits that are scaled far up or down has a gradient of zero, or hardly changes from "
    "step to step. AutoAttack's cross-entropy attack then stands still, and the scale protects, not the model.",
    remedy="Remove the temperature: divide the logits so that their spread is between 1 and 50.",
)
def _scale(patient: Patient) -> Finding:
    logits = patient.logits.float()
    width = spread(logits)
    wrong = logits.softmax(1).scatter(1, logits.argmax(1, keepdim=True), 0).amax(1)
    # Below this the gradient of cross-entropy, which is of the size of the wrong classes' probabilities, is lost beside
    # the rounding of its largest terms; at 0 it is lost altogether.
    lost = int((wrong == 0).sum())
    numbers = {"spread": width, "images without a gradient": float(lost)}
    found = f"the median spread of an image's logits is {width:.3g}, and cross-entropy has no gradient on {lost} of "
    verdict: Verdict = "doubt" if width < _SMALL_SPREAD or 2 * lost > len(logits) else "note" if lost else "sound"
    return Finding(verdict, f"{found}{len(logits)} images", numbers)


@check(
    "batch independence",
    question="The answer to an image does not depend on the other images of its batch, nor on its place among them.",
    meaning="Unless the model draws numbers, which 'deterministic' tells, it reads other images, such as the mean of "
    "the batch. What is measured depends on the batch size and the order of the images, and an attack on a batch is no "
    "attack on an image.",
    remedy="Use statistics that were fixed in training, and evaluate again.",
)
@torch.no_grad()
def _batch_independence(patient: Patient) -> Finding:
    images = patient.sample.images

    def compared(model: nn.Module, images: Tensor) -> list[Agreement]:
        few, together = images[:_ALONE], model(images)
        alone = torch.cat([model(image[None]) for image in few])
        return [agreement(together, model(images.flip(0)).flip(0)), agreement(together[: len(few)], alone)]

    try:
        found = compared(patient.classifier, images)
    except (RuntimeError, ValueError) as error:  # such as: one value has no variance
        return Finding("fail", f"the model answers {len(images)} images, but none of them alone ({short(error)})")
    worst, changed = max(one.difference for one in found), sum(int(one.changed.sum()) for one in found)
    said = (
        f"logits differ by up to {_share(worst)} of their spread between the batch, the reversed batch and "
        f"{len(images[:_ALONE])} images alone, and {changed} predictions change"
    )
    return _judged(patient, worst, said, changed, lambda model: compared(model, images.double()))


@check(
    "attacked copy",
    question="The copy that attacks differentiate answers as the classifier does.",
    meaning="RA and AA attack a copy that is prepared for it, such as with batch-norm folded into convolutions. If it "
    "is another function, RA is an attack on something else, and too high, and AA is the accuracy of the copy.",
    remedy="Let prepare_for_attack() leave the network's outputs in eval mode as they are, or leave it out.",
)
@torch.no_grad()
def _attacked_copy(patient: Patient) -> Finding:
    images = torch.cat([patient.sample.images, patient.x_adv])
    found = agreement(patient.classifier(images), patient.attacked(images))
    changed = int(found.changed.sum())
    said = (
        f"of {len(images)} images, clean and attacked, {changed} get another prediction of the copy; logits differ by "
        f"up to {_share(found.difference)} of their spread"
    )
    exact = images.double()
    return _judged(
        patient, found.difference, said, changed, lambda model: [agreement(model(exact), model.prepared()(exact))]
    )


@check(
    "float64 agreement",
    question="In float64 every image gets the same prediction as in float32, except on the boundary of two classes.",
    meaning="Unless the model draws numbers, which 'deterministic' tells, rounding decides the outcome: it loses the "
    "digits that it answers by, and another machine may measure other numbers.",
    remedy="Look for differences of large numbers and for quantisation in the model, and compute those in float64.",
)
@torch.no_grad()
def _float64(patient: Patient) -> Finding:
    images = torch.cat([patient.sample.images, patient.x_adv])
    positions = patient.sample.positions * 2
    try:
        exact: Tensor = deepcopy(patient.classifier).double()(images.double())
    except (RuntimeError, TypeError) as error:  # a layer, or a whole kind of device
        return Finding("note", f"the model cannot compute in float64 ({short(error)})")
    found = agreement(exact, patient.classifier(images))
    near = found.margin <= ROUNDING
    boundary, lost = found.changed & near, int((found.changed & ~near).sum())
    named = sorted({positions[place] for place in boundary.nonzero()[:, 0].tolist()})
    said = (
        f"of {len(images)} images, clean and attacked, {lost} get another prediction in float64; logits differ by up "
        f"to {_share(found.difference)} of their spread"
    )
    if named:
        said += f". On the boundary of two classes: test image {', '.join(map(str, named))}"
    # One image off the boundary may be chance; a tenth of them moves every accuracy by more than its interval.
    wrong = lost or not found.rounding
    verdict: Verdict = "fail" if lost > len(images) / 10 else "doubt" if wrong else "note" if named else "sound"
    return Finding(verdict, said, {**_numbers(found.difference, lost), "on the boundary": float(len(named))})


def _judged(
    patient: Patient, difference: float, said: str, changed: int, exactly: Callable[[Classifier], list[Agreement]]
) -> Finding:
    """Return the finding on two answers that other kernels may round otherwise.

    Ten times as much is no rounding, unless a model answers by the digits that float32 loses: then ``exactly`` finds no
    difference with its copy in float64.
    """
    verdict: Verdict = "sound" if difference <= ROUNDING else "doubt" if difference <= 10 * ROUNDING else "fail"
    if verdict == "fail":
        with suppress(RuntimeError, TypeError):  # a layer without float64, as in the check of it
            if all(one.rounding for one in exactly(deepcopy(patient.classifier).double())):
                verdict, said = "doubt", f"{said}, but in float64 not at all: float32 loses what the model answers by"
    return Finding(verdict, said, _numbers(difference, changed))


def _share(difference: float) -> str:
    return f"{100 * difference:.2g} %"


def _numbers(difference: float, changed: int) -> dict[str, float]:
    return {"difference": min(difference, 1e30), "changed predictions": float(changed)}


MODEL: tuple[Check, ...] = (
    _deterministic,
    _eval_mode,
    _logits,
    _scale,
    _batch_independence,
    _attacked_copy,
    _float64,
)
