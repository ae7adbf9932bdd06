"""DeACL's loss forms and its contrastive term against loops: each is what its name says."""

import math
from collections import deque
from typing import Any, get_args

import pytest
import torch
from attacked_images import replace_pgd
from deacl_stages import embeddings, stages_of, step_of
from torch import Tensor

from bench.attack import PGD
from bench.zoo import digest
from methods.deacl import PseudoATSettings
from methods.deacl_losses import LOSS_FORMS, LossName, cosine, divergence, info_nce
from methods.losses import nt_xent

LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)


# The loss forms

READINGS: dict[str, tuple[str, str, str | None]] = {
    "ce2gt_ae2ce": ("c", "S", "S"),
    "ae2gt_ae2ce": ("a", "S", "S"),
    "pgd": ("a", "S", None),
    "ae2gt_kl": ("a", "K", None),
    "ae2gt_infonce": ("a", "N", None),
    "ce2gt_ae2ce_kl": ("c", "K", "K"),
    "ce2gt_ae2ce_infonce": ("c", "N", "N"),
    "cs.ce2gt._kl.ae2ce.": ("c", "S", "K"),
    "kl.ce2gt._cs.ae2ce.": ("c", "K", "S"),
    "cs.ce2gt._infonce.ae2ce.": ("c", "S", "N"),
    "infonce.ce2gt._cs.ae2ce.": ("c", "N", "S"),
    "infonce.ce2gt._kl.ae2ce.": ("c", "N", "K"),
    "kl.ce2gt._infonce.ae2ce.": ("c", "K", "N"),
}


def slow(measure: str, u: Tensor, v: Tensor, temperature: float) -> float:
    """S, K or N in loops: u is pulled towards v."""
    cosines = [[float(a @ b / (a.norm() * b.norm())) for b in v] for a in u]
    if measure == "S":
        return -sum(cosines[i][i] for i in range(len(u))) / len(u)
    total = 0.0
    for i in range(len(u)):
        if measure == "N":
            scores = [math.exp(value / temperature) for value in cosines[i]]
            total -= math.log(scores[i] / sum(scores))
        else:
            of_u, of_v = ([math.exp(float(x) / temperature) for x in row[i]] for row in (u, v))
            p, q = [x / sum(of_v) for x in of_v], [x / sum(of_u) for x in of_u]
            total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total / len(u)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_three_measures_against_loops(temperature: float) -> None:
    u, v = embeddings(5, 4), embeddings(5, 4, seed=1)
    for name, measure in (("S", cosine), ("K", divergence), ("N", info_nce)):
        assert float(measure(u, v, temperature)) == pytest.approx(slow(name, u, v, temperature), abs=1e-10)
        assert torch.autograd.gradcheck(
            lambda a, b, f=measure: f(a, b, temperature),
            (u.clone().requires_grad_(), v.clone().requires_grad_()),
        )
    assert float(divergence(u, u, temperature)) == pytest.approx(0, abs=1e-12)
    assert abs(float(divergence(u, v, temperature) - divergence(v, u, temperature))) > 1e-3
    same = torch.ones(5, 4, dtype=torch.float64)
    assert float(info_nce(same, same, temperature)) == pytest.approx(math.log(5), abs=1e-12)


def test_all_thirteen_names_are_composed() -> None:
    assert len(LOSS_NAMES) == 13
    assert set(LOSS_NAMES) == set(LOSS_FORMS) == set(READINGS)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_form_is_what_its_name_says(name: LossName) -> None:
    settings = PseudoATSettings(loss=name, temperature=0.3, lam=1.7)
    _, _, stage = stages_of()
    stage.plan = settings
    c, a, z = (embeddings(5, 4, seed=i).requires_grad_(i < 2) for i in range(3))
    pulled, first, second = READINGS[name]
    loss = stage._loss(c, a, z)
    clean, adversarial = c.detach(), a.detach()
    terms = {"distance": slow(first, clean if pulled == "c" else adversarial, z, 0.3)}
    if second is not None:
        terms["robustness"] = slow(second, adversarial, clean, 0.3)
    assert {key: float(value) for key, value in loss.scalars.items()} == pytest.approx(terms, abs=1e-10)
    expected = terms["distance"] + 1.7 * terms.get("robustness", 0.0)
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-10)
    loss.total.backward()
    assert a.grad is not None
    assert (c.grad is None) == (pulled == "a" and second is None)  # never detached where it occurs


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("contrastive", [0.0, 0.5])
@pytest.mark.parametrize("setting", ["lam", "temperature"])
def test_a_loss_form_says_which_settings_it_does_not_read(name: LossName, contrastive: float, setting: str) -> None:
    _, _, stage = stages_of()
    features = [embeddings(5, 4, seed=i) for i in range(3)]
    totals = []
    for value in (0.3, 0.6):
        stage.plan = PseudoATSettings(**{"loss": name, "contrastive": contrastive, setting: value})
        totals.append(float(stage._loss(*features).total))
    assert (totals[0] == totals[1]) == (setting in stage.plan.unread)


def test_no_loss_form_changes_the_attack_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[Tensor] = []

    def recording(objective: Any, images: Tensor, attack: PGD, **how: Any) -> Tensor:
        attacked.extend(deque(attack.iterates(objective, images, **how), maxlen=1))
        return attacked[-1]

    replace_pgd(monkeypatch, recording)
    states = []
    for name in ("ce2gt_ae2ce", "pgd", "ce2gt_ae2ce_infonce"):
        _, _, stage = stages_of(stage2__loss=name)
        step_of(stage)
        states.append(digest(stage.encoder.state_dict()))  # running statistics: of [x; x'] in all forms
    assert all(torch.equal(attacked[0], x) for x in attacked[1:])
    assert len(set(states)) == 1


# Table 6: collapse prevention


def test_the_contrastive_term_is_nt_xent_of_clean_and_adversarial_features() -> None:
    _, _, stage = stages_of(stage2__contrastive=0.5, stage2__temperature=0.3)
    c, a, z = (embeddings(5, 4, seed=i) for i in range(3))
    loss = stage._loss(c, a, z)
    term = float(nt_xent(c, a, 0.3))
    assert float(loss.scalars["contrastive"]) == pytest.approx(term, abs=1e-12)
    assert float(loss.total) == pytest.approx(
        float(loss.scalars["distance"] + 2 * loss.scalars["robustness"]) + 0.5 * term, abs=1e-12
    )
    _, _, without = stages_of()
    assert "contrastive" not in without._loss(c, a, z).scalars
