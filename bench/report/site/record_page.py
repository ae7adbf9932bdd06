"""The page of one record: its accuracies, each with the outcome of every image, and the course of training."""

from typing import NamedTuple

from bench.record import Record
from bench.report.facts import attacks, curves
from bench.report.pictures import data_url, verdict_grid
from bench.report.site.charts import Spec, curve_chart
from bench.report.site.content import Content, Entry, entry_name
from bench.report.site.numbers import Number, of_outcome, of_published
from bench.report.verdict import Verdict, count_verdicts, verdicts

_MOST_ROWS = 100
"""Epochs that a table lists; of more, it lists every second, third, ..."""


class Measure(NamedTuple):
    """One accuracy of the record, with the outcome of each image."""

    name: str
    what: str
    number: Number
    paper: Number | None
    grid: str
    """Address of the picture."""
    counts: tuple[tuple[Verdict, int], ...]

    @property
    def described(self) -> str:
        """The picture in words."""
        return f"{self.number.n} test images: " + ", ".join(
            f"{count} {verdict.value}" for verdict, count in self.counts
        )


def measures(content: Content, entry: Entry) -> list[Measure]:
    """Return AA, the list of attacks, RA and SA of a record, each as far as it was measured."""
    record, paper = entry.record, content.reference(entry.row)
    method_page = f"{content.method_pages[entry_name(record)]}#published"

    shown = []
    for name, what, outcome in attacks(record):
        found = verdicts(record.sa, outcome)
        measure = Measure(
            name=name,
            what=what,
            number=of_outcome(outcome, entry.copy),
            paper=of_published(paper, name.lower(), method_page) if paper else None,
            grid=data_url(verdict_grid(found)),
            counts=tuple(
                (verdict, count)
                for verdict, count in count_verdicts(found).items()
                if count or verdict is Verdict.ROBUST
            ),
        )
        shown.append(measure)
    return shown


class Training(NamedTuple):
    """One phase: a chart a quantity, and the table of the same numbers."""

    phase: str
    charts: tuple[tuple[str, Spec], ...]
    """Each with the quantity's name."""
    epochs: int
    rows: tuple[tuple[int, tuple[float | None, ...]], ...]
    """By epoch: each quantity's value."""


def trainings(record: Record) -> list[Training]:
    """Return the course of each training phase of ``record``."""
    found = []
    for phase, quantities in curves(record).items():
        charts = tuple((one.name, curve_chart(one.values, name=f"{phase}: {one.name}")) for one in quantities)
        rows = list(enumerate(zip(*(one.values for one in quantities), strict=True), 1))
        found.append(Training(phase, charts, len(rows), tuple(rows[:: -(-len(rows) // _MOST_ROWS)])))
    return found
