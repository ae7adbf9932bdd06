"""Tables of measured rows in Markdown."""

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from bench.leaderboard.grid import Column, Notes, markdown_table, score_column, seed_links
from bench.leaderboard.published import PublishedNumber, headline
from bench.leaderboard.rows import Row
from bench.leaderboard.sweeps import SweepRow
from bench.leaderboard.wording import DASH, duration, eps_text, escape, flops_text, percent

REFERENCE = "deacl"
"""The method whose pre-training cost is 1: "is that better than DeACL?" is what the bench is asked."""


def measured_table(rows: Sequence[Row], *, records_at: str, published: Sequence[PublishedNumber] = ()) -> list[str]:
    """Return the paragraphs of one table of the board: the table itself, then the notes below it.

    Args:
        rows: all rows of the table, sorted.
        records_at: the results folder as seen from the text, for the links.
        published: numbers of papers; the headline AA of a row's method gets a column of its own.
    """
    flags = Notes("⚑")
    columns = [*score_columns(rows, flags), *cost_columns(rows)]
    references = [_published_aa(row, published) for row in rows]
    if any(reference != DASH for reference in references):
        columns.insert(5, Column("*Published AA*", references))
    columns += [
        Column("Device", [escape("; ".join(row.devices)) for row in rows], left=True),
        Column("Seeds", [str(len(row.seeds)) for row in rows]),
        Column("Records", [seed_links(row.seeds, row.records, records_at) for row in rows], left=True),
    ]
    return [markdown_table(columns), *flags.lines(), *_superseded(rows, records_at)]


def score_columns(rows: Sequence[Row], flags: Notes) -> list[Column]:
    """Return rank, method, AA, RA and SA of ``rows``, whose doubts go to ``flags``."""
    marks = [flags.mark(row.doubts) for row in rows]
    return [
        Column("#", [rank_text(row) for row in rows]),
        Column("Method", [escape(name) + mark for name, mark in zip(labels(rows), marks, strict=True)], left=True),
        score_column("AA", [row.aa for row in rows]),
        score_column("RA", [row.ra for row in rows]),
        score_column("SA", [row.sa for row in rows]),
    ]


def cost_columns(rows: Sequence[Row]) -> list[Column]:
    """Return what pre-training took: time, operations, and these as a multiple of DeACL's."""
    return [
        Column("Pre-training", [_seconds(row) for row in rows]),
        Column("FLOPs", [DASH if row.pretraining_flops is None else flops_text(row.pretraining_flops) for row in rows]),
        Column("x DeACL", cost_ratios(rows)),
    ]


def cost_ratios(rows: Sequence[Row]) -> list[str]:
    """Return each row's pre-training FLOPs as a multiple of those of DeACL's own recipe in the same table."""
    own = [row.pretraining_flops for row in rows if row.method == REFERENCE and not row.overrides]
    reference = own[0] if len(own) == 1 else None
    return [f"{row.pretraining_flops / reference:.2f}" if reference and row.pretraining_flops else DASH for row in rows]


def rank_text(row: Row) -> str:
    """Return the rank of a row, with an equals sign where it is shared."""
    return DASH if row.rank is None else f"{row.rank}{'=' * row.tied}"


def labels(rows: Sequence[Row]) -> list[str]:
    """Return what to call each row of one table.

    A default that changed between two versions gives two recipes one name; the hash tells them apart.
    """
    count = Counter(row.label for row in rows)
    return [row.label if count[row.label] == 1 else f"{row.label}, recipe {row.protocol_sha256[:8]}" for row in rows]


def corruption_table(rows: Sequence[Row], *, records_at: str) -> str:
    """Return the table of accuracies under common corruptions of ``rows``, which all met the same images."""
    scored = sorted(
        ((name, row, row.corruptions) for name, row in zip(labels(rows), rows, strict=True) if row.corruptions),
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
    write = eps_text if settings.kind == "eps" else "{:g}".format
    columns = [Column("Method", [escape(row.label) for row in rows], left=True)]
    for place, value in enumerate(settings.grid):
        scores = [row.scores[place] for row in rows]
        columns.append(Column(write(value), [percent(score.accuracy, score.n) for score in scores]))
    links = [seed_links(row.seeds, row.files, records_at) for row in rows]
    return markdown_table([*columns, Column("Sweeps", links, left=True)])


def _seconds(row: Row) -> str:
    return DASH if row.pretraining_seconds is None else duration(row.pretraining_seconds)


def _published_aa(row: Row, published: Sequence[PublishedNumber]) -> str:
    if row.overrides or row.pretrained_on or row.budget or row.attack:
        return DASH
    number = headline(published, title=row.title, dataset=row.facts.published_as, protocol=row.protocol)
    return DASH if number is None or number.aa is None else f"*{number.aa:.2f}*"


def _superseded(rows: Sequence[Row], records_at: str) -> list[str]:
    files = [file for row in rows for file in row.superseded]
    if not files:
        return []
    links = ", ".join(f"[{escape(file.rpartition('/')[2])}]({quote(f'{records_at}/{file}')})" for file in files)
    return [f"Superseded by newer records of the same runs, and left out: {links}."]
