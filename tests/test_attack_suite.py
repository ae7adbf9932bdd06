"""The attacks of the bench against closed forms: objectives, ranked targets, minimal perturbations, features."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from attacked_linear import CLASSES, COUNT, L2, LINF, Linear, data
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attack import ATTACKS, MinimumNorm, NamedAttack, attacking, distance
from bench.attack.apgd import TargetedAPGD, nearest_classes
from bench.attack.frozen import needing_gradients
from bench.attack.objective import cross_entropy, dlr, log_margin, margin
from bench.attack.supervised import Embedding
from bench.errors import BenchError
from bench.recipe import EvaluationSettings, Threat

UNTARGETED = ("pgd", "pgd-ce", "pgd-cw", "pgd-dlr", "apgd-ce", "apgd-dlr")
EXACT = ("apgd-t", "targeted-screen", "min-norm")
LOGITS = torch.tensor([[3.0, 1.0, 0.5, -2.0], [0.0, 4.0, 2.0, 1.0], [-1.0, 2.0, 5.0, 1.0]], dtype=torch.float64)
RIGHT = torch.tensor([0, 2, 2])


def boundaries(threat: Threat) -> Tensor:
    """Return the exact distance from each image to the boundary of each class, infinite for its own: [COUNT, CLASSES].

    Slow and plain: |z_y - z_j| over the dual norm of w_y - w_j, which no pixel range cuts for these images.
    """
    weight, (images, labels) = Linear().weight.detach().double(), data()
    logits = (images.double() - 0.5).flatten(1) @ weight.T
    found = torch.full((COUNT, CLASSES), torch.inf, dtype=torch.float64)
    for i, label in enumerate(labels.tolist()):
        for j in range(CLASSES):
            if j != label:
                slope = weight[label] - weight[j]
                steepness = slope.abs().sum() if threat.norm == "linf" else slope.square().sum().sqrt()
                found[i, j] = (logits[i, label] - logits[i, j]) / steepness
    return found


def attacked(name: str, threat: Threat, **settings: Any) -> Tensor:
    images, labels = data()
    attack = NamedAttack(name, EvaluationSettings(**settings))
    if hasattr(attack.attack, "steps"):  # of a package: 100 by default
        attack.attack = replace(attack.attack, steps=25)
    return attack(Linear().eval(), images, labels, threat=threat, seed=0, positions=range(COUNT))


def test_each_objective_is_its_formula() -> None:
    wrong = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    right = torch.tensor([3.0, 2.0, 5.0], dtype=torch.float64)
    assert torch.equal(margin(LOGITS, RIGHT), wrong - right)
    spread = torch.tensor([3.0 - 0.5, 4.0 - 1.0, 5.0 - 1.0], dtype=torch.float64)
    assert torch.allclose(dlr(LOGITS, RIGHT), (wrong - right) / spread, atol=1e-12)
    assert torch.allclose(cross_entropy(LOGITS, RIGHT), F.softplus(log_margin(LOGITS, RIGHT)), atol=1e-12)
    assert torch.allclose(dlr(7 * LOGITS + 3, RIGHT), dlr(LOGITS, RIGHT), atol=1e-12), "no scale, no shift"


@pytest.mark.parametrize("threat", [LINF, L2])
def test_targets_are_ranked_by_the_distance_of_their_boundaries(threat: Threat) -> None:
    images, labels = data()
    ranked = nearest_classes(Linear(), images, labels, norm=threat.norm)
    assert torch.equal(ranked, boundaries(threat).argsort(1)[:, : CLASSES - 1])
    by_logit = nearest_classes(Linear(), images, labels, norm=None)
    assert not torch.equal(ranked[:, 0], by_logit[:, 0]), "else the gradients would not matter here"


@pytest.mark.parametrize("threat", [LINF, L2])
def test_one_target_of_the_screen_breaks_what_can_be_broken(threat: Threat) -> None:
    images, labels = data()
    screen = TargetedAPGD(1, "distance", steps=20)
    found = screen(Linear(), images, labels, threat=threat, generator=torch.Generator().manual_seed(0))
    correct = Linear()(found).argmax(1) == labels
    assert torch.equal(correct, boundaries(threat).amin(1) > threat.eps)


@pytest.mark.parametrize("threat", [LINF, L2])
def test_the_minimum_norm_attack_finds_the_minimal_perturbation(threat: Threat) -> None:
    images, labels = data()
    exact = boundaries(threat).amin(1).clamp_min(0)
    found = MinimumNorm().nearest(Linear().eval(), images, labels, norm=threat.norm)
    sizes = distance(found, images, threat.norm)
    assert torch.equal(sizes == 0, exact == 0), "only what is wrong already stays where it is"
    assert (sizes >= exact - 1e-6).all(), "nothing is nearer than the boundary"
    assert (sizes <= 1.03 * exact + 0.05 * threat.eps).all()
    assert (sizes / exact)[exact > 0].median() < 1.002


@pytest.mark.parametrize("threat", [LINF, L2])
@pytest.mark.parametrize("name", UNTARGETED + EXACT)
def test_each_attack_breaks_what_the_closed_form_breaks(name: str, threat: Threat) -> None:
    images, labels = data()
    x_adv = attacked(name, threat)
    assert (distance(x_adv, images, threat.norm) <= threat.eps).all(), "to the last bit"
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1
    broken, breakable = Linear()(x_adv).argmax(1) != labels, boundaries(threat).amin(1) <= threat.eps
    assert (broken <= breakable).all()
    # Without a target, an attack may start on the side of a class that is farther away, and stay there.
    assert (broken != breakable).sum() <= (name in UNTARGETED)


def test_every_attack_of_the_bench_is_tried_here() -> None:
    assert set(ATTACKS) == {*UNTARGETED, *EXACT, "embedding"}


def test_the_packages_attacks_have_their_papers_numbers() -> None:
    assert NamedAttack("apgd-t", EvaluationSettings()).settings == {"targets": 9, "ranking": "logit", "steps": 100}
    screen = NamedAttack("targeted-screen", EvaluationSettings())
    assert screen.settings == {"targets": 3, "ranking": "distance", "steps": 100}
    assert (screen.gradients, NamedAttack("embedding", EvaluationSettings()).gradients) == (300, 20)
    assert (screen.package, NamedAttack("min-norm", EvaluationSettings()).package) == ("pyautoattack", "foolbox")
    made = NamedAttack("pgd-cw", EvaluationSettings(pgd_steps=7))
    assert made.settings == {"steps": 7, "step_size": 0.25, "start": "uniform", "loss": "margin"}


@pytest.mark.parametrize("steps", ["auto", math.inf, 2.5])
def test_an_attack_without_a_number_of_steps_has_an_unknown_cost(
    monkeypatch: pytest.MonkeyPatch, steps: float | str
) -> None:
    @dataclass
    class Own:
        steps: float | str
        targets: float | str = 3

        def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, **options: object) -> Tensor:
            return images

    monkeypatch.setattr(ATTACKS, "get", lambda name: Own(steps))
    assert NamedAttack("own", EvaluationSettings()).gradients == 0
    monkeypatch.setattr(ATTACKS, "get", lambda name: Own(5, targets=steps))
    assert NamedAttack("own", EvaluationSettings()).gradients == 0
    monkeypatch.setattr(ATTACKS, "get", lambda name: Own(5))
    assert NamedAttack("own", EvaluationSettings()).gradients == 15


def test_an_attack_with_arguments_filled_in_has_them_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(model: nn.Module, images: Tensor, labels: Tensor, *, tries: int, **options: object) -> Tensor:
        return images

    monkeypatch.setattr(ATTACKS, "get", lambda name: partial(noise, tries=20))
    made = NamedAttack("own", EvaluationSettings())
    assert (made.settings, made.module) == ({"tries": 20}, __name__)


@pytest.mark.parametrize("threat", [LINF, L2])
def test_features_go_as_far_as_they_can(threat: Threat) -> None:
    """With one feature w x, the farthest that it can move is eps times the dual norm of w."""
    images, _ = data()
    weight = Linear().weight.detach()[:1]

    class OneFeature(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("an attack on features needs no logits")

        def features(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ weight.T

    attack = Embedding.of(20, 0.25, "uniform")
    x_adv = attack(OneFeature(), images, threat=threat, generator=torch.Generator().manual_seed(0))
    moved = (OneFeature().features(x_adv) - OneFeature().features(images)).abs()[:, 0]
    dual = weight.abs().sum() if threat.norm == "linf" else weight.norm()
    assert torch.allclose(moved, threat.eps * dual.expand(COUNT), rtol=1e-3)


def test_an_encoder_without_a_head_is_attacked_through_its_outputs() -> None:
    images, _ = data()
    encoder = nn.Flatten()
    attack = Embedding.of(10, 0.25, "uniform")
    x_adv = attack(encoder, images, threat=LINF, generator=torch.Generator().manual_seed(0))
    assert torch.allclose((x_adv - images).abs(), torch.full_like(images, LINF.eps)), "each pixel as far as it may"


def test_the_clean_image_is_no_start_for_the_attack_on_features() -> None:
    with pytest.raises(BenchError, match=r"Type --set evaluate\.pgd_start=uniform"):
        attacked("embedding", LINF, pgd_start="clean")


@pytest.mark.parametrize(("name", "least"), [("pgd-dlr", 3), ("apgd-dlr", 3), ("apgd-t", 4), ("targeted-screen", 4)])
def test_too_few_classes_are_said(name: str, least: int) -> None:
    images, labels = data(least - 1)
    attack = NamedAttack(name, EvaluationSettings())
    attack.check_classes(least)
    with pytest.raises(BenchError, match=f"'{name}' needs at least {least} classes; there are {least - 1}. Leave it"):
        attack(Linear(least - 1), images, labels, threat=LINF, seed=0, positions=range(COUNT))


class Rounded(Linear):
    """Its logits depend on the pixels, but by no path that has gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t", "targeted-screen", "min-norm"])
def test_a_model_without_gradients_is_one_message(name: str) -> None:
    (images, labels), attack = data(), NamedAttack(name, EvaluationSettings())
    message = f"no path that has gradients, so the attack '{name}' cannot run"
    with attacking(model := Rounded()):
        with pytest.raises(BenchError, match=message):
            attack(model, images, labels, threat=LINF, seed=0, positions=range(COUNT))
        if attack.minimal:
            with pytest.raises(BenchError, match=message):
                attack.nearest(model, images, labels, norm="linf", seed=0, positions=range(COUNT))


def test_an_attack_that_forgets_its_own_gradients_is_not_the_models_fault() -> None:
    images, _ = data()
    with (
        attacking(model := Linear()),
        pytest.raises(RuntimeError, match="does not require grad"),
        needing_gradients(model, images, "it", "leave it out"),
    ):
        model(images).sum().backward()
