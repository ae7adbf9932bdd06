"""How far an interrupted evaluation has come, by its saved state."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from bench.attack import AutoAttackState, NamedAttack
from bench.errors import BenchError
from bench.evaluation.attack_list import phase_of
from bench.evaluation.autoattack import AUTOATTACK_PASSES, autoattack_images
from bench.evaluation.measurement import STATE
from bench.evaluation.state import EvaluationState, read_state
from bench.recipe import SEVERITIES, Recipe

_GRADIENT = 3
"""Forward passes that take about as long as a gradient."""


def evaluation_progress(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Return which share of each measurement under ``recipe`` is finished, by the state in ``folder``.

    The names are those of costs; a measurement that is not begun has none. A damaged state, from which the evaluation
    starts again, counts as none.
    """
    try:
        return dict(_shares(read_state(folder / STATE, EvaluationState), recipe))
    except BenchError:
        return {}


def _shares(state: EvaluationState, recipe: Recipe) -> Iterator[tuple[str, float]]:
    yield "ra", len(state.robust) / recipe.dataset.test_images
    if state.autoattack is not None:
        yield "aa", _of_autoattack(AutoAttackState.parse(state.autoattack, "state"))
    yield from _of_attacks(state, recipe)
    cells = len(recipe.evaluate.corruption_names) * len(SEVERITIES)
    yield "corruptions", _share(sum(len(one.correct) for one in state.corruptions.values()), cells)


def _of_autoattack(state: AutoAttackState) -> float:
    costs = {attack: _GRADIENT * gradients + forwards for attack, (gradients, forwards) in AUTOATTACK_PASSES.items()}
    done = 0.0
    for before, attack in pairwise(("clean", *costs)):
        if attack in state.survivors:
            done += costs[attack] * _share(state.done.get(attack, 0), sum(state.survivors[before]))
    return done / sum(costs.values())


def _of_attacks(state: EvaluationState, recipe: Recipe) -> Iterator[tuple[str, float]]:
    listed = [name for name in recipe.evaluate.attacks if name in state.attacks]
    standing = right = {position for position in autoattack_images(recipe) if listed and state.clean[position]}
    for name in listed:
        to_try = right if NamedAttack(name, recipe.evaluate).minimal else standing
        yield phase_of(name), _share(state.attacks[name].tried, len(to_try))
        standing = standing.difference(state.attacks[name].broken)


def _share(done: int, of: int) -> float:
    return done / of if of else 1.0
