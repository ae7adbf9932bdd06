"""An attack that a package adds is asked for by name, recorded, and refused where it breaks its bounds."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import measure
from torch import Tensor, nn
from toy_runs import carry_out, changed, toy_data, toy_request

from bench.attack import ATTACKS, PGD, NamedAttack, ball_around, image_generators
from bench.errors import BenchError
from bench.recipe import EvaluationSettings, Threat
from bench.run import prepare

THREAT = Threat(eps=0.1)
PLACE: dict[str, Any] = {"seed": 1, "positions": [4, 7], "restart": 2}
"""Which random starts the images get."""


class OneStep:
    """The fast gradient sign method, by the gradient of the objective."""

    def __init__(self, steps: int, step_size: float, start: str) -> None:
        self.numbers = (steps, step_size, start)

    def __call__(self, objective: Any, images: Tensor, *, threat: Threat, **rest: Any) -> Tensor:
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x).sum(), x)
        return self.spoilt((images + threat.eps * gradient.sign()).clamp(0, 1), images)

    def spoilt(self, x: Tensor, images: Tensor) -> Tensor:
        return x


class TooFar(OneStep):
    def spoilt(self, x: Tensor, images: Tensor) -> Tensor:
        return (images + 2 * (x - images)).clamp(0, 1)


class TooBright(OneStep):
    def spoilt(self, x: Tensor, images: Tensor) -> Tensor:
        return torch.ones_like(x) + 1e-4


class NoNumber(OneStep):
    def spoilt(self, x: Tensor, images: Tensor) -> Tensor:
        return torch.where(x > 0.5, torch.nan, x)


class AnotherShape(OneStep):
    def spoilt(self, x: Tensor, images: Tensor) -> Tensor:
        return x[:-1]


class OnTheModel:
    """An attack in the registry itself, called with model and labels."""

    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
        assert not model.training
        return (images + threat.eps * labels[:, None, None, None].add(1)).clamp(0, 1)


class InPlace(OnTheModel):
    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
        return images.fill_(1.0)


class Pair(OnTheModel):
    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Any:
        return images, labels


class Double(OnTheModel):
    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
        return images.double()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], EvaluationSettings]:
    def register(attack: Any) -> EvaluationSettings:
        list(ATTACKS)  # finds the plug-ins
        monkeypatch.setitem(ATTACKS._entries, "strange", attack)
        return EvaluationSettings(attack="strange", pgd_steps=3)

    return register


def images() -> Tensor:
    return torch.linspace(0.2, 0.95, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


class Brightness(nn.Module):
    """Two logits, of which the second is the brightness: an attack on label 0 climbs it."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(brightness), brightness], dim=1)


def attacked(settings: EvaluationSettings, threat: Threat = THREAT) -> Tensor:
    model = Brightness().eval()
    labels = torch.zeros(2, dtype=torch.int64)
    return NamedAttack(settings.attack, settings)(model, images(), labels, threat=threat, **PLACE)


def test_a_strangers_attack_is_made_with_the_recipes_numbers(known: Callable[[Any], EvaluationSettings]) -> None:
    made: list[OneStep] = []

    def factory(*numbers: Any) -> OneStep:
        made.append(OneStep(*numbers))
        return made[0]

    x_adv = attacked(known(factory))
    assert made[0].numbers == (3, 0.25, "uniform")
    assert torch.equal(x_adv, ball_around(images(), THREAT).project(images() + 0.1)), "inside to the last bit"


@pytest.mark.parametrize("attack", [TooFar, TooBright, NoNumber, AnotherShape])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_leaves_its_bounds_is_refused(attack: Any, norm: Any, known: Callable[[Any], EvaluationSettings]) -> None:
    what = "images of shape" if attack is AnotherShape else "an image outside the threat model"
    with pytest.raises(BenchError, match=rf"^the attack 'strange' returned {what}.*The number would be meaningless"):
        attacked(known(attack), Threat(norm=norm, eps=0.1))


def test_an_attack_on_the_model_joins_as_it_is(known: Callable[[Any], EvaluationSettings]) -> None:
    assert torch.equal(attacked(known(OnTheModel())), ball_around(images(), THREAT).project(images() + 0.1))


@pytest.mark.parametrize(
    ("attack", "what"),
    [
        (InPlace(), "an image outside the threat model: one moved by 0.8"),
        (Pair(), "a tuple, not the attacked images"),
        (Double(), "images of shape .* torch.float64, for images of shape .* torch.float32"),
    ],
)
def test_what_else_a_strangers_attack_may_return(
    attack: Any, what: str, known: Callable[[Any], EvaluationSettings]
) -> None:
    with pytest.raises(BenchError, match=rf"^the attack 'strange' returned {what}"):
        attacked(known(attack))


def without_threat(model: Any, images: Any, labels: Any) -> Any:
    return images


@pytest.mark.parametrize("entry", ["THREAT", "images", "without_threat"])
def test_what_is_no_attack_is_refused(entry: str, known: Callable[[Any], EvaluationSettings]) -> None:
    with pytest.raises(BenchError, match=r"is no attack: it (cannot be called|is called neither as an attack)"):
        attacked(known(f"{__name__}:{entry}"))


def test_pgd_is_the_default_and_the_same() -> None:
    settings = EvaluationSettings()
    generators = image_generators(1, [4, 7], 2)
    expected = PGD(20, 0.25, "uniform")(lambda x: x.flatten(1).sum(1), images(), threat=THREAT, generator=generators)
    assert torch.equal(attacked(settings), expected)
    assert NamedAttack("pgd", settings).title == "PGD-20"


@pytest.mark.parametrize("name", list(ATTACKS))
def test_ra_records_the_numbers_of_its_attack_and_not_idle_ones_of_pgd(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"pgd_steps": 3, "pgd_restarts": 1, "eps": 0.04, "batch_size": 22, "autoattack": False}
    ra = measure(tmp_path, attack=name, **settings).ra
    from_recipe = name.startswith("pgd") or name == "embedding"
    numbers = (3, 0.01, "uniform") if from_recipe else (100, None, None)
    assert (ra.attack, ra.steps, ra.step_size, ra.start) == (name, *numbers)


def test_a_run_under_every_attack_of_the_bench_records_what_each_left(
    finished_toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(ATTACKS)
    for name in names:
        found = ATTACKS.get(name)
        if is_dataclass(found) and not isinstance(found, type):  # of a package: 100 steps by default
            monkeypatch.setitem(ATTACKS._entries, name, replace(found, steps=2))
    shutil.copytree(finished_toy, tmp_path, dirs_exist_ok=True)
    request = toy_request(f"npz:{tmp_path / 'toy.npz'}", tmp_path)
    ((record, _),) = carry_out(changed(request, evaluate__attacks=names), tmp_path / "results")
    assert record.attacks
    listed = record.attacks.attacks
    assert [one.attack for one in listed] == names
    left = [record.sa.correct, *(one.outcome.correct for one in listed)]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]
    assert [one.settings["steps"] for one in listed] == [
        NamedAttack(name, EvaluationSettings(pgd_steps=2)).steps for name in names
    ]


def test_an_attack_without_a_number_of_steps_has_none_in_its_title(known: Callable[[Any], EvaluationSettings]) -> None:
    made = NamedAttack("strange", known(OnTheModel()))
    assert (made.title, made.steps, made.from_recipe) == ("strange", None, {})
    made = NamedAttack("strange", known(OneStep))
    assert (made.title, made.gradients) == ("strange-3", 3), "it was made from the recipe's"


def test_an_attack_that_is_not_there_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)
    with pytest.raises(BenchError, match=r"unknown attack 'pdg'\. Did you mean 'pgd'\?"):
        prepare(changed(request, evaluate__attack="pdg"))


class FromElsewhere(OnTheModel):
    package = "not-there"


def test_what_attacks_need_is_checked_before_anything_is_trained(
    known: Callable[[Any], EvaluationSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known(FromElsewhere())
    monkeypatch.setitem(sys.modules, "foolbox", None)
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)
    with pytest.raises(BenchError) as refused:
        prepare(changed(request, evaluate__attack="pgd-dlr", evaluate__attacks=["apgd-t", "min-norm", "strange"]))
    head, *faults = str(refused.value).split("\n- ")
    said = (
        "the attack 'pgd-dlr' needs at least 3 classes; there are 2",
        "the attack 'apgd-t' needs at least 4 classes; there are 2",
        "the attack 'min-norm' needs foolbox",
        "the attack 'strange' needs the package not-there, which is not installed",
    )
    assert head == "4 faults:"
    assert all(fault.startswith(start) for fault, start in zip(faults, said, strict=True)), faults


def test_a_minimum_norm_attack_takes_no_gradients_in_bf16(tmp_path: Path) -> None:
    """It ends on the boundary of the network that it differentiates, which float32 judges to lie on either side."""
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)
    for chosen in ({"evaluate__attack": "min-norm"}, {"evaluate__attacks": ["pgd-cw", "min-norm"]}):
        prepare(changed(request, **chosen))
        with pytest.raises(BenchError, match=r"the attack 'min-norm' .*attack_precision=fp32, or leave min-norm out"):
            prepare(changed(request, **chosen, evaluate__attack_precision="bf16"))


def test_a_record_says_which_attack_ra_is_under(known: Callable[[Any], EvaluationSettings], tmp_path: Path) -> None:
    known(OneStep)
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)
    ((plain, _),) = carry_out(request, tmp_path / "results")
    ((record, _),) = carry_out(changed(request, evaluate__attack="strange"), tmp_path / "results")
    assert (plain.ra.attack, record.ra.attack) == ("pgd", "strange")
    assert (plain.ra.start_drawn, record.ra.start_drawn) == ("per image", "per batch")
    assert record.ra.no_gradient is None, "this attack showed no gradient, so none was counted"
    assert record.overrides["evaluate.attack"] == "strange"
    assert record.pretraining_sha256 == plain.pretraining_sha256
    assert record.protocol_sha256 != plain.protocol_sha256
