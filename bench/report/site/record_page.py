"""The accuracies on the page of one record, each with what became of every image."""

from typing import NamedTuple

from bench.report.facts import attacks
from bench.report.fates import Fate, count_fates, fates
from bench.report.pictures import data_url, fate_grid
from bench.report.site.content import Content, Entry
from bench.report.site.numbers import Number, of_outcome, of_published


class Measure(NamedTuple):
    """One accuracy of the record, with what became of each image."""

    name: str
    what: str
    number: Number
    paper: Number | None
    grid: str
    """Address of the picture."""
    counts: tuple[tuple[Fate, int], ...]

    @property
    def described(self) -> str:
        """The picture in words."""
        return f"{self.number.n} test images: " + ", ".join(f"{count} {fate.value}" for fate, count in self.counts)


def measures(content: Content, entry: Entry) -> list[Measure]:
    """Return AA, RA and SA of a record, strongest attack first."""
    record, paper = entry.record, content.reference(entry.row)
    method_page = f"{content.method_pages[record.method]}#published"

    shown = []
    for name, what, outcome in attacks(record):
        found = fates(record.sa, outcome)
        measure = Measure(
            name=name,
            what=what,
            number=of_outcome(outcome, entry.copy),
            paper=of_published(paper, name.lower(), method_page) if paper else None,
            grid=data_url(fate_grid(found)),
            counts=tuple((fate, count) for fate, count in count_fates(found).items() if count or fate is Fate.ROBUST),
        )
        shown.append(measure)
    return shown
