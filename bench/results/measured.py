"""Records that can be trusted: sealed, and in agreement with what they say about their own data."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import DatasetFacts, Settings, Threat
from bench.recipe.fields import Amount, Text
from bench.record import Outcome, Record, load_record


class Budgeted(Settings):
    """What a recipe says of the compute that pre-training was held to."""

    budget: Amount | Text | None


class Measured(NamedTuple):
    """A record, with what its recipe says about the data and the adversary that its classifier met."""

    path: Path
    record: Record
    facts: DatasetFacts
    threat: Threat
    commits: Mapping[str, tuple[str, ...]] = {}
    """By stage: the commits under which one and the same training stands, where there are several."""
    local: bool = False
    """Whether it is one of the user's own records, which lie apart from the published ones."""

    @property
    def run(self) -> str:
        """The name of the run's folder, which all protocols of one encoder share."""
        record = self.record
        parts = [record.dataset, record.method, record.tier, record.fidelity, f"s{record.seed}"]
        return "-".join([*parts, record.pretraining_sha256[:8]])

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """Yield each measurement that was made, by its name in tables."""
        yield "SA", self.record.sa
        yield "RA", self.record.ra.outcome
        if self.record.aa:
            yield "AA", self.record.aa.outcome


def load_measured(path: Path, *, local: bool = False) -> Measured:
    """Return the record in ``path``, which is ``local`` or published.

    Raises:
        BenchError: unreadable, of an unknown schema version, incomplete, edited, or in disagreement with itself.
    """
    record = load_record(path)
    # Protocols and evaluation may use other data, and another adversary, than pre-training.
    finetune = record.recipe.get("finetune")
    section, where = (finetune, "recipe.finetune") if isinstance(finetune, Mapping) else (record.recipe, "recipe")
    Budgeted.parse({"budget": record.recipe.get("budget")}, "recipe")
    measured = Measured(
        path=path,
        record=record,
        facts=DatasetFacts.parse(section.get("dataset"), f"{where}.dataset"),
        threat=Threat.parse(section.get("threat"), f"{where}.threat"),
        local=local,
    )
    for name, outcome in measured.outcomes():
        if misfit := outcome.misfit(measured.facts.test_images):
            raise BenchError(f"{path}: {name} disagrees with {where}.dataset: {misfit}. Restore or remove it.")
    cells = record.corruptions
    if cells and cells.n != measured.facts.test_images:
        raise BenchError(
            f"{path}: corruptions disagrees with {where}.dataset: {cells.n} images in each cell, "
            f"{measured.facts.test_images} test images. Restore or remove it."
        )
    if measured.facts.name != record.dataset:
        raise BenchError(
            f"{path}: dataset is {record.dataset}, {where}.dataset.name {measured.facts.name}. Restore it."
        )
    return measured
