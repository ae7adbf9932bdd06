"""AutoAttack killed anywhere continues to the same result, and its seed alone decides its images."""

import json
from collections.abc import Callable
from typing import Any

import pyautoattack
import pytest
import torch
from attacked_linear import ATTACKS, COUNT, Linear, Probabilities, data, run
from attacked_linear import quick as quick
from torch import Tensor, nn

from bench.attack import AutoAttackResult, AutoAttackState
from bench.errors import BenchError

pytestmark = pytest.mark.usefixtures("one_thread")


def same(result: AutoAttackResult, reference: AutoAttackResult) -> bool:
    outcomes = zip(
        [result.clean, result.robust, *result.survivors.values()],
        [reference.clean, reference.robust, *reference.survivors.values()],
        strict=True,
    )
    return all(torch.equal(a, b) for a, b in outcomes) and result.warnings == reference.warnings


class Killed(BaseException):
    """As abrupt as a signal: nothing catches it."""


def killed_after(states: int, saved: list[str]) -> Callable[[AutoAttackState], None]:
    def on_state(state: AutoAttackState) -> None:
        # Sorted, as a careful writer of JSON may do: the order of the keys must carry no meaning.
        saved.append(json.dumps(state.model_dump(mode="json"), sort_keys=True))
        if len(saved) == states:
            raise Killed

    return on_state


@pytest.mark.parametrize("model", [Linear, Probabilities])
@pytest.mark.usefixtures("quick")
def test_a_killed_run_continues_to_the_same_result(model: Callable[[], nn.Module]) -> None:
    states: list[str] = []
    progress: list[tuple[str, int, int]] = []
    reference = run(
        model(),
        on_state=killed_after(0, states),
        on_progress=lambda attack, done, total: progress.append((attack, done, total)),
    )
    begun = [attack for attack, done, _ in progress if done == 0]
    assert begun == list(ATTACKS)
    assert len(states) == len(progress) - len(begun) > len(ATTACKS)
    assert all(0 <= done <= total <= COUNT for _, done, total in progress)
    for kill in range(1, len(states) + 1):
        saved: list[str] = []
        with pytest.raises(Killed):
            run(model(), on_state=killed_after(kill, saved))
        assert saved == states[:kill]
        rest: list[str] = []
        state = AutoAttackState.parse(json.loads(saved[-1]), "state")
        result = run(model(), state=state, on_state=killed_after(0, rest))
        assert same(result, reference)
        assert rest == states[kill:]
        broken_now = (result.x_adv != data().images).flatten(1).any(1)
        assert torch.equal(result.x_adv[broken_now], reference.x_adv[broken_now])


@pytest.mark.usefixtures("quick")
def test_the_seed_decides_the_images_and_the_global_state_does_not() -> None:
    reference = run().x_adv
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(run().x_adv, reference)
    assert not torch.equal(run(seed=1).x_adv, reference)


def test_every_attack_and_batch_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def evaluation(self: Any, x: Tensor, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        seeds.append(self.seed)
        return x, y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", evaluation)
    run(batch_size=7)
    assert len(seeds) == len(set(seeds)) == len(ATTACKS) * 4  # 23 images are correct: four batches
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.usefixtures("quick")
def test_a_state_of_other_images_is_refused() -> None:
    states: list[str] = []
    with pytest.raises(Killed):
        run(on_state=killed_after(1, states))
    state = AutoAttackState.parse(json.loads(states[0]), "state")
    images, labels = data()
    with pytest.raises(BenchError, match=r"covers 24 images, but this run has 20. Delete"):
        run(images=images[:20], labels=labels[:20], state=state)
