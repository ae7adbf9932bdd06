"""Equal compute: epochs for a budget of operations."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import run_together
from toy_runs import SMALL, carry_out, toy_data, toy_request

from bench.cost import budget
from bench.cost.budget import nearest_epochs
from bench.data import Dataset
from bench.errors import BenchError
from bench.parallel import first_then_others
from bench.recipe import Recipe
from bench.run import Run, prepare

TIER = """
summary = "DeACL in 10 + 3 epochs of batches of 8, on eight channels"
epochs = 0.01
batch_size = 0.03125
stages = {precision = "fp32", schedule_unit = "step"}
encoder = {width = 8}
slf = {epochs = 1, batch_size = 8}
evaluate = {autoattack = false, pgd_steps = 1}
"""


@pytest.mark.parametrize("epochs", [[40, 4], [7], [3, 3], [1000, 100, 10]])
def test_no_other_factor_comes_nearer(epochs: list[int]) -> None:
    costs = [3.0, 20.0, 7.0][: len(epochs)]

    def spent(counts: list[int]) -> float:
        return sum(n * cost for n, cost in zip(counts, costs, strict=True))

    every = [[max(1, int(n * step / 4001 + 0.5)) for n in epochs] for step in range(40_000)]
    for share in (0.3, 0.5, 0.77, 1.0, 1.9, 5.0):
        budget = share * spent(epochs)
        found = nearest_epochs(epochs, costs, budget)
        if found is None:
            assert spent([1] * len(epochs)) > budget
        else:
            assert found in every
            assert abs(spent(found) - budget) == min(abs(spent(counts) - budget) for counts in every)


def test_its_own_cost_is_the_identity_and_less_than_an_epoch_is_refused() -> None:
    assert nearest_epochs([40, 4], [3.0, 20.0], 200.0) == [40, 4]
    assert nearest_epochs([40, 4], [3.0, 20.0], 23.0) == [1, 1]
    assert nearest_epochs([40, 4], [3.0, 20.0], 22.9) is None


class Bench:
    """Prepares runs on 24 images under one small tier."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = toy_data(folder / "toy.npz")
        (folder / "toy.toml").write_text(TIER)

    def run(self, method: str, budget: str | None = None, **overrides: Any) -> Run:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        tier = str(self.folder / "toy.toml")
        request = toy_request(self.data, self.folder, method=method, tier=tier, overrides=keys, budget=budget)
        return prepare(request)

    def flops(self, run: Run) -> float:
        plans = run.recipe.config.plans()
        return sum(plans[section].epochs * cost for section, cost in self.costs(run).items())

    def costs(self, run: Run) -> dict[str, float]:
        """Return the operations of an epoch of each stage that is trained."""
        return budget.epoch_flops(run.recipe, run.dataset)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench that counts the same recipe once."""
    count, counted = budget.epoch_flops, dict[str, dict[str, float]]()

    def once(recipe: Recipe, dataset: Dataset) -> dict[str, float]:
        numbers = recipe.model_dump_json(exclude={"budget", "overrides", "idle"})
        if numbers not in counted:
            counted[numbers] = count(recipe, dataset)
        return counted[numbers]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "epoch_flops", once)
        yield Bench(tmp_path_factory.mktemp("budget"))


def without_budget(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"budget"})


def test_like_deacl_leaves_deacl_as_it_is(bench: Bench) -> None:
    plain, equal = bench.run("deacl"), bench.run("deacl", "like:deacl")
    assert without_budget(equal.recipe) == without_budget(plain.recipe)
    assert (plain.recipe.budget, equal.recipe.budget) == (None, bench.flops(plain))
    assert equal.folder.path == plain.folder.path, "the encoder is the same"
    assert equal.protocol_folder("slf") != plain.protocol_folder("slf"), "but its record stands in another table"


@pytest.mark.parametrize("method", ["acl", "simclr", pytest.param("advcl", marks=pytest.mark.slow)])
def test_a_budget_is_met_within_an_epoch(bench: Bench, method: str) -> None:
    plain = bench.run(method)
    run = bench.run(method, "like:deacl")
    assert run.recipe.budget == bench.flops(bench.run("deacl"))
    assert abs(bench.flops(run) - run.recipe.budget) <= max(bench.costs(run).values())
    assert run.recipe.pretraining_digest() != plain.recipe.pretraining_digest()
    assert run.recipe.overrides == {}
    for stage, plan in run.recipe.config.plans().items():
        before = plain.recipe.config.plans()[stage]
        assert plan.epochs != before.epochs
        assert plan.warmup_epochs == pytest.approx(before.warmup_epochs * plan.epochs / before.epochs, abs=1e-6)


def test_several_devices_find_the_epochs_of_one(bench: Bench) -> None:
    """The first device counts by itself while the others wait, so each of the others must count by itself as well."""

    def recipe() -> str:
        return bench.run("acl", "2e9").recipe.model_dump_json()

    assert run_together(2, partial(first_then_others, recipe)) == [recipe()] * 2


def test_a_stage_that_is_not_trained_costs_nothing_and_needs_no_batch(bench: Bench) -> None:
    """AdvCL without k-means has no stage 1, whose batch of 100 the 24 images would not fill."""
    changes: dict[str, Any] = {"pseudo_labels": "none", "stage1__batch_size": 100, "stage2__steps": 1}
    run = bench.run("advcl", "1e10", **changes)
    (cost,) = bench.costs(run).values()
    assert bench.costs(run).keys() == {"stage2"}
    assert abs(bench.flops(run) - 1e10) <= cost


def test_settings_of_all_methods_hold_for_the_one_that_is_equalled(bench: Bench) -> None:
    narrow, wide = (bench.run("acl", "like:deacl", encoder__width=width, stage1__steps=1) for width in (8, 16))
    assert narrow.recipe.budget == bench.run("acl", "like:deacl").recipe.budget, "its steps are ACL's own"
    assert wide.recipe.budget is not None
    assert wide.recipe.budget > 1.5 * (narrow.recipe.budget or 0)


def test_what_was_set_stays_and_decays_are_scaled(bench: Bench) -> None:
    decays = {"stage1__schedule": "steps", "stage1__warmup_epochs": 0.5}
    plain = bench.run("simclr")
    budget = f"{7.9 * sum(bench.costs(plain).values()):.6e}"
    (plan,) = bench.run("simclr", budget, **decays).recipe.config.plans().values()
    assert (plan.epochs, plan.warmup_epochs) == (8, 0.5)
    assert plan.stretched(4)["epochs"] == 4
    stretched = plan.model_copy(update={"decay_epochs": (2, 6)}).stretched(16)
    assert stretched == {"epochs": 16, "warmup_epochs": 1.0, "decay_epochs": (4, 12)}


def test_the_record_says_what_was_asked_and_what_was_spent(bench: Bench) -> None:
    overrides = {key: value for key, value in SMALL.items() if key != "stage1.epochs"}
    request = toy_request(bench.data, bench.folder, overrides=overrides)
    (cost,) = budget.epoch_flops(prepare(request).recipe, prepare(request).dataset).values()
    ((record, _),) = carry_out(
        toy_request(bench.data, bench.folder, overrides=overrides, budget=repr(3.2 * cost)), bench.folder / "results"
    )
    assert record.recipe["budget"] == 3.2 * cost
    assert record.recipe["config"]["stage1"]["epochs"] == 3
    # Which views are blurred is drawn anew in each step.
    assert record.pretraining_flops == pytest.approx(3 * cost, rel=0.01)


@pytest.mark.parametrize(
    ("method", "budget", "overrides", "message"),
    [
        ("simclr", "1e15x", {}, "not a number of operations. Type, for example, --budget 1e15 or like:deacl"),
        ("simclr", "-1", {}, "not a number of operations"),
        ("simclr", "nan", {}, "not a number of operations"),
        ("simclr", "like:deakl", {}, "Did you mean 'deacl'"),
        ("simclr", "like:supervised", {}, "supervised has no pre-training to compare with"),
        ("simclr", "1e15", {"stage1__epochs": 3}, "so does --set stage1.epochs"),
        ("deacl", "1000", {}, r"less than one epoch of every stage of deacl. The smallest that works here is"),
        ("simclr", "like:deacl", {"stage1__batch_size": 25}, "stage1.batch_size is 25, but there are"),
    ],
)
def test_mistakes_are_explained(
    bench: Bench, method: str, budget: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        bench.run(method, budget, **overrides)


def test_the_smallest_budget_works_as_it_is_printed(bench: Bench) -> None:
    with pytest.raises(BenchError) as caught:
        bench.run("deacl", "1000")
    smallest = str(caught.value).split("--budget ")[-1]
    assert [plan.epochs for plan in bench.run("deacl", smallest).recipe.config.plans().values()] == [1, 1]


def test_a_method_without_pre_training_has_no_budget(bench: Bench) -> None:
    request = toy_request(bench.data, bench.folder, method="supervised", protocols=("aff",), budget="1e9")
    request = replace(request, overrides={"evaluate.autoattack": False})
    with pytest.raises(BenchError, match="supervised has no pre-training, so --budget has no effect"):
        prepare(request)


def test_a_fault_of_the_method_to_equal_is_said_as_its_own(bench: Bench) -> None:
    small = {"stage1.batch_size": 12, "evaluate.autoattack": False}
    request = toy_request(bench.data, bench.folder, tier="tiny", overrides=small, budget="like:deacl")
    expected = r"recipe of deacl is that of its tier, .*: stage1\.batch_size is \d+, but there are 24 .*\. Name another"
    with pytest.raises(BenchError, match=expected) as told:
        prepare(request)
    assert "Choose" not in str(told.value)
