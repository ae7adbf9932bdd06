"""What an attack of a user says of itself is as a record can hold it, and what it changes around it is put back."""

import math
import random
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.attack import ATTACKS, NamedAttack
from bench.errors import BenchError
from bench.recipe import EvaluationSettings, Threat

THREAT = Threat(norm="linf", eps=0.1)


def still(self: Any, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
    return images


def named(monkeypatch: pytest.MonkeyPatch, attack: Any) -> NamedAttack:
    list(ATTACKS)  # finds the plug-ins
    monkeypatch.setitem(ATTACKS._entries, "strange", attack)
    return NamedAttack("strange", EvaluationSettings(attack="strange"))


def with_field(value: Any) -> Any:
    return make_dataclass("Own", [("field", Any, value)], namespace={"__call__": still}, frozen=True)()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (3, 3),
        (2**70, str(2**70)),
        ("word", "word"),
    ],
)
def test_numbers_and_words_are_settings(monkeypatch: pytest.MonkeyPatch, value: Any, kept: Any) -> None:
    settings = named(monkeypatch, with_field(value)).settings
    assert settings == {"field": kept}
    assert type(settings["field"]) is type(kept)


def test_so_is_what_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(monkeypatch, with_field(math.nan)).settings == {"field": "nan"}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"field": "a" * 5000}, "the attack 'strange': settings.field: must have at most 2000 characters"),
        ({"field": "a\nb\x00"}, "the attack 'strange': settings.field: "),
        ({"least_classes": "x"}, r"the attack 'strange': least_classes: must be a whole number \(given: 'x'\)"),
        ({"package": 3}, r"the attack 'strange': package: must be text \(given: 3\)"),
    ],
)
def test_what_no_record_can_hold_is_told_when_it_is_named(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], message: str
) -> None:
    attack = with_field(facts.get("field", 1))
    for name in facts.keys() - {"field"}:
        object.__setattr__(attack, name, facts[name])
    with pytest.raises(BenchError, match=message):
        named(monkeypatch, attack)


@dataclass(frozen=True)
class Drawing:
    """Moves images by what the global generators of torch, NumPy and Python draw."""

    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
        drawn = torch.rand(images.shape) + float(np.random.rand()) + random.random()
        return (images + threat.eps * (drawn - 1.5).clamp(-1, 1)).clamp(0, 1)

    def nearest(self, model: Any, images: Tensor, labels: Tensor, *, norm: str) -> Tensor:
        return torch.rand_like(images)


class Larger(Drawing):
    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return images


def attacked(attack: NamedAttack, **place: Any) -> Tensor:
    place = {"seed": 0, "positions": [4, 5], **place}
    return attack(nn.Flatten(), torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.long), threat=THREAT, **place)


def test_what_it_draws_from_global_generators_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = named(monkeypatch, Drawing())
    once = attacked(attack)
    state = torch.get_rng_state()
    torch.rand(3), np.random.rand(), random.random()  # what else the process draws does not matter
    expected = random.getstate()
    assert torch.equal(attacked(attack), once)
    assert random.getstate() == expected
    assert not torch.equal(torch.get_rng_state(), state)
    for other in ({"seed": 1}, {"positions": [6, 7]}, {"restart": 1}):
        assert not torch.equal(attacked(attack, **other), once)
    images, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)
    near = [
        attack.nearest(nn.Flatten(), images, labels, norm="linf", seed=seed, positions=[place, 3])
        for seed, place in ((0, 1), (0, 1), (1, 1), (0, 2))
    ]
    assert torch.equal(near[0], near[1])
    assert not torch.equal(near[0], near[2])
    assert not torch.equal(near[0], near[3])


def test_the_default_type_of_torch_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=r"the attack 'strange' makes torch\.float64 the default type of torch"):
        attacked(named(monkeypatch, Larger()))
    assert torch.get_default_dtype() == torch.float32
