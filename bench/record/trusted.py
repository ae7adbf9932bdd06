"""A record that can be trusted: sealed, and in agreement with itself and with the facts about its data."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import ALL_PROTOCOLS
from bench.record.recipe import RecordedRecipe
from bench.record.record import Record
from bench.record.store import load_record


class Trusted(NamedTuple):
    """A record and its recipe, typed as far as all methods share it."""

    record: Record
    recipe: RecordedRecipe


def load_trusted(path: Path) -> Trusted:
    """Return the record in ``path``.

    Raises:
        BenchError: unreadable, of an unknown schema version, incomplete, edited, or inconsistent.
    """
    record = load_record(path)
    recipe = record.read_recipe()
    for fault in _faults(record, recipe):
        raise BenchError(f"{path}: {fault}")
    return Trusted(record, recipe)


def _faults(record: Record, recipe: RecordedRecipe) -> Iterator[str]:
    facts = recipe.downstream.dataset
    where = "recipe.finetune.dataset" if recipe.finetune else "recipe.dataset"
    for name, outcome in record.outcomes():
        if misfit := outcome.misfit(facts.test_images):
            yield f"{name} disagrees with {where}: {misfit}. Restore or remove it."
    cells = record.corruptions
    if cells and cells.n != facts.test_images:
        yield (
            f"corruptions disagrees with {where}: {cells.n} images in each cell, {facts.test_images} test images. "
            "Restore or remove it."
        )
    stated = (("dataset", record.dataset, f"{where}.name", facts.name), *_stated_twice(record, recipe))
    for name, its, key, wanted in stated:
        if its != wanted:
            yield f"{name} is {its}, {key} {wanted}. Restore or remove it."
    if record.protocol not in ALL_PROTOCOLS:
        yield f"there is no protocol {record.protocol!r}. Update the bench, or remove it."
    if record.finished < record.started:
        yield f"it finished at {record.finished}, before it started. Restore or remove it."


def _stated_twice(record: Record, recipe: RecordedRecipe) -> Iterator[tuple[str, object, str, object]]:
    """Yield what a record and its recipe both state: the record's name and value, the recipe's key and value.

    Old recipes lack some keys.
    """
    for name in ("method", "tier", "fidelity"):
        yield name, getattr(record, name), f"recipe.{name}", record.recipe.get(name, getattr(record, name))
    section = record.recipe.get("evaluate")
    evaluate = section if isinstance(section, Mapping) else {}
    eps = evaluate.get("eps")
    radius = ("recipe's threat.eps", recipe.downstream.threat.eps) if eps is None else ("recipe.evaluate.eps", eps)
    ra = record.ra
    yield "ra.eps", ra.eps, *radius
    twice = {"attack": "attack", "restarts": "pgd_restarts", "precision": "attack_precision"}
    if ra.step_size is not None:  # the attack was made from the recipe's numbers
        twice |= {"steps": "pgd_steps", "start": "pgd_start"}
        if isinstance(share := evaluate.get("pgd_step_size"), float):
            yield "ra.step_size", ra.step_size, "recipe.evaluate.pgd_step_size x eps", share * ra.eps
    for name, key in twice.items():
        its = getattr(ra, name)
        yield f"ra.{name}", its, f"recipe.evaluate.{key}", evaluate.get(key, its)
