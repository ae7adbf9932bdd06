"""The parts of a table in Markdown: columns of scores, notes below it, links."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from bench.results import DASH, Score, percent


class Column(NamedTuple):
    """One column: its heading and a cell for each row."""

    heading: str
    cells: Sequence[str]
    left: bool = False
    """Aligned left, as text is; numbers are aligned right."""
    notes: Sequence[str] = ()
    """Lines below the table: what the marks in its cells mean, and what else a reader of them needs."""


def markdown_table(columns: Sequence[Column]) -> str:
    """Return a table of ``columns``, all of one length."""
    lines = [
        [column.heading for column in columns],
        ["---" if column.left else "---:" for column in columns],
        *zip(*(column.cells for column in columns), strict=True),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def notes_below(columns: Sequence[Column]) -> list[str]:
    """Return the lines below a table of ``columns``."""
    return [note for column in columns for note in column.notes]


def score_column(name: str, scores: Sequence[Score | None], marks: Sequence[str] | None = None) -> Column:
    """Return the column of one kind of accuracy, with the number of images in its heading where all share it.

    Args:
        name: the kind.
        scores: one a row; None where nothing was measured.
        marks: what to write behind each.
    """
    counts = {score.n for score in scores if score}
    cells = [score_text(score) + ("" if score is None or len(counts) == 1 else f" n={score.n}") for score in scores]
    heading = f"{name}, n={counts.pop()}" if len(counts) == 1 else name
    return Column(heading, [cell + mark for cell, mark in zip(cells, marks or [""] * len(cells), strict=True)])


def score_text(score: Score | None) -> str:
    """Return a score in percent: one seed with its interval, several as mean and standard deviation."""
    if score is None:
        return DASH
    value = percent(score.accuracy, score.n)
    return f"{value} ± {score.spread}" if isinstance(score.spread, str) else f"{value} [{', '.join(score.spread)}]"


def seed_links(seeds: Sequence[int], files: Sequence[str], results_at: str) -> str:
    """Return a link for each seed to its file, which lies below the results folder ``results_at``."""
    return " ".join(f"[seed {seed}]({quote(f'{results_at}/{file}')})" for seed, file in zip(seeds, files, strict=True))


class Notes:
    """Numbered remarks below a table; a text that is given twice keeps its number.

    Args:
        sign: from the number of a remark, from 1 on, to its sign.
    """

    def __init__(self, sign: Callable[[int], str]) -> None:
        self._sign = sign
        self._texts: list[str] = []

    def mark(self, texts: Sequence[str]) -> str:
        """Return the signs of ``texts``, to stand behind what they are about."""
        self._texts += [text for text in texts if text not in self._texts]
        return "".join(f" {self._sign(self._texts.index(text) + 1)}" for text in texts)

    def lines(self) -> list[str]:
        """Return the remarks with their signs."""
        return [f"{self._sign(i)} {text}" for i, text in enumerate(self._texts, 1)]
