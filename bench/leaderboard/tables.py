"""Tables in Markdown: of measured rows, of sweeps, of published numbers."""

from collections.abc import Iterator, Sequence
from functools import partial
from urllib.parse import quote

from bench.leaderboard.columns import Column, Notes, markdown_table, notes_below, score_column, seed_links
from bench.recipe import RELEASED
from bench.results import (
    DASH,
    PublishedNumber,
    Row,
    SweepRow,
    bare_radius,
    cost_ratios,
    escape,
    flops_text,
    headline,
    known_text,
    named,
    percent,
    rank_text,
    reference,
    row_names,
    settings_text,
    time_text,
)

_REFERENCE_TITLE = "DeACL"

PUBLISHED_AA = "Published AA"
_PUBLISHED_SA = "Published SA"
"""Of released classifiers alone: the SA of a method depends on the protocol."""

KNOWN = "Known"
"""Heading of how a row is known."""

FLAG = "⚑{}".format
"""From the number of a doubt to its sign."""


def measured_table(rows: Sequence[Row], *, records_at: str, published: Sequence[PublishedNumber] = ()) -> list[str]:
    """Return the paragraphs of one table of the board: the table itself, then the notes below it.

    Args:
        rows: all rows of the table, sorted.
        records_at: the results folder as seen from the text, for the links.
        published: numbers of papers; the headline AA of a row's method gets a column of its own.
    """
    columns = [marked_up(column) for column in plain_table(rows, published)]
    links = [seed_links(row.seeds, row.records, records_at) for row in rows]
    columns.append(Column("Records", links, left=True))
    return [
        markdown_table(columns),
        *map(escape, (*notes_below(columns), *_checks(rows))),
        *_superseded(rows, records_at),
    ]


def plain_table(rows: Sequence[Row], published: Sequence[PublishedNumber]) -> list[Column]:
    """Return the columns of one table of the board, all of it plain text."""
    columns = [*score_columns(rows), Column(KNOWN, list(map(known_text, rows)), left=True)]
    references = [
        reference(
            published,
            row.table,
            method=row.method,
            title=row.title,
            published_as=row.facts.published_as,
            overrides=row.overrides,
        )
        for row in rows
    ]
    released = [number if number and number.protocol == RELEASED else None for number in references]
    for heading, found in (
        (PUBLISHED_AA, [number and number.aa for number in references]),
        (_PUBLISHED_SA, [number and number.sa for number in released]),
    ):
        if any(value is not None for value in found):
            columns.append(Column(heading, [DASH if value is None else f"{value:.2f}" for value in found]))
    return [*columns, *cost_columns(rows), Column("Seeds", [str(len(row.seeds)) for row in rows])]


def marked_up(column: Column) -> Column:
    """Return a plain column in Markdown; what papers published is in italics."""
    if column.heading in (PUBLISHED_AA, _PUBLISHED_SA):
        cells = [cell if cell == DASH else f"*{cell}*" for cell in column.cells]
        return column._replace(heading=f"*{column.heading}*", cells=cells)
    return column._replace(cells=list(map(escape, column.cells))) if column.left else column


def score_columns(rows: Sequence[Row]) -> list[Column]:
    """Return rank, method, AA, RA and SA of ``rows``; their doubts are notes."""
    flags = Notes(FLAG)
    names = [name + flags.mark(row.doubts) for name, row in zip(row_names(rows), rows, strict=True)]
    return [
        Column("#", [rank_text(row) for row in rows]),
        Column("Method", names, left=True, notes=flags.lines()),
        score_column("AA", [row.aa for row in rows]),
        *_same_images(rows),
        *([score_column("Attacks", [row.attacks for row in rows])] if any(row.attacks for row in rows) else []),
        score_column("RA", [row.ra for row in rows]),
        score_column("SA", [row.sa for row in rows]),
    ]


def _same_images(rows: Sequence[Row]) -> list[Column]:
    """Return the column of RA on AA's images, if they are fewer than RA's for any row."""
    if not any(row.ra_on_aa for row in rows):
        return []
    scores = [row.ra_on_aa or (row.ra if row.aa else None) for row in rows]
    return [Column("RA, images of AA", score_column("", scores).cells)]


def cost_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the cost of pre-training, in time and in operations, each also as a multiple of DeACL's.

    Where ``rows`` ran on several machines, each time is marked with its own; a row of several has no time.
    """
    machines = Notes(machine_sign)
    times = [_seconds(row) + mark for row, mark in zip(rows, time_marks(rows, machines), strict=True)]
    return [
        Column("Time", times, notes=machine_lines(rows, machines)),
        Column("Time x DeACL", time_ratios(rows)),
        Column("FLOPs", [DASH if row.pretraining_flops is None else flops_text(row.pretraining_flops) for row in rows]),
        Column("FLOPs x DeACL", flops_ratios(rows)),
    ]


def time_marks(rows: Sequence[Row], machines: Notes) -> list[str]:
    """Return what to write behind each time: its machines, where those of ``rows`` are several."""
    mixed = len(_machines(rows)) > 1
    return [machines.mark(row.machines if mixed else ()) for row in rows]


def flops_ratios(rows: Sequence[Row]) -> list[str]:
    """Return each row's pre-training FLOPs as a multiple of those of DeACL's own recipe in the same table."""
    return [_ratio(ratio.flops) for ratio in cost_ratios(rows)]


def time_ratios(rows: Sequence[Row]) -> list[str]:
    """Return the same of wall-clock, where both ran on the same machine."""
    return [_ratio(ratio.time) for ratio in cost_ratios(rows)]


def machine_sign(number: int) -> str:
    """Return the sign of a machine: (a), (b) and so on."""
    return f"({chr(ord('a') + number - 1) if number <= 26 else number})"


def machine_lines(rows: Sequence[Row], machines: Notes) -> list[str]:
    """Return the lines that name the machines of the times of ``rows``."""
    found = _machines(rows)
    return [f"Times: {found[0]}."] if len(found) == 1 else machines.lines()


def _machines(rows: Sequence[Row]) -> list[str]:
    return sorted({machine for row in rows for machine in row.machines})


def _ratio(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def corruption_table(rows: Sequence[Row], *, records_at: str) -> str:
    """Return the table of accuracies under common corruptions of ``rows``, all measured on the same images."""
    scored = sorted(
        ((name, row, row.corruptions) for name, row in zip(row_names(rows), rows, strict=True) if row.corruptions),
        key=lambda one: -one[2].mean.accuracy,
    )
    kinds = list(dict.fromkeys(kind for _, _, found in scored for kind in found.accuracies))
    columns = [
        Column("Method", [escape(name) for name, _, _ in scored], left=True),
        score_column("Mean", [found.mean for _, _, found in scored]),
        score_column("SA", [row.sa for _, row, _ in scored]),
    ]
    for kind in kinds:
        shares = [found.accuracies.get(kind) for _, _, found in scored]
        cells = [DASH if share is None else f"{100 * share:.1f}" for share in shares]
        columns.append(Column(kind.replace("_", " "), cells))
    links = [seed_links(row.seeds, row.records, records_at) for _, row, _ in scored]
    return markdown_table([*columns, Column("Records", links, left=True)])


def sweep_table(rows: Sequence[SweepRow], *, records_at: str) -> str:
    """Return the table of one grid: accuracy in percent at each of its values."""
    settings = rows[0].key.settings
    write = partial(bare_radius, settings.norm) if settings.kind == "eps" else "{:g}".format
    columns = [Column("Method", [escape(row.label) for row in rows], left=True)]
    for place, value in enumerate(settings.grid):
        scores = [row.scores[place] for row in rows]
        columns.append(Column(write(value), [percent(score.accuracy, score.n) for score in scores]))
    links = [seed_links(row.seeds, row.files, records_at) for row in rows]
    return markdown_table([*columns, Column("Sweeps", links, left=True)])


def _seconds(row: Row) -> str:
    return DASH if row.pretraining_seconds is None else time_text(row.pretraining_seconds)


def _checks(rows: Sequence[Row]) -> Iterator[str]:
    for name, row in zip(row_names(rows), rows, strict=True):
        for seed, checks in zip(row.seeds, row.checks, strict=True):
            yield from (f"Measured again: {name}, seed {seed}, by {check}." for check in checks)


def _superseded(rows: Sequence[Row], records_at: str) -> list[str]:
    files = [file for row in rows for file in row.superseded]
    if not files:
        return []
    links = ", ".join(f"[{escape(file.rpartition('/')[2])}]({quote(f'{records_at}/{file}')})" for file in files)
    return [f"Superseded by newer records of the same runs, and left out: {links}."]


def published_table(numbers: Sequence[PublishedNumber]) -> list[str]:
    """Return the paragraphs of one table of published numbers, sorted by AA: the table, then its notes."""
    notes = Notes("†{}".format)
    lines = sorted(numbers, key=_published_order)
    columns = [
        Column("Method", [_published_name(number, notes) for number in lines], left=True),
        Column("AA", [_published_score(number.aa, number.aa_std) for number in lines]),
        Column("RA", [_published_score(number.ra, number.ra_std) for number in lines]),
        Column("SA", [_published_score(number.sa, number.sa_std) for number in lines]),
        Column("GPU-days", [DASH if n.total_gpu_days is None else f"{n.total_gpu_days:g}" for n in lines]),
        Column("GPU-days x DeACL", [_published_cost_ratio(number, numbers) for number in lines]),
        Column(KNOWN, [number.known for number in lines], left=True),
        Column("Encoder", [escape(number.encoder) for number in lines], left=True),
        Column("Source", [escape(number.source) for number in lines], left=True),
    ]
    return [markdown_table(columns), *map(escape, notes.lines())]


def _published_order(number: PublishedNumber) -> tuple[float, float, str, str]:
    aa, ra = (-1.0 if value is None else value for value in (number.aa, number.ra))
    return -aa, -ra, number.method, number.source


def _published_name(number: PublishedNumber, notes: Notes) -> str:
    departures = settings_text(number.variant)
    if number.pretrain_dataset not in (None, number.dataset):
        departures.append(f"pre-trained on {number.pretrain_dataset}")
    return escape(named(number.method, departures)) + notes.mark([number.note] if number.note else [])


def _published_score(value: float | None, std: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.2f}" if std is None else f"{value:.2f} ± {std:g}"


def _published_cost_ratio(number: PublishedNumber, numbers: Sequence[PublishedNumber]) -> str:
    """Return GPU-days as a multiple of DeACL's in the same source: other sources ran on other GPUs."""
    same_source = (other for other in numbers if other.source == number.source)
    deacl = headline(same_source, title=_REFERENCE_TITLE, dataset=number.dataset, protocol=number.protocol)
    if number.total_gpu_days is None or deacl is None or not deacl.total_gpu_days:
        return DASH
    return f"{number.total_gpu_days / deacl.total_gpu_days:.2f}"
