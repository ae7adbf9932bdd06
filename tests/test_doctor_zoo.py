"""The doctor on the zoo: the named check finds each sabotage, and nothing is found on what is sound."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from sabotaged import RUNS, digits, images_tested, in_front, patient, sabotaged, sound, unmeasured, untrained
from torch import nn
from torch.nn import functional as F

from bench import rng
from bench.attack import auto_attack
from bench.data import Split, unit_pixels
from bench.doctor import CHECKS, Patient, examine
from bench.doctor.gradient import input_gradient, nearby_cosines, slope_ratios, without_direction
from bench.doctor.strength import STRENGTH
from bench.doctor.surrogate import trained_surrogate
from bench.errors import BenchError
from bench.nn import Classifier, frozen_copy
from bench.protocol.knn import SoftVote
from bench.recipe import KNNSettings
from bench.record import AutoAttackEvaluation, Outcome, Verdict, verdict_on
from bench.record.shares import at_least

FOUND_BY: dict[str, dict[str, Verdict]] = {
    "quantised input": {"zero gradient": "fail", "loss growth": "doubt", "unbounded attack": "doubt"},
    "stairs with short ramps": {"pixels without gradient": "fail"},
    "random noise layer": {"deterministic": "fail", "finite difference": "doubt"},
    "random resizing": {"gradient stability": "fail"},
    "detached gradient": {"zero gradient": "fail"},
    "straight-through estimator missing": {"zero gradient": "fail"},
    "fine ripples": {"gradient stability": "fail"},
    "k-winners": {"finite difference": "doubt"},
    "normalised pixels fed as [0, 1]": {"normalisation": "fail"},
    "softmax output": {"logits": "fail"},
    "train-mode batch-norm": {"eval mode": "fail"},
    "reads the batch's mean": {"batch independence": "fail"},
    "an encoder that SLF changed": {"encoder unchanged": "fail"},
    "logits x 1e-4": {"scale of logits": "doubt"},
    "logits x 1e4": {"scale of logits": "doubt"},
    "test-time optimiser": {"inner optimisation": "doubt"},
    "dropout left on": {"deterministic": "fail", "finite difference": "doubt"},
    "non-deterministic top-k": {"finite difference": "doubt"},
    "label-leaking file order": {"attack repeated": "doubt"},
    "AA on another subset than RA": {"RA and AA": "doubt"},
    "RA by cross-entropy, logits x 1e4": {"attack repeated": "doubt"},
}


def verdicts(found: Patient) -> dict[str, Verdict]:
    return {diagnosis.check: diagnosis.verdict for diagnosis in examine(found)}


def test_every_sabotage_has_its_check() -> None:
    assert FOUND_BY.keys() == RUNS.keys()


@pytest.mark.parametrize("name", FOUND_BY)
def test_the_named_check_finds_the_sabotage(name: str) -> None:
    found = verdicts(RUNS[name]())
    assert {check: found[check] for check in FOUND_BY[name]} == FOUND_BY[name]


@pytest.mark.parametrize("robust", [True, False])
def test_nothing_is_doubted_on_a_sound_classifier(robust: bool) -> None:
    found = patient(sound(robust))
    assert found.ra
    assert 0.7 < found.ra.outcome.accuracy < 0.9 if robust else found.ra.outcome.correct == 0
    assert set(verdicts(found).values()) <= {"sound", "note"}


def test_a_surrogate_of_two_classes_may_err() -> None:
    """Twice as often right as a guess would be never wrong."""

    def threes_and_eights(split: Split, wrong: int) -> Split:
        chosen = (split.labels == 3) | (split.labels == 8)
        labels = (split.labels[chosen] == 8).long()
        labels[:wrong] = 1 - labels[:wrong]
        return Split(split.images[chosen], labels)

    data = digits()
    for wrong, good in ((6, True), (24, False)):
        test = threes_and_eights(data.test, wrong)
        found = unmeasured(untrained(), test)
        two = found.recipe.dataset.model_copy(update={"num_classes": 2, "test_images": len(test.labels)})
        asked = replace(
            found, recipe=found.recipe.model_copy(update={"dataset": two}), train=threes_and_eights(data.train, 0)
        )
        assert (trained_surrogate(asked) is not None) == good


def test_jumps_of_the_vote_of_the_nearest_are_noted_and_not_doubted() -> None:
    """Among features that tell little, the neighbours change within a fiftieth of eps; the gradient is still right."""
    encoder, train = untrained().eval().encoder, digits().train
    vote = SoftVote(len(train.labels), encoder.feature_dim, 10, KNNSettings(k=20))
    vote.labels.copy_(train.labels)
    with torch.no_grad():
        vote.bank.copy_(F.normalize(encoder(unit_pixels(train.images)), dim=1))
    visited = patient(Classifier(encoder, vote).eval())  # type: ignore[arg-type]  # no linear head
    (found,) = (one for one in examine(visited) if one.check == "finite difference")
    assert found.verdict == "note"
    assert found.numbers["jumps"] > found.numbers["wrong"]
    assert verdict_on(int(found.numbers["jumps"] + found.numbers["wrong"]), int(found.numbers["images"])) == "doubt"


def test_a_stand_in_that_attacks_need_is_doubted_and_not_refused() -> None:
    """BPDA through the rounding of the quantised input: RA falls to what it is, and the row can be shown."""
    passed = in_front(lambda x: x + ((4 * x).round() / 4 - x).detach())
    found, hidden = patient(passed(frozen_copy(sound())).eval()), patient(sabotaged("quantised input"))
    assert found.ra
    assert hidden.ra
    assert found.ra.outcome.accuracy < hidden.ra.outcome.accuracy - 0.1
    assert verdicts(found)["finite difference"] == "doubt"
    assert "fail" not in verdicts(found).values()


def merged(x: torch.Tensor) -> torch.Tensor:
    """The largest of four pixels, in place of all: most have no gradient, and matter little while they have none."""
    return F.interpolate(F.max_pool2d(x, 2), scale_factor=2)


def thinned(x: torch.Tensor) -> torch.Tensor:
    """One of four pixels, in place of all: most have no gradient, and never matter."""
    return F.interpolate(x[..., ::2, ::2], scale_factor=2)


@pytest.mark.parametrize("change", [merged, thinned])
def test_pixels_without_gradient_that_matter_little_are_sound(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    visited = unmeasured(in_front(change)(frozen_copy(sound())).eval(), images_tested(in_order=False))
    (asked,) = (one for one in CHECKS["gradient"] if one.name == "pixels without gradient")
    found = asked(visited)
    assert found
    assert (found.verdict, found.numbers["share"]) == ("sound", 0.75)


def waving() -> Patient:
    """Return one whose pixels go through waves as long as eps: half of it is a way out, and all of it is none."""
    waves = in_front(lambda x: x + 0.2 * (2 * torch.pi / digits().eps * x).sin())
    return patient(waves(frozen_copy(sound())).eval())


def autoattacked(**survivors: int) -> Patient:
    """Return one that breaks everywhere, with an AutoAttack that left so many images; all, where none are given."""
    visited = replace(patient(sound(False)), deep=True)
    positions = visited.sample.positions
    robust = [place < [len(positions), *survivors.values()][-1] for place in range(len(positions))]
    claimed = Outcome.pack(robust, images=positions, test_images=len(visited.test))
    numbers = {"version": "standard", "package": "pyautoattack", "package_version": "0", "targets": 9}
    eps = visited.threat.eps
    aa = AutoAttackEvaluation(outcome=claimed, eps=eps, survivors=survivors, warnings=[], **numbers)
    return replace(visited, aa=aa)


ATTACKED: list[tuple[str | Callable[[], Patient], str, Verdict]] = [
    ("logits x 1e-4", "margin loss", "doubt"),
    ("logits x 1e4", "margin loss", "note"),
    ("stairs with short ramps", "averaged gradient", "doubt"),
    ("quantised input", "random search", "doubt"),
    ("dropout left on", "restarts", "doubt"),
    ("random resizing", "number of steps", "doubt"),
    ("detached gradient", "transfer", "doubt"),
    (waving, "smaller radius", "doubt"),
    (partial(autoattacked, apgd=60, square=20), "black-box attack", "doubt"),
    (autoattacked, "missed by AutoAttack", "fail"),
]
"""Sabotages, or other patients, that a check of the attack finds in a deep visit."""


@pytest.mark.parametrize(
    ("broken", "check", "verdict"),
    [pytest.param(*case, marks=pytest.mark.slow if case[1] == "transfer" else ()) for case in ATTACKED],
)
def test_a_deep_visit_finds_attacks_that_break_more(
    broken: str | Callable[[], Patient], check: str, verdict: Verdict
) -> None:
    torch.manual_seed(0)  # dropout and resizing draw from it
    (asked,) = (one for one in CHECKS["attack"] if one.name == check)
    found = asked(replace(patient(sabotaged(broken)) if isinstance(broken, str) else broken(), deep=True))
    assert found
    assert found.verdict == verdict


def test_every_check_of_gradient_and_attack_has_a_patient_that_it_finds() -> None:
    found = {check for checks in FOUND_BY.values() for check in checks} | {check for _, check, _ in ATTACKED}
    assert {check.name for check in (*CHECKS["gradient"], *CHECKS["attack"])} <= found


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("number of steps", {"attack": "apgd-ce"}),
        ("restarts", {"attack": "apgd-ce"}),
        ("restarts", {"pgd_start": "clean"}),
    ],
)
def test_more_of_a_number_that_the_attack_does_not_take_is_not_asked_for(check: str, changes: dict[str, str]) -> None:
    visited = unmeasured(untrained(), images_tested(in_order=False))
    evaluation = visited.recipe.evaluate.model_copy(update=changes)
    (asked,) = (one for one in STRENGTH if one.name == check)
    assert asked(replace(visited, recipe=visited.recipe.model_copy(update={"evaluate": evaluation}))) is None


def test_a_deep_visit_names_the_images_that_autoattack_missed() -> None:
    """AutoAttack is made to say that every image is robust; on a model that breaks everywhere, it missed all."""
    visited = autoattacked()
    positions = visited.sample.positions
    (asked,) = (one for one in STRENGTH if one.name == "missed by AutoAttack")
    found = asked(visited)
    assert found
    assert found.numbers["broken"] == found.numbers["left by AutoAttack"] == len(positions)
    assert f"(test images {positions[0]}, {positions[1]}, " in found.found
    assert asked(replace(visited, aa=None)) is None


@pytest.mark.slow
@pytest.mark.parametrize("robust", [True, False])
def test_no_other_attack_is_much_stronger_on_a_sound_classifier(robust: bool) -> None:
    found = verdicts(replace(patient(sound(robust)), deep=True))
    made = [one.name for one in STRENGTH if one.name != "missed by AutoAttack"]  # this patient has no AA
    assert {name: found[name] for name in made} == dict.fromkeys(made, "sound")


def test_a_large_scale_of_logits_does_not_change_ra() -> None:
    """The attack's loss is no cross-entropy, so RA is sound; only other attacks stand still."""
    plain, scaled = patient(sound()), patient(sabotaged("logits x 1e4"))
    assert plain.ra
    assert scaled.ra
    assert abs(plain.ra.outcome.accuracy - scaled.ra.outcome.accuracy) < 0.05
    found = verdicts(scaled)
    assert {found[name] for name in ("zero gradient", "finite difference", "loss growth", "unbounded attack")} == {
        "sound"
    }


def test_autoattack_says_that_it_cannot_attack_logits_without_a_path_to_the_pixels() -> None:
    found = patient(sabotaged("detached gradient"))
    few = found.sample.images[:2], found.sample.labels[:2]
    with pytest.raises(BenchError, match="no path that has gradients"):
        auto_attack(found.attacked, *few, threat=found.threat, num_classes=10, seed=0, batch_size=2)


class Linear(nn.Module):
    """Logits whose log-margin has the slope (2, -1, 0, ...) everywhere: two classes, the second one constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.flatten(1)[:, :2] @ x.new_tensor([-2.0, 1.0])
        return torch.stack([first, torch.zeros_like(first)], 1)


def test_a_linear_model_has_the_slope_and_the_direction_that_its_gradient_says() -> None:
    images, labels = torch.rand(5, 3, 2, 2, generator=rng.generator(0, "images")), torch.zeros(5, dtype=torch.int64)
    images[0] = 0.0  # on the edge, where a step must not leave [0, 1]
    gradient = input_gradient(Linear(), images, labels)
    assert gradient.flatten(1)[:, :3].tolist() == [[2.0, -1.0, 0.0]] * 5
    torch.testing.assert_close(slope_ratios(Linear(), images, labels, 0.01), torch.ones(5), rtol=1e-4, atol=0)
    cosines = nearby_cosines(Linear(), images, labels, 0.01, rng.generator(0, "nearby"))
    torch.testing.assert_close(cosines, torch.ones(5))


def test_an_image_without_a_direction_is_zero_everywhere_or_not_finite_somewhere() -> None:
    gradient = torch.tensor([[0.0, 0.0], [0.0, 1e-30], [1.0, torch.nan], [-torch.inf, 1.0]])
    assert without_direction(gradient).tolist() == [True, False, True, True]


def test_a_sample_must_show_more_than_chance_could() -> None:
    assert [verdict_on(count, 32) for count in (0, 1, 5, 6, 24, 25)] == [
        "sound",
        "note",
        "note",
        "doubt",
        "doubt",
        "fail",
    ]
    assert verdict_on(1, 32, usual=0.05) == "sound"
    assert verdict_on(20, 100, standing=100) == "doubt"
    assert verdict_on(20, 100, standing=22) == "fail"  # most of what could have the fault has it
    assert verdict_on(5, 100, standing=5) == "note"  # all of it, and still too few to say so
    assert at_least(0, 32) == at_least(0, 0) == 0
