"""What the site shows: the board, every record that can be trusted, and every method in either."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from bench.method import METHODS, MethodInfo
from bench.own_code import is_own
from bench.record import IMPORTED, LOCAL, Record, load_record, record_files
from bench.results import (
    CostRatio,
    Leaderboard,
    PublishedNumber,
    Row,
    build_leaderboard,
    cost_ratios,
    reference,
    row_names,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A record and its page."""

    file: str
    """The record's path below the results folder."""
    record: Record
    """Without its histories of training: those of all records would not fit into a small memory."""
    row: Row
    """The row of the board that it belongs to."""

    @property
    def checks(self) -> tuple[str, ...]:
        """Who has measured its weights again, when, where, and how many images differ."""
        return dict(zip(self.row.records, self.row.checks, strict=True)).get(self.file, ())

    @property
    def newer(self) -> str | None:
        """The file of the newer record of the same run, which counts in its place."""
        counted = dict(zip(self.row.seeds, self.row.records, strict=True))[self.record.seed]
        return None if counted == self.file else counted

    @property
    def page(self) -> str:
        """The page's path in the site."""
        return _record_page(self.file)

    @property
    def copy(self) -> str:
        """The path in the site of the copied record."""
        return f"records/{self.file}"


@dataclass(frozen=True)
class MethodEntry:
    """A method and its page."""

    name: str | None
    """As registered or recorded, see :func:`entry_name`; None: only papers mention it."""
    title: str
    info: MethodInfo | None
    """None: it is not installed here."""
    rows: tuple[Row, ...]
    published: tuple[PublishedNumber, ...]

    @property
    def page(self) -> str:
        """The page's path in the site."""
        return f"methods/{_file_name(self.name or self.title)}.html"


@dataclass(frozen=True)
class Content:
    """All that the site shows."""

    results_dir: Path
    board: Leaderboard
    entries: tuple[Entry, ...]

    @cached_property
    def entry(self) -> dict[str, Entry]:
        """The entries by file."""
        return {entry.file: entry for entry in self.entries}

    @cached_property
    def corrected(self) -> dict[str, str]:
        """The pages of records that no longer count, by their files: what somebody cited stays, and says so."""
        found = [path for folder in ("", LOCAL) for path in record_files(self.results_dir / folder)]
        there = {path.relative_to(self.results_dir).as_posix() for path in found}
        return {one.record: _record_page(one.record) for one in self.board.corrections if one.record in there}

    @cached_property
    def labels(self) -> dict[str, str]:
        """The name of each row, by the first of its records."""
        return self._by_record(row_names)

    @cached_property
    def ratios(self) -> dict[str, CostRatio]:
        """The cost of each row's pre-training as a multiple of DeACL's, by the first of its records."""
        return self._by_record(cost_ratios)

    def _by_record(self, of_table: Callable[[Sequence[Row]], Sequence[T]]) -> dict[str, T]:
        """Return what ``of_table`` gives each row of a table, by the first of the row's records."""
        found: dict[str, T] = {}
        for _, same in groupby(self.board.rows, key=lambda row: row.table):
            rows = list(same)
            found |= {row.records[0]: value for row, value in zip(rows, of_table(rows), strict=True)}
        return found

    @cached_property
    def methods(self) -> tuple[MethodEntry, ...]:
        """The registered, the measured and the published methods, by title."""
        titles = {entry_name(entry.record): entry.record.title for entry in self.entries}
        infos = {name: METHODS.get(name).info for name in METHODS}
        titles |= {name: info.title for name, info in infos.items()}
        found = [self._method(name, title, infos.get(name)) for name, title in titles.items()]
        known = {number.method for method in found for number in method.published}
        others = {number.method for number in self.board.published} - known
        found += [self._method(None, title, None) for title in others]
        return tuple(sorted(found, key=lambda method: (method.title.casefold(), method.name or "")))

    @cached_property
    def method_pages(self) -> dict[str, str]:
        """The pages of methods, by :func:`entry_name`; those with published numbers also by the title in lower case."""
        pages = {method.title.casefold(): method.page for method in self.methods if method.published}
        return pages | {method.name: method.page for method in self.methods if method.name}

    def reference(self, row: Row) -> PublishedNumber | None:
        """Return the headline number that was published for the method, data and protocol of ``row``."""
        return reference(
            self.board.published,
            row.table,
            method=row.method,
            title=row.title,
            published_as=row.facts.published_as,
            overrides=row.overrides,
        )

    def _method(self, name: str | None, title: str, info: MethodInfo | None) -> MethodEntry:
        rows = tuple(row for row in self.board.rows if entry_name(row) == name)
        # A user's own code may have kept the title of the paper's that it changes.
        numbers = () if is_own(name or "") else self.board.published
        published = tuple(number for number in numbers if number.method.casefold() == title.casefold())
        return MethodEntry(name, title, info, rows, published)


def _record_page(file: str) -> str:
    """Return the path in the site of the page of the record ``file``, its path below the results folder."""
    return f"records/{file.removesuffix('.json')}.html"


def entry_name(one: Record | Row) -> str:
    """Return the name of the method that a record or a row belongs to: of imported encoders each is one."""
    return f"{one.method} {one.title}" if one.method == IMPORTED else one.method


def read_content(results_dir: Path) -> Content:
    """Return what the records and the published numbers under ``results_dir`` give.

    Raises:
        BenchError: there is no such folder, or its published numbers are faulty.
    """
    board = build_leaderboard(results_dir)
    entries = [
        Entry(file, load_record(results_dir / file).without_history(), row)
        for row in board.rows
        for file in (*row.records, *row.superseded)
    ]
    return Content(results_dir, board, tuple(entries))


def _file_name(name: str) -> str:
    """Return a file name for a page about ``name``: the name itself where it is a valid one."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".strip("-")
