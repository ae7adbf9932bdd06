"""Recipes for data of CIFAR-10's form, by method, tier and settings, and their numbers by dotted key."""

from typing import Any

from bench.method import METHODS
from bench.recipe import (
    DatasetFacts,
    Fidelity,
    Recipe,
    Tier,
    build_recipe,
    load_tier,
    parse_overrides,
    preset_overrides,
)
from bench.recipe.overrides import flatten

SHIPPED = ["mini", "tiny", "short", "paper"]
METHOD_NAMES = list(METHODS)


def make_facts(**changes: Any) -> DatasetFacts:
    values: dict[str, Any] = {
        **{"name": "cifar10", "sha256": "a" * 64, "image_shape": (3, 32, 32), "num_classes": 10},
        **{"train_images": 50_000, "test_images": 10_000, "eps": 8 / 255},
        **{"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
    }
    return DatasetFacts(**{**values, **changes})


def recipe_of(
    *sets: str,
    method: str = "deacl",
    tier: str | Tier = "paper",
    fidelity: Fidelity = "uniform",
    facts: DatasetFacts | None = None,
    preset: str | None = None,
) -> Recipe:
    cls = METHODS.get(method)
    return build_recipe(
        method=method,
        config_type=cls.config_type,
        native_encoder=cls.native_encoder,
        dataset=facts or make_facts(),
        tier=load_tier(tier) if isinstance(tier, str) else tier,
        fidelity=fidelity,
        overrides={**(preset_overrides(preset) if preset else {}), **parse_overrides(sets)},
    )


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Every number of the recipe by its dotted key."""
    return dict(flatten(recipe.model_dump()))
