"""The board as the index shows it: one group of rows a set of conditions, since only such rows can be compared."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from bench.recipe import SECTIONS, protocol_title
from bench.report.site.content import Content, entry_name
from bench.report.site.numbers import Number, of_published, of_score
from bench.results import (
    CostRatio,
    PublishedNumber,
    Row,
    flops_text,
    known_text,
    radius_text,
    rank_text,
    settings_text,
    time_text,
)

MEASURES = ("aa", "ra", "sa")
_PROTOCOLS = tuple(section.title for section in SECTIONS.values())


class SeedLink(NamedTuple):
    """A seed and the page of its record."""

    seed: int
    page: str


class Line(NamedTuple):
    """One line of a table."""

    anchor: str
    title: str
    departures: str
    """How it differs from the recipe."""
    page: str
    """The page of the method."""
    numbers: dict[str, Number | None]
    """By measure."""
    cost: str
    cost_sort: float | None
    seeds: tuple[SeedLink, ...] = ()
    machines: str = ""
    """Where pre-training ran and its wall-clock was measured."""
    ratios: tuple[str, ...] = ()
    """Its cost as a multiple of DeACL's, of operations and of wall-clock, where known."""
    ra_on_aa: Number | None = None
    """RA on the images that AA was measured on."""
    flops: str = ""
    operations: float | None = None
    """Floating-point operations of pre-training; None where not all were counted."""
    rank: str = ""
    known: str = ""
    """How its numbers are known, and how often they were verified."""
    flags: tuple[str, ...] = ()
    attacks: Number | None = None
    """Accuracy under the list of attacks."""
    corruptions: Number | None = None
    corrupted: str = ""
    """What that is the mean of: it compares with means over the same images alone."""
    reference: Number | None = None
    """The headline AA of the method's paper."""
    source: str = ""
    encoder: str = ""
    note: str = ""


class Group(NamedTuple):
    """Lines that may be compared."""

    dataset: str
    protocol: str
    tier: str
    fidelity: str
    departures: tuple[str, ...]
    """What else sets the group apart: the adversary, transfer, a budget."""
    facts: str
    lines: tuple[Line, ...]

    @property
    def fewer(self) -> bool:
        """Whether AA of any of the lines was measured on fewer images than RA."""
        return any(line.ra_on_aa and line.ra_on_aa != line.numbers["ra"] for line in self.lines)

    @property
    def flags(self) -> list[str]:
        """Reasons to distrust any of the lines, each text once: numbered notes below the group."""
        return list(dict.fromkeys(flag for line in self.lines for flag in line.flags))


def measured_groups(content: Content) -> list[Group]:
    """Return the groups of what was measured here, in the order of the board."""
    return [_measured(content, list(rows)) for _, rows in groupby(content.board.rows, key=lambda row: row.table)]


def published_groups(content: Content, numbers: Iterable[PublishedNumber]) -> list[Group]:
    """Return the groups of published ``numbers``, by dataset and protocol, best AA first in each."""
    groups = []
    for (dataset, protocol), same in groupby(sorted(numbers, key=_published_order), key=_published_group):
        lines = tuple(_published_line(content, number) for number in same)
        groups.append(Group(dataset, protocol, "", "", (), "", lines))
    return groups


def measured_line(content: Content, row: Row) -> Line:
    """Return the line of a row; a mean over seeds links to where the method's page lists them."""
    seeds = tuple(SeedLink(seed, content.entry[file].page) for seed, file in zip(row.seeds, row.records, strict=True))
    first = content.entry[row.records[0]]
    page, anchor = content.method_pages[entry_name(row)], f"row-{first.record.sha256[:12]}"
    target = first.page if len(seeds) == 1 else f"{page}#{anchor}"
    scores = {measure: getattr(row, measure) for measure in MEASURES}
    paper = content.reference(row)
    title = f"{row.title} {first.record.year}"
    on_aa = row.ra_on_aa or (row.ra if row.aa else None)
    return Line(
        anchor=anchor,
        title=title,
        departures=_without_brackets(content.labels[row.records[0]].removeprefix(title).lstrip(" ,")),
        page=page,
        numbers={measure: score and of_score(score, target) for measure, score in scores.items()},
        cost="" if row.pretraining_seconds is None else time_text(row.pretraining_seconds),
        cost_sort=row.pretraining_seconds,
        seeds=seeds,
        machines="; ".join(row.machines),
        ratios=_ratios(content.ratios[row.records[0]]),
        ra_on_aa=None if on_aa is None else of_score(on_aa, target),
        flops="" if row.pretraining_flops is None else flops_text(row.pretraining_flops),
        operations=row.pretraining_flops,
        rank=rank_text(row) if row.rank else "",
        known=known_text(row),
        flags=row.doubts,
        attacks=of_score(row.attacks, target) if row.attacks else None,
        corruptions=of_score(row.corruptions.mean, target) if row.corruptions else None,
        corrupted=f"of {len(row.corruptions.accuracies)}, {row.corruptions.sha256[:8]}" if row.corruptions else "",
        reference=of_published(paper, "aa", f"{page}#published") if paper else None,
    )


def _published_line(content: Content, number: PublishedNumber) -> Line:
    page = content.method_pages[number.method.casefold()]
    departures = settings_text(number.variant)
    if number.pretrain_dataset not in (None, number.dataset):
        departures.append(f"pre-trained on {number.pretrain_dataset}")
    days = number.total_gpu_days
    return Line(
        anchor="",
        title=number.method,
        departures=", ".join(departures),
        page=page,
        numbers={measure: of_published(number, measure, f"{page}#published") for measure in MEASURES},
        cost="" if days is None else f"{days:g} GPU-days",
        cost_sort=days,
        known=number.known,
        source=number.source,
        encoder=number.encoder,
        note=number.note or "",
    )


def _measured(content: Content, rows: Sequence[Row]) -> Group:
    first = rows[0]
    facts = (
        f"{first.facts.train_images:,} training and {first.facts.test_images:,} test images of "
        f"{first.facts.num_classes} classes, default radius {radius_text('linf', first.facts.eps)}, data "
        f"{first.facts.sha256[:8]}"  # two data sets may have one name
    )
    lines = tuple(measured_line(content, row) for row in rows)
    key = first.table
    return Group(key.dataset, protocol_title(key.protocol), key.tier, key.fidelity, tuple(key.departures), facts, lines)


def _ratios(ratio: CostRatio) -> tuple[str, ...]:
    named = (("FLOPs", ratio.flops), ("time", ratio.time))
    return tuple(f"{name} x DeACL {value:.2f}" for name, value in named if value is not None)


def _without_brackets(text: str) -> str:
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _published_group(number: PublishedNumber) -> tuple[str, str]:
    return number.dataset, number.protocol


def _published_order(number: PublishedNumber) -> tuple[object, ...]:
    protocol = _PROTOCOLS.index(number.protocol) if number.protocol in _PROTOCOLS else len(_PROTOCOLS)
    aa, ra = (-1.0 if value is None else value for value in (number.aa, number.ra))
    return number.dataset, protocol, number.protocol, -aa, -ra, number.method.casefold(), number.source
