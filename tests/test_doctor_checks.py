"""Each check of the families model, pixels and protocol: sound on a sound classifier, and not on a broken one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluations import CPU, FACTS
from torch import Tensor, nn

from bench import rng
from bench.attack import ATTACKS, PGD, distance
from bench.data import Split
from bench.doctor import CHECKS, Check, Patient, advice, examine
from bench.doctor.agreement import agreement
from bench.errors import BenchError, InterruptedRunError
from bench.monitor import Monitor
from bench.nn import Classifier, Encoder, Normalise
from bench.recipe import MethodConfig, Norm, build_recipe, load_tier
from bench.record import Inventory, Outcome, Verdict
from bench.zoo import digest

IMAGES, CLASSES = 64, 4
CENTRES = torch.arange(0.2, 0.9, 0.2)
"""The mean brightness of each class."""


class Brightness(nn.Module):
    """Images -> their mean: [B, C, H, W] -> [B, 1]; the batch-norm, which has seen ``images``, is undone behind it."""

    feature_dim = 1

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.mean, self.variance = images.mean((0, 2, 3)), images.var((0, 2, 3))
        self.norm = nn.BatchNorm2d(3, affine=False, eps=0)
        self.norm.load_state_dict({"running_mean": self.mean, "running_var": self.variance}, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x) * self.variance.sqrt()[:, None, None].to(x) + self.mean[:, None, None].to(x)
        brightness: Tensor = pixels.flatten(1).mean(1, keepdim=True)
        return brightness


def unit(images: Tensor) -> Tensor:
    return images.float() / 255


def split(seed: int = 0) -> Split:
    """Return images whose brightness tells their class."""
    labels = torch.arange(IMAGES) % CLASSES
    draw = rng.generator(seed, "brightness")
    noise = 0.3 * torch.rand(IMAGES, 3, 4, 4, generator=draw) - 0.15
    return Split(((CENTRES[labels, None, None, None] + noise) * 255).round().to(torch.uint8), labels)


def classifier(
    kind: type[Classifier] = Classifier, trained_on: Callable[[Tensor], Tensor] = lambda pixels: pixels
) -> Classifier:
    """Return the classifier that chooses the class of the nearest centre, which takes no training.

    It was as good as trained on pixels that ``trained_on`` changed.
    """
    head, centres = nn.Linear(1, CLASSES), trained_on(CENTRES[:, None, None, None].expand(-1, 3, 1, 1)).mean((1, 2, 3))
    with torch.no_grad():
        head.weight.copy_(60 * centres[:, None])
        head.bias.copy_(-30 * centres**2)
    return kind(Encoder(Brightness(trained_on(unit(split().images))), nn.Identity()), head).eval()


def patient(model: Classifier | None = None, **changes: Any) -> Patient:
    model = model or classifier()
    facts = FACTS.model_copy(update={"test_images": IMAGES, "train_images": IMAGES})
    recipe = build_recipe(
        method="toy",
        config_type=MethodConfig,
        native_encoder={},
        dataset=facts,
        tier=load_tier("tiny"),
        overrides={"evaluate.pgd_steps": 2, "evaluate.autoattack": False},
    )
    found = Patient(
        classifier=model,
        test=split(),
        recipe=recipe,
        seed=0,
        device=CPU,
        protocol="slf",
        encoder_sha256=digest(model.encoder.state_dict()),
        classifier_sha256=digest(model.state_dict()),
        train=split(1),
        inventory=Inventory(duplicates={"test in train": 0}),
        sa=Outcome.pack([True] * 60 + [False] * 4, test_images=IMAGES),
    )
    return replace(found, **changes)


def verdict(name: str, found: Patient) -> Verdict | None:
    (check,) = [each for family in CHECKS.values() for each in family if each.name == name]
    with rng.scoped(0, "check"):
        diagnosis = check(found)
    return None if diagnosis is None else diagnosis.verdict


OURS = [each.name for family, checks in CHECKS.items() if family not in ("gradient", "attack") for each in checks]
"""The others are in test_doctor_zoo.py."""


@pytest.mark.parametrize("name", OURS)
def test_a_sound_classifier_passes(name: str) -> None:
    assert verdict(name, patient()) == "sound"


class Changed(Classifier):
    """Changes the images before the encoder, or the logits; attacks see the same."""

    def before(self, images: Tensor) -> Tensor:
        return images

    def after(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.after(super().forward(self.before(images)))

    def prepared(self) -> Classifier:
        return self


class Random(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return logits + 0.01 * torch.randn_like(logits)


class Probabilities(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Cold(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return 1e4 * logits


class Hot(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return 1e-4 * logits


class Batched(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(0)


class NeverAlone(Changed):
    """Has no answer to a single image, as batch-norm of features in train mode."""

    def after(self, logits: Tensor) -> Tensor:
        return nn.functional.batch_norm(logits, None, None, training=True)


class Ordered(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return logits + torch.arange(len(logits))[:, None] * torch.eye(CLASSES)[0]


class Imprecise(Changed):
    def after(self, logits: Tensor) -> Tensor:
        return (logits + 1e8) - 1e8


class Misfolded(Classifier):
    def prepared(self) -> Classifier:
        copy = super().prepared()
        copy.head.bias.data.zero_()
        return copy


class Offset(Changed):
    """Loses digits, other ones in a batch of another size, by a sum that float64 holds."""

    def after(self, logits: Tensor) -> Tensor:
        return (logits + 1e8 / len(logits)) - 1e8 / len(logits)


class Refolded(Classifier):
    """Its copy has weights that are equal but for rounding."""

    def prepared(self) -> Classifier:
        copy = super().prepared()
        copy.head.weight.data.mul_(1.1).div_(1.1)
        return copy


def answers_by_lost_digits() -> Classifier:
    """Return a classifier whose weights are a thousand times as large as they differ."""
    model = classifier(Refolded)
    model.head.weight.data += 1e6
    return model


class Normalising(Changed):
    def before(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.25


class Halving(Changed):
    def before(self, images: Tensor) -> Tensor:
        return images / 2


class Learning(Changed):
    def after(self, logits: Tensor) -> Tensor:
        self.head.bias.data += 1e-3
        return logits


def in_train_mode() -> Classifier:
    model = classifier()
    model.encoder.backbone.norm.train()  # type: ignore[union-attr]
    return model


def without_normalisation() -> Classifier:
    """Return a classifier that was trained on pixels normalised with CIFAR's constants, and gets them as they are."""
    return classifier(trained_on=Normalise((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)))


def other_facts(**changes: Any) -> Patient:
    found = patient()
    facts = found.recipe.dataset.model_copy(update=changes)
    return replace(found, recipe=found.recipe.model_copy(update={"dataset": facts}))


def outcomes(*right: bool) -> Patient:
    """Return the evaluation with these outcomes, again and again."""
    return patient(sa=Outcome.pack((right * IMAGES)[:IMAGES], test_images=IMAGES))


def of_one_class() -> Patient:
    return patient(test=Split(split().images, torch.ones(IMAGES, dtype=torch.int64)))


def collapsed() -> Patient:
    return patient(train=Split(split().images[:1].expand(9, -1, -1, -1), torch.zeros(9, dtype=torch.int64)))


def duplicates(count: int) -> Patient:
    return patient(inventory=Inventory(duplicates={"test in train": count}))


BROKEN: dict[str, tuple[str, Callable[[], Patient], Verdict]] = {
    "noise": ("deterministic", lambda: patient(classifier(Random)), "fail"),
    "train mode": ("eval mode", lambda: patient(in_train_mode()), "fail"),
    "softmax": ("logits", lambda: patient(classifier(Probabilities)), "fail"),
    "logits x 1e4": ("scale of logits", lambda: patient(classifier(Cold)), "doubt"),
    "logits x 1e-4": ("scale of logits", lambda: patient(classifier(Hot)), "doubt"),
    "mean of the batch": ("batch independence", lambda: patient(classifier(Batched)), "fail"),
    "no answer to one image": ("batch independence", lambda: patient(classifier(NeverAlone)), "fail"),
    "place in the batch": ("batch independence", lambda: patient(classifier(Ordered)), "fail"),
    "rounded in a batch": ("batch independence", lambda: patient(classifier(Offset)), "doubt"),
    "rounded in the copy": ("attacked copy", lambda: patient(answers_by_lost_digits()), "doubt"),
    "a lost bias": ("attacked copy", lambda: patient(classifier(Misfolded)), "fail"),
    "lost digits": ("float64 agreement", lambda: patient(classifier(Imprecise)), "fail"),
    "normalised outside": ("pixel range", lambda: patient(classifier(Normalising)), "fail"),
    "scaled outside": ("unit of eps", lambda: patient(classifier(Halving)), "fail"),
    "eps of normalised pixels": ("unit of eps", lambda: other_facts(eps=0.05 * 0.249), "doubt"),
    "four times the eps": ("unit of eps", lambda: other_facts(eps=0.05 / 4), "note"),
    "another eps": ("unit of eps", lambda: other_facts(eps=0.04), "note"),
    "no normalisation": ("normalisation", lambda: patient(without_normalisation()), "fail"),
    "unnormalised statistics": ("input statistics", lambda: patient(without_normalisation()), "doubt"),
    "encoder trained": ("encoder unchanged", lambda: patient(encoder_sha256="0" * 64), "fail"),
    "collapse": ("features vary", collapsed, "doubt"),
    "guessing": ("better than guessing", lambda: outcomes(True, False, False), "doubt"),
    "a constant answer": ("better than guessing", lambda: outcomes(False, True, False, False), "doubt"),
    "one class": ("better than guessing", of_one_class, "doubt"),
    "one duplicate": ("training and test apart", lambda: duplicates(1), "note"),
    "many duplicates": ("training and test apart", lambda: duplicates(16), "doubt"),
    "the same images": ("training and test apart", lambda: duplicates(60), "fail"),
    "learning": ("weights unchanged", lambda: after_a_pass(patient(classifier(Learning))), "fail"),
}


def after_a_pass(found: Patient) -> Patient:
    found.classifier(found.sample.images)
    return found


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_found_by_its_check(fault: str) -> None:
    name, broken, expected = BROKEN[fault]
    assert verdict(name, broken()) == expected


def test_a_model_that_has_no_answer_to_one_image_stops_no_check() -> None:
    visit = examine(patient(classifier(NeverAlone)), Monitor())
    assert not [one.found for one in visit if "the check stopped" in one.found]
    (alone,) = (one.found for one in visit if one.check == "batch independence")
    assert "none of them alone (ValueError: Expected more than 1 value per channel" in alone


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {name for name, _, _ in BROKEN.values()} | {"inside the ball"} == set(OURS)


def test_an_attack_that_leaves_the_ball_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rude(PGD):
        def __call__(self, objective: Any, images: Tensor, **options: Any) -> Tensor:
            return images + 0.1

    monkeypatch.setattr(ATTACKS, "get", lambda name: Rude)
    assert verdict("inside the ball", patient()) == "fail"


@pytest.mark.parametrize(("check", "share"), [("finite difference", 1 / 50), ("gradient stability", 1 / 10)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_gradient_is_asked_within_a_share_of_eps_in_its_norm(norm: Norm, check: str, share: float) -> None:
    found, seen = patient(), []
    threat = found.recipe.threat.model_copy(update={"norm": norm})
    found = replace(found, recipe=found.recipe.model_copy(update={"threat": threat}))
    found.attacked.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    assert verdict(check, found) in ("sound", "note")
    farthest = max(float(distance(x, found.sample.images, norm).max()) for x in seen) / found.threat.eps
    assert 0.5 * share < farthest < 1.001 * share


def test_checks_that_do_not_apply_say_nothing() -> None:
    bare = patient(sa=None, train=None, inventory=None, protocol="released")
    names = ("encoder unchanged", "features vary", "better than guessing", "training and test apart")
    assert [verdict(name, bare) for name in names] == [None] * 4
    assert verdict("encoder unchanged", patient(protocol="aff", encoder_sha256="0" * 64)) is None


def test_statistics_that_move_because_the_recipe_says_so_are_a_note() -> None:
    found = patient(encoder_sha256="0" * 64)
    slf = found.recipe.protocol("slf").model_copy(update={"encoder_bn": "train"})
    assert verdict("encoder unchanged", replace(found, recipe=found.recipe.model_copy(update={"slf": slf}))) == "note"


def test_agreement_is_measured_in_shares_of_the_spread_of_the_logits() -> None:
    first = torch.tensor([[0.0, 4.0, 3.0], [0.0, -4.0, 2.0]])
    found = agreement(first, first + torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))
    assert (found.difference, found.changed.tolist()) == (2 / 4, [True, False])
    assert found.margin.tolist() == [1 / 4, 2 / 4]
    assert agreement(first, torch.full_like(first, torch.nan)).difference == torch.inf
    scaled = agreement(1e3 * first, 1e3 * first + 1e-3)
    assert scaled.rounding
    assert not agreement(first, first + 1e-1).rounding


def test_a_check_that_stops_is_a_doubt_and_an_interruption_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(error: Exception) -> Check:
        def find(_: Patient) -> None:
            raise error

        return Check("brittle", "", "meaning", "remedy", find)

    monkeypatch.setitem(CHECKS, "model", (stops(RuntimeError("no such\nkernel")), stops(BenchError("bad"))))
    for family in ("pixels", "gradient", "attack", "protocol"):
        monkeypatch.setitem(CHECKS, family, ())
    first, second = examine(patient())
    assert (first.verdict, first.found) == ("doubt", "the check stopped: RuntimeError: no such kernel")
    assert second.found == "the check stopped: bad"
    assert advice(first) == ("meaning", "remedy")
    monitor = Monitor()
    monitor.stop_requested = True
    with pytest.raises(InterruptedRunError):
        examine(patient(), monitor)


def test_the_visit_leaves_the_global_random_state_and_the_classifier_alone() -> None:
    found, state = patient(classifier(Random)), torch.get_rng_state()
    first, second = examine(found), examine(replace(found))
    assert first == second
    assert state.equal(torch.get_rng_state())
    assert digest(found.classifier.state_dict()) == found.classifier_sha256


@pytest.mark.parametrize("check", [each for family in CHECKS.values() for each in family], ids=lambda each: each.name)
def test_each_check_says_what_it_asks_means_and_advises(check: Check) -> None:
    for text in (check.question, check.meaning, check.remedy):
        assert text.endswith(".")
    names = [each.name for family in CHECKS.values() for each in family]
    assert names.count(check.name) == 1
