"""What the pictures of docs/doctor.md show: measurements of the zoo of the tests, a function a check."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attack import PGD, AutoAttackResult, auto_attack, distance, log_margin, margin, margin_objective, square
from bench.data import unit_pixels
from bench.doctor import CHECKS, Patient, input_gradient, nearby_cosines, trained_surrogate
from bench.nn import Classifier, Normalise, frozen_copy
from bench.recipe import Threat
from bench.record import Outcome

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import sabotaged


@cache
def case(name: str = "sound") -> Patient:
    """Return a patient of the zoo, with its deep sample."""
    patient = sabotaged.patient(sabotaged.sound()) if name == "sound" else sabotaged.RUNS[name]()
    return replace(patient, deep=True)


def changed(sabotage: Callable[[Classifier], Classifier]) -> Patient:
    """Return the sound patient with another classifier."""
    return replace(case(), classifier=sabotage(frozen_copy(case().classifier)).eval())


@torch.no_grad()
def logits(patient: Patient, images: Tensor | None = None) -> Tensor:
    """Return the answers of a classifier to its sample."""
    answers: Tensor = patient.classifier(patient.sample.images if images is None else images)
    return answers


def share(patient: Patient, x: Tensor) -> float:
    """Return the accuracy on changed images of the sample, in percent."""
    right = (logits(patient, x).argmax(1) == patient.sample.labels).double()
    return 100 * float(right.mean())


def attacked(patient: Patient, eps: float | None = None, steps: int = 20, seed: int = 0) -> Tensor:
    """Return the sample after PGD."""
    threat = Threat(eps=patient.threat.eps if eps is None else eps)
    return PGD(steps, 0.25, "uniform")(
        margin_objective(patient.attacked, patient.sample.labels),
        patient.sample.images,
        threat=threat,
        generator=torch.Generator().manual_seed(seed),
    )


def both(measure: Callable[[Patient], Any], sabotage: str) -> tuple[Any, Any, str]:
    """Return a measurement of the sound patient and of a sabotaged one, and the latter's name."""
    return measure(case()), measure(case(sabotage)), sabotage


def of_parts(patient: Patient, parts: int) -> tuple[Tensor, Tensor]:
    """Return logits of images in one batch, and in batches of ``parts``."""
    images = patient.sample.images[:32]
    return logits(patient, images).flatten(), torch.cat([logits(patient, x) for x in images.split(parts)]).flatten()


def largest_gradients(patient: Patient) -> Tensor:
    """Return the largest entry of each image's gradient of cross-entropy."""
    x = patient.sample.images.clone().requires_grad_()
    loss = F.cross_entropy(patient.classifier(x), patient.sample.labels, reduction="sum")
    return torch.autograd.grad(loss, x)[0].flatten(1).abs().amax(1)


def rounding(patient: Patient) -> tuple[Tensor, Tensor]:
    """Return logits in float64 and in float32."""
    exact = replace(patient, classifier=frozen_copy(patient.classifier).double())
    return logits(exact, exact.sample.images.double())[:32].flatten(), logits(patient)[:32].double().flatten()


def at_first_norm(model: Classifier) -> dict[str, float]:
    """Return the variance that the first batch-norm saw in training, and that of its input on test images."""
    seen: list[Tensor] = []
    norm = model.encoder.backbone[1]  # type: ignore[index]
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(replace(case(), classifier=model))
    hook.remove()
    return {"in training": float(norm.running_var.mean()), "now": float(seen[0].var((0, 2, 3)).mean())}


def accuracies(patient: Patient) -> dict[str, float]:
    """Return the accuracy on images as they are, and normalised before."""
    images = patient.sample.images
    return {
        "as they are": share(patient, images),
        "normalised": share(patient, normalised(images)),
    }


def promised_and_measured(patient: Patient) -> tuple[Tensor, Tensor]:
    """Return how much the loss should change over a small step along the gradient, and how much it does."""
    step, labels = patient.threat.eps / 50, patient.sample.labels
    images = patient.sample.images.clamp(step, 1 - step)
    gradient = input_gradient(patient.attacked, images, labels)
    losses = [log_margin(logits(patient, images + way * step * gradient.sign()), labels) for way in (1, -1)]
    return 2 * step * gradient.abs().flatten(1).sum(1), losses[0] - losses[1]


def cosines(patient: Patient) -> Tensor:
    """Return the cosines of gradients before and after a small random move."""
    generator = torch.Generator().manual_seed(0)
    sample = patient.sample
    return nearby_cosines(patient.attacked, sample.images, sample.labels, patient.threat.eps / 10, generator)


def inner_gradients(patient: Patient) -> dict[str, float]:
    """Return the numbers in the check's finding."""
    (check,) = (one for one in CHECKS["gradient"] if one.name == "inner optimisation")
    found = check(patient)
    assert found
    return {"operations with gradients": float(found.numbers["operations"] or 0)}


def climbs(patient: Patient) -> list[list[float]]:
    """Return the loss of ten images over the steps of the attack."""
    sample = patient.sample
    objective = margin_objective(patient.attacked, sample.labels)
    run = PGD(20, 0.25, "uniform").iterates(
        objective, sample.images, threat=patient.threat, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return torch.stack([objective(x)[:10] for x in run]).T.tolist()


def along_eps(patient: Patient) -> list[tuple[list[float], list[float]]]:
    """Return the accuracy along eps."""
    radii = [0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0]
    return [(radii, [share(patient, attacked(patient, eps)) for eps in radii])]


def along_half_eps(patient: Patient) -> list[tuple[list[float], list[float]]]:
    """Return the accuracy along eps, up to twice the usual one."""
    radii = [patient.threat.eps * part / 4 for part in range(9)]
    return [(radii, [share(patient, attacked(patient, eps)) for eps in radii])]


def along_steps(patient: Patient) -> list[tuple[list[int], list[float]]]:
    """Return the accuracy along the number of steps."""
    counts = [0, 1, 2, 5, 10, 20, 50, 100]
    return [(counts, [share(patient, attacked(patient, steps=count)) for count in counts])]


def over_starts(patient: Patient) -> dict[str, float]:
    """Return the share of images that survive one, two, ... starts."""
    right = torch.ones(len(patient.sample.labels), dtype=torch.bool)
    left = {}
    for start in range(1, 6):
        right &= logits(patient, attacked(patient, seed=start)).argmax(1) == patient.sample.labels
        left[str(start)] = 100 * float(right.double().mean())
    return left


def repeated(patient: Patient) -> dict[str, float]:
    """Return RA as it is recorded, and measured again, on the sample."""
    assert patient.ra
    counted = torch.tensor(patient.ra.outcome.unpack())[patient.sample.positions].double()
    return {"recorded": 100 * float(counted.mean()), "repeated": share(patient, patient.x_adv)}


def in_common(ra: Sequence[bool], aa: Sequence[bool]) -> dict[str, float]:
    """Return the share of images that are robust under RA alone, under both, and under AA alone."""
    kinds = {"RA alone": (True, False), "both": (True, True), "AA alone": (False, True)}
    found = list(zip(ra, aa, strict=True))
    return {name: 100 * found.count(kind) / len(found) for name, kind in kinds.items()}


def of_other_images() -> dict[str, float]:
    """Return the same of an evaluation whose record names other images than AutoAttack was run on."""
    other = case("AA on another subset than RA")
    assert other.ra
    assert other.aa
    robust = other.ra.outcome.unpack()
    return in_common([robust[at] for at in other.aa.outcome.positions(len(robust))], other.aa.outcome.unpack())


_FEW = 16
"""Images under AutoAttack."""


@cache
def autoattacked(name: str) -> AutoAttackResult:
    """Return what AutoAttack finds on a few images of the sample."""
    patient, few = case(name), slice(_FEW)
    numbers: dict[str, Any] = {"threat": patient.threat, "num_classes": 10, "seed": 0, "batch_size": _FEW}
    return auto_attack(patient.attacked, patient.sample.images[few], patient.sample.labels[few], **numbers)


def of_same_images() -> dict[str, float]:
    """Return the same of the sound evaluation."""
    right = logits(case(), case().x_adv).argmax(1) == case().sample.labels
    return in_common(right[:_FEW].tolist(), autoattacked("sound").robust.tolist())


def surviving(name: str) -> dict[str, float]:
    """Return how many images survive each of AutoAttack's attacks."""
    found = autoattacked(name)
    return {"clean": int(found.clean.sum()), **{name: int(left.sum()) for name, left in found.survivors.items()}}


def by_losses(patient: Patient) -> dict[str, float]:
    """Return the accuracy under PGD on RA's loss, and on the margin."""
    x = PGD(20, 0.25, "uniform")(
        lambda x: margin(patient.attacked(x), patient.sample.labels),
        patient.sample.images,
        threat=patient.threat,
        generator=torch.Generator().manual_seed(0),
    )
    return {"RA's loss": share(patient, attacked(patient)), "margin": share(patient, x)}


def by_averages(patient: Patient) -> dict[str, float]:
    """Return how many images RA's attack leaves, and how many of them the attack with averaged gradients leaves."""
    (check,) = (one for one in CHECKS["attack"] if one.name == "averaged gradient")
    found = check(patient)
    assert found
    left, broken = (float(found.numbers[name] or 0) for name in ("left by RA's attack", "broken"))
    return {"PGD": left, "and averaged": left - broken}


def by_search(patient: Patient) -> dict[str, float]:
    """Return how many of the images that PGD leaves remain after Square."""
    sample = patient.sample
    left = logits(patient, attacked(patient)).argmax(1) == sample.labels
    x = square(patient.attacked, sample.images[left], sample.labels[left], threat=patient.threat, seed=0, queries=300)
    return {"PGD": int(left.sum()), "and Square": int((logits(patient, x).argmax(1) == sample.labels[left]).sum())}


def by_transfer(patient: Patient) -> dict[str, float]:
    """Return how many of the images that PGD leaves remain after an attack on another network."""
    sample, other = patient.sample, trained_surrogate(patient)
    assert other
    left = logits(patient, attacked(patient)).argmax(1) == sample.labels
    x = PGD(20, 0.25, "uniform")(
        margin_objective(other, sample.labels),
        sample.images,
        threat=patient.threat,
        generator=torch.Generator().manual_seed(0),
    )
    remain = left & (logits(patient, x).argmax(1) == sample.labels)
    return {"PGD": int(left.sum()), "and transfer": int(remain.sum())}


def with_autoattack() -> Patient:
    """Return the sound patient with what AutoAttack finds on a few images of its sample."""
    recorded, positions = case("AA on another subset than RA").aa, case().sample.positions[:_FEW]
    assert recorded
    robust = Outcome.pack(autoattacked("sound").robust.tolist(), images=positions, test_images=len(case().test))
    return replace(case(), aa=recorded.model_copy(update={"outcome": robust, "survivors": {}}))


def by_suite(patient: Patient) -> dict[str, float]:
    """Return the share of the images that AutoAttack leaves, and of those that the attack suite leaves of them."""
    (check,) = (one for one in CHECKS["attack"] if one.name == "missed by AutoAttack")
    found = check(patient)
    assert found
    left, broken = (float(found.numbers[name] or 0) for name in ("left by AutoAttack", "broken"))
    return {"AutoAttack": 100.0, "and the suite": 100 * (1 - broken / left)}


def outputs(patient: Patient) -> list[list[float]]:
    """Return the sorted outputs of ten images."""
    return logits(patient)[:10].sort(1, descending=True).values.tolist()


def moved(patient: Patient, x: Tensor) -> Tensor:
    """Return how far each image moved, in units of eps."""
    return distance(x, patient.sample.images, "linf") / patient.threat.eps


def normalised(images: Tensor) -> Tensor:
    """Return images after the normalisation of the sound classifier."""
    changed: Tensor = Normalise([0.3] * 3, [0.35] * 3)(images)
    return changed


def nearest_training_image(test: Tensor) -> Tensor:
    """Return the distance of test images to the nearest training image."""
    train = unit_pixels(sabotaged.digits().train.images).flatten(1)
    return torch.cdist(test.flatten(1), train).amin(1)


def spread_of_features(model: Classifier) -> tuple[Tensor, Tensor]:
    """Return two features of each image, those that vary most."""
    with torch.no_grad():
        features = model.encoder(case().sample.images)
    first, second = features.std(0).topk(2).indices
    return features[:, first], features[:, second]


def constant(model: Classifier) -> Classifier:
    """Give all images the same features."""
    return sabotaged.behind(lambda x: 0 * x + 1)(model)


def guesses(model: Classifier) -> dict[str, float]:
    """Return SA, and the accuracy of the most frequent class."""
    patient = replace(case(), classifier=model)
    counts = patient.sample.labels.bincount()
    return {"SA": share(patient, patient.sample.images), "one answer": 100 * counts.max().item() / int(counts.sum())}


def weights(before: nn.Module, after: nn.Module, *, only: str = "") -> tuple[Tensor, Tensor]:
    """Return the first values of each tensor of both, of those whose name has ``only`` in it."""
    first, second = (
        torch.cat([value.flatten()[:60] for name, value in one.state_dict().items() if value.ndim and only in name])
        for one in (before, after)
    )
    return first, second


def answering() -> Classifier:
    """Return a classifier with stuck batch-norm after answers to attacked images."""
    model, images = frozen_copy(case("train-mode batch-norm").classifier), attacked(case(), eps=0.3)
    for _ in range(5):
        logits(replace(case(), classifier=model), images)
    return model


def imprecise() -> Patient:
    """Return the sound patient with logits that lose their last digits."""
    return changed(sabotaged.behind(lambda x: (x + 2e7) - 2e7, logits=True))


def copied(patient: Patient, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Return the logits of a classifier and of its copy for attacks, which may ``keep`` its first shift."""
    copy = patient.classifier.prepared()
    if not keep:
        copy.encoder.backbone[1].bias.data.zero_()  # type: ignore[index]
    with torch.no_grad():
        return logits(patient)[:32].flatten(), copy(patient.sample.images)[:32].flatten()


def other_encoder() -> nn.Module:
    """Return an encoder that was trained otherwise."""
    return sabotaged.sound(robust=False).encoder


def with_training_images() -> Tensor:
    """Return 40 training images and 60 test images."""
    return torch.cat([unit_pixels(sabotaged.digits().train.images[:40]), case().sample.images[:60]])
