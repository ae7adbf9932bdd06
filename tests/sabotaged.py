"""A zoo of sabotaged classifiers and evaluations of digits, on top of sound ones: what the doctor must find.

Every sabotage is a common mistake, or a defence that was once taken for robust, in a few lines.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import PGD, GradientWatch, NamedAttack, attacking, margin_objective
from bench.data import Dataset, Split, load_dataset, unit_pixels
from bench.doctor import Patient
from bench.nn import Classifier, Encoder, Normalise, frozen_copy
from bench.recipe import DatasetFacts, MethodConfig, Recipe, Threat, build_recipe, load_tier
from bench.record import AutoAttackEvaluation, NoGradient, Outcome, PGDEvaluation
from bench.zoo import digest


class SmallBackbone(nn.Sequential):
    """Two strided convolutions with batch-norm: [B, 3, 16, 16] -> [B, 256]."""

    feature_dim = 256

    def __init__(self) -> None:
        layers = [(3, 16), (16, 16)]
        blocks = [
            (nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in layers
        ]
        super().__init__(*(layer for block in blocks for layer in block), nn.Flatten())


@cache
def digits() -> Dataset:
    """Return the digits."""
    return load_dataset("digits", Path("data"))


def untrained() -> Classifier:
    """Return a classifier of digits with random weights."""
    with rng.scoped(0, "zoo", "weights"):
        return Classifier(Encoder(SmallBackbone(), Normalise([0.3] * 3, [0.35] * 3)), nn.Linear(256, 10))


@cache
def sound(robust: bool = True) -> Classifier:
    """Return a classifier of digits, trained for seconds: adversarially, or on clean images alone."""
    data = digits()
    model = untrained()
    epochs, attack = (6, PGD(1, 1.0, "uniform")) if robust else (6, PGD(0, 0, "clean"))
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    images, labels = unit_pixels(data.train.images), data.train.labels
    for epoch in range(epochs):
        draw = rng.generator(0, "zoo", epoch)
        for batch in torch.randperm(len(labels), generator=draw).split(64):
            model.eval()
            x, y = images[batch], labels[batch]
            with attacking(model):
                x = attack(margin_objective(model, y), x, threat=Threat(eps=data.eps), generator=draw)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


class Front(nn.Module):
    """A layer that changes pixels or features by a function."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._change = change

    def forward(self, x: Tensor) -> Tensor:
        return self._change(x)


class Stuck(nn.Module):
    """Keeps a layer in training mode, whatever the evaluation asks for."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.train()

    def train(self, mode: bool = True) -> "Stuck":
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = self.layer(x)
        return kept


class Purifying(nn.Module):
    """A test-time defence: moves each image to where the classifier is more confident, and hides how."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        clean = x.detach()
        for _ in range(3):
            with torch.enable_grad():
                moved = clean.requires_grad_()
                confidence = self._model[0](moved).logsumexp(1).sum()
                (gradient,) = torch.autograd.grad(confidence, moved)
            clean = (clean.detach() + 0.02 * gradient.sign()).clamp(0, 1)
        return x + (clean - x).detach()


def quantised(x: Tensor) -> Tensor:
    return (4 * x).round() / 4


def ramped(x: Tensor, width: float = 0.15) -> Tensor:
    """Stairs with a short slope at each step, of so much of it to both sides: exact where there is a gradient."""
    step = (63 * x).round() / 63
    return step + (x - step).clamp(-width / 63, width / 63)


def noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def resized(x: Tensor) -> Tensor:
    side = int(torch.randint(12, x.shape[-1], ()))
    left, top = torch.randint(0, x.shape[-1] - side + 1, (2,)).tolist()
    small = F.interpolate(x, size=side, mode="bilinear", antialias=True)
    return F.pad(small, (left, x.shape[-1] - side - left, top, x.shape[-1] - side - top))


def winners(x: Tensor, share: float = 0.15) -> Tensor:
    """k-WTA: only the largest activations of an image pass."""
    flat = x.flatten(1)
    smallest = flat.topk(max(1, int(share * flat.shape[1])), dim=1).values[:, -1:]
    return (flat * (flat >= smallest)).view_as(x)


def rippled(x: Tensor) -> Tensor:
    """Waves too small to see, whose slope hides that of the model."""
    return x + 0.01 * (2000 * x).sin()


def random_winners(x: Tensor) -> Tensor:
    """The same with near ties broken at random."""
    flat = x.flatten(1)
    score = flat + 0.05 * flat.std() * torch.randn_like(flat)
    smallest = score.topk(flat.shape[1] // 4, dim=1).values[:, -1:]
    return (flat * (score >= smallest)).view_as(x)


def with_neighbours(logits: Tensor) -> Tensor:
    """Answers that lean on the rest of the batch: right where the files are in the order of their labels."""
    return logits + 5 * logits.mean(0)


def in_front(change: Callable[[Tensor], Tensor] | nn.Module) -> Callable[[Classifier], Classifier]:
    """Return a sabotage that changes the pixels."""

    def sabotage(model: Classifier) -> Classifier:
        layer = change if isinstance(change, nn.Module) else Front(change)
        model.encoder.normalise = nn.Sequential(layer, model.encoder.normalise)
        return model

    return sabotage


def behind(
    change: Callable[[Tensor], Tensor] | nn.Module, *, logits: bool = False
) -> Callable[[Classifier], Classifier]:
    """Return a sabotage that changes the features, or the logits."""

    def sabotage(model: Classifier) -> Classifier:
        layer = change if isinstance(change, nn.Module) else Front(change)
        part, name = (model, "head") if logits else (model.encoder, "backbone")
        setattr(part, name, nn.Sequential(getattr(part, name), layer))
        return model

    return sabotage


def in_place_of(kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> Callable[[Classifier], Classifier]:
    """Return a sabotage that replaces all layers of ``kind`` in the backbone."""

    def sabotage(model: Classifier) -> Classifier:
        backbone: Any = model.encoder.backbone
        for place, layer in enumerate(backbone):
            if isinstance(layer, kind):
                backbone[place] = make(layer)
        return model

    return sabotage


def scaled(factor: float) -> Callable[[Classifier], Classifier]:
    """Return a sabotage that multiplies the logits."""

    def sabotage(model: Classifier) -> Classifier:
        with torch.no_grad():
            model.head.weight.mul_(factor)
            model.head.bias.mul_(factor)
        return model

    return sabotage


def without_normalisation(model: Classifier) -> Classifier:
    """Forget the normalisation: the network was trained on normalised pixels, and gets them in [0, 1]."""
    model.encoder.normalise = nn.Identity()
    return model


def purifying(model: Classifier) -> Classifier:
    return in_front(Purifying(frozen_copy(model)))(model)


SABOTAGES: dict[str, Callable[[Classifier], Classifier]] = {
    "logits x 1e-4": scaled(1e-4),
    "logits x 1e4": scaled(1e4),
    "quantised input": in_front(quantised),
    "stairs with short ramps": in_front(ramped),
    "random noise layer": in_front(noisy),
    "random resizing": in_front(resized),
    "softmax output": behind(nn.Softmax(dim=1), logits=True),
    "detached gradient": in_front(Tensor.detach),
    "straight-through estimator missing": behind(lambda x: (2 * x).round() / 2),
    "fine ripples": in_front(rippled),
    "k-winners": in_place_of(nn.ReLU, lambda layer: Front(winners)),
    "train-mode batch-norm": in_place_of(nn.BatchNorm2d, Stuck),
    "normalised pixels fed as [0, 1]": without_normalisation,
    "test-time optimiser": purifying,
    "dropout left on": behind(Stuck(nn.Dropout(0.3))),
    "non-deterministic top-k": behind(random_winners),
    "reads the batch's mean": behind(lambda x: x - x.mean(0)),
    "label-leaking file order": behind(with_neighbours, logits=True),
}


def sabotaged(name: str, *, robust: bool = True) -> Classifier:
    """Return a sound classifier with the sabotage ``name``."""
    return SABOTAGES[name](frozen_copy(sound(robust))).eval()


TEST_IMAGES = 128
"""Of the 360: enough that a tenth of them is no accident."""


def recipe() -> Recipe:
    """Return the recipe of SLF on the first test images of the digits, without AutoAttack."""
    data = digits()
    facts = DatasetFacts(
        name=data.name,
        sha256=data.sha256,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        train_images=len(data.train),
        test_images=TEST_IMAGES,
        eps=data.eps,
        mean=data.mean,
        std=data.std,
    )
    return build_recipe(
        method="zoo",
        config_type=MethodConfig,
        native_encoder={},
        dataset=facts,
        tier=load_tier("tiny"),
        overrides={"evaluate.autoattack": False},
    )


def images_tested(*, in_order: bool) -> Split:
    """Return the test images, ``in_order`` of their labels: as a folder lists its files."""
    images, labels = digits().test.images[:TEST_IMAGES], digits().test.labels[:TEST_IMAGES]
    order = labels.argsort(stable=True) if in_order else torch.arange(TEST_IMAGES)
    return Split(images[order], labels[order])


def patient(model: Classifier, test: Split | None = None, batch: int = TEST_IMAGES) -> Patient:
    """Return the evaluation of ``model``: SA and RA as the bench measures them."""
    found = unmeasured(model, test or images_tested(in_order=False))
    with rng.scoped(0, "zoo", "evaluation"):
        return replace(found, **measurements(found, batch))


def unmeasured(model: Classifier, test: Split) -> Patient:
    """Return what is known before an evaluation."""
    return Patient(
        classifier=model,
        test=test,
        train=digits().train,
        recipe=recipe(),
        seed=0,
        device=torch.device("cpu"),
        protocol="slf",
        classifier_sha256=digest(model.state_dict()),
        encoder_sha256=digest(model.encoder.state_dict()),
    )


def measurements(found: Patient, batch: int) -> dict[str, Any]:
    """Return SA and RA of a patient."""
    model, settings = found.classifier, found.recipe.evaluate
    attack, clean, robust, unmoved = NamedAttack(settings.attack, settings), [], [], NoGradient()
    for places in torch.arange(TEST_IMAGES).split(batch):
        images, labels = unit_pixels(found.test.images[places]), found.test.labels[places]
        x_adv = attack(
            found.attacked,
            images,
            labels,
            threat=found.threat,
            seed=found.seed,
            positions=places.tolist(),
            on_gradient=(watch := GradientWatch()),
        )
        with torch.no_grad():
            clean += (model(images).argmax(1) == labels).tolist()
            robust += (model(x_adv).argmax(1) == labels).tolist()
        unmoved += NoGradient(first=int(watch.first.sum()), last=int(watch.last.sum()))
    return {"sa": Outcome.pack(clean, test_images=TEST_IMAGES), "ra": pgd(found, robust, unmoved)}


def pgd(found: Patient, robust: list[bool], unmoved: NoGradient | None = None) -> PGDEvaluation:
    """Return the record of RA with these outcomes."""
    settings, eps = found.recipe.evaluate, found.threat.eps
    return PGDEvaluation(
        outcome=Outcome.pack(robust, test_images=TEST_IMAGES),
        eps=eps,
        steps=settings.pgd_steps,
        step_size=settings.pgd_step_size * eps,
        start=settings.pgd_start,
        restarts=1,
        no_gradient=unmoved,
    )


def cross_entropy() -> Patient:
    """Return an evaluation whose RA is that of an attack on cross-entropy, which underflows at this scale of logits."""
    found = patient(sabotaged("logits x 1e4"))
    images, labels = unit_pixels(found.test.images), found.test.labels
    x_adv = PGD(20, 0.25, "uniform")(
        lambda x: F.cross_entropy(found.attacked(x), labels, reduction="none"),
        images,
        threat=found.threat,
        generator=rng.generator(0, "zoo"),
    )
    return replace(found, ra=pgd(found, (found.attacked(x_adv).argmax(1) == labels).tolist()))


def encoder_changed() -> Patient:
    """Return an evaluation whose encoder is no longer the one from before SLF."""
    return replace(patient(sound()), encoder_sha256=digest(sound(robust=False).encoder.state_dict()))


def other_subset() -> Patient:
    """Return an evaluation in which AutoAttack's outcomes are those of other images than the record names."""
    whole = patient(sound())
    assert whole.ra
    robust = whole.ra.outcome.unpack()
    half = len(robust) // 2
    aa = AutoAttackEvaluation(
        outcome=Outcome.pack(robust[half:], images=range(half), test_images=len(robust)),
        eps=whole.threat.eps,
        version="standard",
        package="pyautoattack",
        package_version="0",
        targets=9,
        survivors={"square": sum(robust[half:])},
        warnings=[],
    )
    return replace(whole, aa=aa)


RUNS: dict[str, Callable[[], Patient]] = {
    **{name: partial(lambda name: patient(sabotaged(name)), name) for name in SABOTAGES},
    "label-leaking file order": lambda: patient(
        sabotaged("label-leaking file order"), images_tested(in_order=True), batch=16
    ),
    "an encoder that SLF changed": encoder_changed,
    "AA on another subset than RA": other_subset,
    "RA by cross-entropy, logits x 1e4": cross_entropy,
}
"""Every sabotaged evaluation, by name."""
