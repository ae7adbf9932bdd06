"""Equal compute: the epochs for which a method's pre-training uses a given number of operations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench.cost.probe import StageProbe
from bench.data import Dataset
from bench.errors import BenchError
from bench.method import METHODS, MethodContext
from bench.recipe import Recipe, within
from bench.train import check_plan

LIKE = "like:"
"""Prefix of a method's name: the budget is what that method's pre-training uses."""


RecipeOf = Callable[[str, Mapping[str, Any]], Recipe]
"""From a method's name and overrides to its recipe, under the conditions of the run."""

_COMMON = ("encoder", "threat")
"""Sections whose overrides also apply to the method of ``like:METHOD``."""


def at_budget(recipe: Recipe, asked: str, dataset: Dataset, recipe_of: RecipeOf) -> Recipe:
    """Return ``recipe`` with the whole epochs for which pre-training comes nearest to the budget ``asked``.

    The epochs of all stages are scaled by one factor, to at least one epoch each, together with warm-up and decays;
    values given with ``--set`` stay. Operations are counted on the CPU, in a few steps on untrained weights, so that
    every machine finds the same epochs. Work outside the steps (AdvCL's k-means and its features) is not counted.

    Args:
        asked: a number of floating-point operations, two per multiply-add, or ``like:METHOD``.
        recipe_of: gives the recipe of the other method. It gets only the overrides of encoder and threat model, so
            that ``like:deacl`` is DeACL as published.

    Raises:
        BenchError: neither a number nor a method, a method without pre-training, epochs that are set as well, a
            budget of less than one epoch of every stage, or a plan that cannot work on this dataset.
    """
    plans = recipe.config.plans()
    if not plans:
        raise BenchError(f"{recipe.method} has no pre-training, so --budget has no effect. Leave it out.")
    typed = [f"{name}.epochs" for name in plans if f"{name}.epochs" in recipe.overrides]
    if typed:
        raise BenchError(f"--budget chooses the epochs, and so does --set {typed[0]}. Leave out one of them.")
    costs = epoch_flops(recipe, dataset)
    budget = _operations(recipe, asked, dataset, recipe_of)
    epochs = nearest_epochs([plans[section].epochs for section in costs], list(costs.values()), budget)
    if epochs is None:
        raise BenchError(
            f"--budget {asked} is {budget:.4g} operations, less than one epoch of every stage of {recipe.method}. "
            f"The smallest that works here is --budget {_rounded_up(sum(costs.values()))}"
        )
    return _with_epochs(recipe, dict(zip(costs, epochs, strict=True)), budget)


def epoch_flops(recipe: Recipe, dataset: Dataset) -> dict[str, float]:
    """Return the operations of one epoch of each stage that is trained, by its section, counted as in a record."""
    images, cpu = dataset.pretraining_images, torch.device("cpu")
    index = dataset.index_train if dataset.pretrain is None else None
    method = METHODS.get(recipe.method)(recipe.config)
    flops = {}
    for stage in method.stages(MethodContext(recipe, 0, cpu, images, index)):
        section = recipe.config.section_of(stage.plan)
        if section is None:
            raise BenchError(
                f"--budget: the plan of stage {stage.name!r} is no section of the settings of {recipe.method}, so its "
                "epochs cannot be chosen. Pass the stage its section as it is."
            )
        probe = StageProbe(stage, images, device=cpu)
        count = len(stage.positions(len(images)))
        check_plan(stage, count, cpu, section)
        flops[section] = probe.flops_per_image() * stage.plan.images_per_epoch(count)
    return flops


def nearest_epochs(epochs: Sequence[int], costs: Sequence[float], budget: float) -> list[int] | None:
    """Return ``epochs`` scaled by one factor and rounded, so that their cost is nearest to ``budget``.

    Args:
        epochs: of each stage, at factor 1.
        costs: of one epoch of each stage.
        budget: in the same unit; of two equally near solutions, the cheaper is returned.

    Returns:
        whole epochs, at least 1 each; None if one epoch each costs more than ``budget``.
    """

    def at(factor: float) -> list[int]:
        return [max(1, int(count * factor + 0.5)) for count in epochs]

    def spent(counts: Sequence[int]) -> float:
        return sum(count * cost for count, cost in zip(counts, costs, strict=True))

    if spent(at(0)) > budget:
        return None
    low, high = 0.0, 1.0
    while spent(at(high)) <= budget:
        low, high = high, 2 * high
    # Now low is the last affordable factor and high, the next float, the first that is not.
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if spent(at(middle)) <= budget else (low, middle)
    return min(at(low), at(high), key=lambda counts: abs(spent(counts) - budget))


def _operations(recipe: Recipe, asked: str, dataset: Dataset, recipe_of: RecipeOf) -> float:
    if not asked.startswith(LIKE):
        return _number(asked)
    name = asked.removeprefix(LIKE)
    common = within(recipe.overrides, *_COMMON)
    other = recipe_of(name, common)
    plans = other.config.plans()
    if not plans:
        raise BenchError(f"{name} has no pre-training to compare with. Type, for example, --budget like:deacl")
    try:
        costs = epoch_flops(other, dataset)
    except BenchError as error:
        fault = str(error).partition(". ")[0]  # what follows advises a --set, which is not for this recipe
        raise BenchError(
            f"--budget {asked}: the recipe of {name} is that of its tier, whatever --set says, and it cannot train on "
            f"these data: {fault}. Name another method, or a number of operations, such as --budget 1e15"
        ) from None
    return sum(plans[section].epochs * cost for section, cost in costs.items())


def _number(asked: str) -> float:
    try:
        budget = float(asked)
        if 0 < budget < float("inf"):
            return budget
    except ValueError:
        pass
    raise BenchError(
        f"--budget {asked!r} is not a number of operations. Type, for example, --budget 1e15 or like:deacl"
    ) from None


def _rounded_up(flops: float) -> str:
    """Return ``flops`` rounded up to four digits."""
    text = f"{flops:.3e}"
    return text if float(text) >= flops else f"{flops * 1.001:.3e}"


def _with_epochs(recipe: Recipe, epochs: Mapping[str, int], budget: float) -> Recipe:
    values: dict[str, Any] = recipe.model_dump()
    plans = recipe.config.plans()
    idle = list(recipe.idle)
    for stage, count in epochs.items():
        for key, value in plans[stage].stretched(count).items():
            if (name := f"{stage}.{key}") not in recipe.overrides:
                values["config"][stage][key] = value
            elif name in idle:  # it is not scaled, as it would be without --set
                idle.remove(name)
    return type(recipe).parse({**values, "budget": budget, "idle": idle}, f"recipe of tier {recipe.tier}")
