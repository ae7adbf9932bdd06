"""Tables in Markdown: one line a row of the board, or a published number."""

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from bench.leaderboard.published import PublishedNumber
from bench.leaderboard.rows import Row, Score
from bench.leaderboard.wording import DASH, duration, escape, percent, settings_text

_SHORT_COLUMNS = ("Method", "AA", "RA", "SA", "Pre-training")
_COLUMNS = (*_SHORT_COLUMNS, "Device", "Seeds", "Records")
_PUBLISHED_COLUMNS = ("Method", "AA", "RA", "SA", "GPU-days", "Encoder", "Source")
_LEFT_ALIGNED = {"Method", "Device", "Records", "Encoder", "Source"}


def measured_table(rows: Sequence[Row], records_at: str | None = None) -> list[str]:
    """Return the paragraphs of one table of the board: the table itself, then the notes below it.

    Args:
        rows: all rows of the table, sorted.
        records_at: the results folder as seen from the text, for the links; None: the short table without
            devices, seeds and records.
    """
    flags = _Notes("⚑", "AutoAttack warned: ")
    lines = [_short_cells(row, label, flags) for row, label in zip(rows, _labels(rows), strict=True)]
    if records_at is None:
        return [_table(_SHORT_COLUMNS, lines), *flags.lines()]
    for row, line in zip(rows, lines, strict=True):
        line += [escape("; ".join(row.devices)), str(len(row.seeds)), _links(row, records_at)]
    return [_table(_COLUMNS, lines), *flags.lines(), *_superseded(sum(row.superseded for row in rows))]


def published_table(numbers: Sequence[PublishedNumber]) -> list[str]:
    """Return the paragraphs of one table of published numbers, sorted by AA: the table, then its notes."""
    notes = _Notes("†")
    lines = [_published_cells(number, notes) for number in sorted(numbers, key=_published_order)]
    return [_table(_PUBLISHED_COLUMNS, lines), *notes.lines()]


class _Notes:
    """Numbered remarks below a table; a text that is given twice keeps its number."""

    def __init__(self, sign: str, prefix: str = "") -> None:
        self._sign, self._prefix = sign, prefix
        self._texts: list[str] = []

    def mark(self, texts: Sequence[str]) -> str:
        self._texts += [text for text in texts if text not in self._texts]
        return "".join(f" {self._sign}{self._texts.index(text) + 1}" for text in texts)

    def lines(self) -> list[str]:
        return [f"{self._sign}{i} {self._prefix}{escape(text)}" for i, text in enumerate(self._texts, 1)]


def _short_cells(row: Row, label: str, flags: _Notes) -> list[str]:
    return [
        escape(label),
        _score(row.aa) + flags.mark(row.aa_warnings),
        _score(row.ra),
        _score(row.sa),
        DASH if row.pretraining_seconds is None else duration(row.pretraining_seconds),
    ]


def _score(score: Score | None) -> str:
    if score is None:
        return DASH
    value = percent(score.accuracy, score.n)
    if score.std is not None:
        return f"{value} ± {percent(score.std, score.n)} n={score.n}"
    assert score.interval is not None, "a score of one seed has an interval"
    low, high = (percent(end, score.n) for end in score.interval)
    return f"{value} [{low}, {high}] n={score.n}"


def _labels(rows: Sequence[Row]) -> list[str]:
    # A default that changed between two versions gives two recipes one name; the hash tells them apart.
    count = Counter(row.label for row in rows)
    return [row.label if count[row.label] == 1 else f"{row.label}, recipe {row.protocol_sha256[:8]}" for row in rows]


def _links(row: Row, records_at: str) -> str:
    targets = [quote(f"{records_at}/{record}") for record in row.records]
    return " ".join(f"[seed {seed}]({target})" for seed, target in zip(row.seeds, targets, strict=True))


def _superseded(count: int) -> list[str]:
    if not count:
        return []
    return [f"Superseded by newer records of the same runs, and left out: {count} record{'s' * (count > 1)}."]


def _published_order(number: PublishedNumber) -> tuple[float, float, str, str]:
    aa, ra = (-1.0 if value is None else value for value in (number.aa, number.ra))
    return -aa, -ra, number.method, number.source


def _published_cells(number: PublishedNumber, notes: _Notes) -> list[str]:
    departures = settings_text(number.variant)
    if number.pretrain_dataset not in (None, number.dataset):
        departures.append(f"pre-trained on {number.pretrain_dataset}")
    label = f"{number.method} ({', '.join(departures)})" if departures else number.method
    return [
        escape(label) + notes.mark([number.note] if number.note else []),
        _published_value(number.aa, number.aa_std),
        _published_value(number.ra, number.ra_std),
        _published_value(number.sa, number.sa_std),
        DASH if number.total_gpu_days is None else f"{number.total_gpu_days:g}",
        escape(number.encoder),
        escape(number.source),
    ]


def _published_value(value: float | None, std: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.2f}" if std is None else f"{value:.2f} ± {std:g}"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---" if column in _LEFT_ALIGNED else "---:" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *lines])
