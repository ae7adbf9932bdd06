"""The list of attacks: each tries what stands, keeps its own outcome, resumes after any batch, and cannot cheat."""

from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import Recorder, measure
from evaluations import short_attacks as short_attacks
from torch import Tensor

from bench.attack import ATTACKS, MinimumNorm
from bench.attack.apgd import TargetedAPGD
from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import Evaluation
from bench.recipe import EvaluationSettings
from bench.record import AttackList, ListedAttack, MinimalPerturbations, Outcome

LIST = ["pgd-cw", "min-norm", "embedding", "apgd-t"]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """Cut the packages' attacks short, as AutoAttack is: what they find is tested elsewhere."""
    list(ATTACKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS._entries, "min-norm", MinimumNorm(steps=8))
        patch.setitem(ATTACKS._entries, "apgd-t", TargetedAPGD(9, "logit", steps=8))
        yield


def listed(path: Path, recorder: Recorder | None = None, **changes: Any) -> Evaluation:
    values = {"attacks": LIST, "autoattack": False, "autoattack_images": 17, "eps": 0.03, **changes}
    return measure(path, recorder, **values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return listed(tmp_path_factory.mktemp("whole"))


def test_each_attack_tries_only_what_stands(whole: Evaluation) -> None:
    assert whole.attacks
    recorded = whole.attacks.attacks
    assert [one.attack for one in recorded] == LIST
    subset = recorded[0].outcome.positions(22)
    clean = dict(enumerate(whole.sa.unpack()))
    standing = [position for position in subset if clean[position]]
    right = len(standing)
    for one in recorded:
        assert one.tried == (right if one.attack == "min-norm" else len(standing))
        still = [position for position, correct in zip(subset, one.outcome.unpack(), strict=True) if correct]
        assert {*still} <= {*standing}, "what fell stays fallen"
        standing = still
    assert 0 < whole.attacks.outcome.correct < right, "else this proves nothing"
    assert whole.attacks.outcome == recorded[-1].outcome
    phases = [f"evaluate:attacks.{name}" for name in LIST]
    assert [whole.cost[phase].images for phase in phases] == [one.tried for one in recorded]
    assert all(whole.cost[phase].seconds > 0 for phase in phases)


def test_the_record_keeps_settings_and_packages(whole: Evaluation) -> None:
    assert whole.attacks
    cw, minimal, _, apgd = whole.attacks.attacks
    assert cw.settings == {"steps": 3, "step_size": 0.25, "start": "uniform", "loss": "margin"}
    assert (cw.package, cw.package_version) == (None, None)
    assert (minimal.package, apgd.package) == ("foolbox", "pyautoattack")
    assert minimal.package_version
    assert whole.attacks.eps == 0.03


def test_one_minimum_norm_run_gives_the_accuracy_at_every_radius(whole: Evaluation) -> None:
    assert whole.attacks
    found = whole.attacks.perturbations
    assert found
    right = [whole.sa.unpack()[position] for position in whole.attacks.outcome.positions(22)]
    sizes = torch.tensor(found.unpack())
    assert torch.equal(sizes > 0, torch.tensor(right)), "0 for what is wrong without an attack"
    assert found.accuracy(0) == sum(right) / len(right)
    assert found.accuracy(1) == sizes.isinf().double().mean() > 0, "infinite where so few steps found nothing"
    within = (sizes > 0) & (sizes <= 0.03)
    before, after = (one.outcome.unpack() for one in whole.attacks.attacks[:2])
    expected = torch.tensor(before) & ~within
    assert torch.equal(torch.tensor(after), expected), "the curve and the outcome are one measurement"


@pytest.mark.parametrize("stop_at", range(11, 24, 2))
def test_stopped_after_any_batch_it_continues_to_the_same_end(tmp_path: Path, whole: Evaluation, stop_at: int) -> None:
    with pytest.raises(InterruptedRunError):
        listed(tmp_path, Recorder(stop_at))
    recorder = Recorder()
    assert listed(tmp_path, recorder).attacks == whole.attacks
    assert all(recorder.counted[phase] == total for phase, total, _ in recorder.phases)


def test_the_empty_list_is_the_evaluation_of_today(tmp_path: Path) -> None:
    assert measure(tmp_path, autoattack=False).attacks is None
    assert EvaluationSettings().digest() == EvaluationSettings(attacks=()).digest()
    assert "attacks" not in EvaluationSettings().counted()
    assert EvaluationSettings(attacks=("pgd",)).digest() != EvaluationSettings().digest()


def test_an_attack_that_leaves_the_ball_never_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def far(model: Any, images: Tensor, labels: Tensor, *, threat: Any, generator: Any) -> Tensor:
        return images.flip(0)

    monkeypatch.setitem(ATTACKS._entries, "far", far)
    with pytest.raises(BenchError, match="the attack 'far' returned an image outside the threat model"):
        listed(tmp_path, attacks=["far"])
    with pytest.raises(BenchError, match="attacks: pgd is there twice; name each attack once"):
        listed(tmp_path, attacks=["pgd", "pgd"])


def test_a_minimum_norm_attack_that_returns_rubbish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rubbish(MinimumNorm):
        def nearest(self, model: Any, images: Tensor, labels: Tensor, *, norm: Any) -> Tensor:
            return images * torch.nan

    monkeypatch.setitem(ATTACKS._entries, "min-norm", Rubbish())
    with pytest.raises(BenchError, match="the attack 'min-norm' returned an image outside the threat model"):
        listed(tmp_path, attacks=["min-norm"])


# What a record may hold


def outcome(correct: int) -> Outcome:
    return Outcome.pack([place < correct for place in range(8)], test_images=8)


def test_an_attack_of_the_list_cannot_mend_images() -> None:
    attacks = [ListedAttack(attack=name, outcome=outcome(n), tried=8) for name, n in (("a", 3), ("b", 5))]
    with pytest.raises(ValueError, match=r"cannot mend images: \[3, 5\]"):
        AttackList(eps=0.1, attacks=tuple(attacks))


def test_perturbations_survive_packing_and_refuse_an_edit() -> None:
    packed = MinimalPerturbations.pack([0.0, 0.25, torch.inf, 0.5])
    assert packed.unpack().tolist() == [0.0, 0.25, torch.inf, 0.5]
    assert packed.median == 0.5
    assert [packed.accuracy(eps) for eps in (0, 0.25, 0.3, 0.5)] == [0.75, 0.5, 0.5, 0.25]
    assert MinimalPerturbations.pack([torch.inf, 1.0]).median is None
    for change in ({"n": 5}, {"median": 0.1}, {"sizes": "AAA"}, {"sizes": packed.sizes[:8]}):
        with pytest.raises(BenchError):
            MinimalPerturbations.parse({**packed.model_dump(), **change}, "perturbations")
