"""Settings that change nothing: ``--set`` with the value that the recipe has anyway."""

from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import BenchError
from bench.recipe.recipe import Recipe


def mark_idle(recipe: Recipe, recipe_with: Callable[[Mapping[str, Any]], Recipe]) -> Recipe:
    """Return ``recipe`` with those of its overrides marked as idle that can be left out together.

    The runs with and without them are one, and so a record must not say that something was changed.

    Args:
        recipe: as it is with all overrides.
        recipe_with: gives the recipe with some of them.
    """
    working = dict(recipe.overrides)
    for key in recipe.overrides:
        fewer = {name: value for name, value in working.items() if name != key}
        try:
            if _numbers(recipe_with(fewer)) == _numbers(recipe):
                working = fewer
        except BenchError:
            continue  # without this setting there is no recipe
    return recipe.model_copy(update={"idle": tuple(key for key in recipe.overrides if key not in working)})


def _numbers(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"overrides", "idle"})
