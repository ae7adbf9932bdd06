"""Records that can be trusted: sealed, and in agreement with what they say about their own data."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import DatasetFacts, ThreatSettings
from bench.record import Outcome, Record, load_record


class Measured(NamedTuple):
    """A record, with what its recipe says about the data and the adversary."""

    path: Path
    record: Record
    facts: DatasetFacts
    threat: ThreatSettings

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


def load_measured(path: Path) -> Measured:
    """Return the record in ``path``.

    Raises:
        BenchError: unreadable, of an unknown schema version, incomplete, edited, or in disagreement with itself.
    """
    record = load_record(path)
    measured = Measured(
        path=path,
        record=record,
        facts=DatasetFacts.parse(record.recipe.get("dataset"), "recipe.dataset"),
        threat=ThreatSettings.parse(record.recipe.get("threat"), "recipe.threat"),
    )
    for name, outcome in measured.outcomes():
        try:
            outcome.spread(measured.facts.test_images)
        except ValueError as error:
            raise BenchError(f"{path}: {name} disagrees with recipe.dataset: {error}. Restore or remove it.") from None
    if measured.facts.name != record.dataset:
        raise BenchError(f"{path}: dataset is {record.dataset}, recipe.dataset.name {measured.facts.name}. Restore it.")
    return measured
