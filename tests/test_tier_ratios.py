"""Tiers keep the papers' ratios: of the updates that methods make, and of the images that they see."""

from functools import cache
from itertools import combinations

import pytest
from cifar_recipes import METHOD_NAMES, SHIPPED, make_facts, recipe_of

from bench.method import METHODS
from bench.recipe import TrainPlan

PRETRAINED = [name for name in METHOD_NAMES if METHODS.get(name).config_type().plans()]


@cache
def plans_of(method: str, tier: str, images: int) -> tuple[TrainPlan, ...]:
    recipe = recipe_of(method=method, tier=tier, facts=make_facts(train_images=images))
    return tuple(recipe.config.plans().values())


def updates(method: str, tier: str, images: int) -> int:
    """All updates of the weights in pre-training."""
    return sum(plan.epochs * plan.steps_per_epoch(images) for plan in plans_of(method, tier, images))


def seen(method: str, tier: str, images: int) -> int:
    """All images, an image once an epoch."""
    return sum(plan.epochs * plan.images_per_epoch(images) for plan in plans_of(method, tier, images))


@pytest.mark.parametrize(("first", "second"), list(combinations(PRETRAINED, 2)))
@pytest.mark.parametrize("tier", SHIPPED)
def test_the_ratio_of_two_methods_is_the_papers(tier: str, first: str, second: str) -> None:
    """On CIFAR-10, to a hundredth: what remains is the rounding of epochs, and of an epoch's last batch."""
    for count in (updates, seen):
        published = count(first, "paper", 50_000) / count(second, "paper", 50_000)
        assert count(first, tier, 50_000) / count(second, tier, 50_000) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("first", "second"), list(combinations(PRETRAINED, 2)))
def test_on_few_images_too_but_for_the_last_batch_of_an_epoch(first: str, second: str) -> None:
    """The 1,437 digits make 11 to 72 batches, one more or less by whether an incomplete one is left out."""
    published = updates(first, "paper", 50_000) / updates(second, "paper", 50_000)
    assert updates(first, "tiny", 1437) / updates(second, "tiny", 1437) == pytest.approx(published, rel=0.1)


def test_ap_dpe_makes_half_of_simclrs_updates() -> None:
    """150 epochs in batches of 80, against 1,000 in batches of 256."""
    assert updates("ap-dpe", "paper", 50_000) / updates("simclr", "paper", 50_000) == pytest.approx(0.48, abs=0.005)
    assert (updates("ap-dpe", "tiny", 1437), updates("simclr", "tiny", 1437)) == (6 * 72, 40 * 22)
