"""Evaluation interrupted anywhere ends with the same numbers, and does not trust a state that is not its own."""

import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import TEST_IMAGES, Recorder, Shared, classifier, measure, outcomes, recipe
from evaluations import short_attacks as short_attacks
from evaluations import whole as whole

from bench.attack import AutoAttackState
from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import Evaluation, evaluation_progress
from bench.evaluation.state import EvaluationState

# Interruptions


@pytest.mark.parametrize("stop_at", range(1, 18))
def test_stopped_after_any_batch_it_continues_to_the_same_end(tmp_path: Path, whole: Evaluation, stop_at: int) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(stop_at))
    recorder = Recorder()
    assert outcomes(measure(tmp_path, recorder)) == outcomes(whole)
    assert recorder.notes == []
    assert all(recorder.counted[phase] == total for phase, total, _ in recorder.phases)


@pytest.mark.parametrize("stop_at", [10, 60, 120, 180, 300])
def test_stopped_in_the_middle_of_an_attack_it_continues_to_the_same_end(
    tmp_path: Path, whole: Evaluation, stop_at: int
) -> None:
    backbone = Shared()
    backbone.stop_at = stop_at
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, backbone.monitor, model=classifier(backbone))
    assert backbone.passes <= stop_at + 1  # at once, not at the end of the attack
    assert outcomes(measure(tmp_path)) == outcomes(whole)


def test_stopped_again_and_again_it_does_no_batch_twice(tmp_path: Path, whole: Evaluation) -> None:
    found, rounds = None, 0
    while found is None:
        rounds += 1
        try:
            found = measure(tmp_path, Recorder(stop_at=1))
        except InterruptedRunError:
            continue
    batches = 2 * -(-TEST_IMAGES // 5)
    assert batches < rounds < batches + 20
    assert outcomes(found) == outcomes(whole)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"autoattack": False, "attacks": ["pgd-cw", "pgd-dlr"], "eps": 0.03},
        {"autoattack": False, "autoattack_images": None, "attacks": ["pgd-dlr"], "eps": 0.5},
    ],
)
def test_how_far_an_evaluation_has_come_is_known(tmp_path: Path, settings: dict[str, Any]) -> None:
    seen, finished = [evaluation_progress(tmp_path, recipe(**settings))], False
    assert seen == [{}]
    while not finished:
        with suppress(InterruptedRunError):
            measure(tmp_path, Recorder(stop_at=1), **settings)
            finished = True
        seen.append(evaluation_progress(tmp_path, recipe(**settings)))
    for before, after in pairwise(seen):
        assert all(before[name] <= after[name] <= 1 for name in before)
    parts = {"aa"} if not settings else {f"attacks.{name}" for name in settings["attacks"]}
    assert seen[-1] == {"ra": 1, "corruptions": 0, **dict.fromkeys(parts, 1)}
    assert [one["ra"] for one in seen if 0 < one.get("ra", 0) < 1] == [5 / 22, 10 / 22, 15 / 22, 20 / 22]
    for part in parts:
        assert any(0 < one.get(part, 0) < 1 for one in seen), part


def test_autoattack_has_come_as_far_as_its_attacks_have(tmp_path: Path) -> None:
    """A gradient counts as three passes: APGD-CE's 300 of 12,500, then a part of APGD-T's 2,700."""
    right = tuple(position < 6 for position in range(9))
    state = AutoAttackState(
        survivors={"clean": right, "apgd-ce": right, "apgd-t": right}, done={"apgd-ce": 6, "apgd-t": 4}
    )
    EvaluationState(fingerprint="me", autoattack=state.model_dump(mode="json")).save(tmp_path / "evaluation.json")
    assert evaluation_progress(tmp_path, recipe())["aa"] == pytest.approx((300 + 2700 * 4 / 6) / 12_500)
    (tmp_path / "evaluation.json").write_text("{}")
    assert evaluation_progress(tmp_path, recipe()) == {}
    assert (tmp_path / "evaluation.json").read_text() == "{}", "left as it is"


def test_a_finished_evaluation_is_not_done_again(tmp_path: Path, whole: Evaluation) -> None:
    first = measure(tmp_path)
    backbone = Shared()
    assert measure(tmp_path, model=classifier(backbone)) == first
    assert backbone.passes == 0
    assert outcomes(first) == outcomes(whole)


def test_cost_adds_up_over_interruptions(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(2))
    path = tmp_path / "evaluation.json"
    before = json.loads(path.read_text())["state"]["seconds"]
    assert set(before) == {"sa"}
    cost = measure(tmp_path).cost
    assert set(cost) == {"evaluate:sa", "evaluate:ra", "evaluate:aa"}
    assert cost["evaluate:sa"].seconds > before["sa"] > 0
    assert [cost[f"evaluate:{name}"].images for name in ("sa", "ra", "aa")] == [TEST_IMAGES, TEST_IMAGES, 9]


# State that is not what it should be


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("true", "false", 1),
        lambda text: text.replace("false", "true", 1),
        lambda text: text.replace("robust", "robusT", 1),
    ],
    ids=["cut", "empty", "list", "no keys", "a hit lost", "a hit gained", "a key changed"],
)
def test_damaged_state_is_noticed_said_and_done_again(tmp_path: Path, whole: Evaluation, damage: Any) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(7))
    path = tmp_path / "evaluation.json"
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    recorder = Recorder()
    assert outcomes(measure(tmp_path, recorder)) == outcomes(whole)
    (note,) = recorder.notes
    assert str(path) in note
    assert "damaged" in note
    assert "starts again" in note
    assert (tmp_path / "evaluation.json.damaged").read_text() == damage(text)
    assert recorder.phases[0] == ("SA, clean images", TEST_IMAGES, 0)


def test_state_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    measure(tmp_path, autoattack=False)
    path = tmp_path / "evaluation.json"
    before = path.read_bytes()
    with pytest.raises(BenchError, match=r"evaluation\.json belongs to another run. Move it away"):
        measure(tmp_path, owner="you")
    assert path.read_bytes() == before


@pytest.mark.parametrize("known", [True, False])
def test_the_state_of_other_weights_is_set_aside(tmp_path: Path, known: bool) -> None:
    """That of an older version, which does not say whose it is, is continued."""
    measure(tmp_path, autoattack=False)
    path, other, recorder = tmp_path / "evaluation.json", classifier(), Recorder()
    state = json.loads(path.read_text())["state"]
    EvaluationState.parse({**state, "classifier_sha256": state["classifier_sha256"] if known else None}, "").save(path)
    with torch.no_grad():
        other.head.weight.neg_()
    found = measure(tmp_path, recorder, model=other, autoattack=False)
    assert (found.sa.unpack() == state["clean"]) is not known
    assert [f"{path} is of other weights" in note for note in recorder.notes] == [True] * known
