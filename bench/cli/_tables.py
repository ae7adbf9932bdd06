"""Tables on the screen, in which no name and no number is ever cut."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_PROSE_WIDTH = 24
"""Width in characters that a text needs to be readable."""


@dataclass(frozen=True)
class Column:
    """One column of a :class:`DataTable`."""

    heading: str
    number: bool = False
    """Flush right."""
    prose: bool = False
    """May be wrapped, between words only."""
    drop: int = 0
    """Where the screen is too narrow, columns are left out whole: those with 1 first, then 2; with 0 never."""
    once: bool = False
    """Left blank where it, and all columns before it, repeat the row above."""
    note: str = ""
    """What stands below the table where the column is shown."""


class DataTable:
    """Rows under headings, in a form that fits the screen.

    All columns where they fit; else without those that may be left out, in the order of ``Column.drop``, with a note
    below the table; else, or with ``blocks``, one block a row, a line a column, or two where a heading is long. A
    column without any value is not shown.

    Print it with :func:`show`.
    """

    def __init__(self, *columns: Column | str, title: str = "", caption: str = "", blocks: bool = False) -> None:
        self.columns = [column if isinstance(column, Column) else Column(column) for column in columns]
        self.title, self.caption, self._in_blocks = title, caption, blocks
        self._rows: list[list[str]] = []
        self._sections: set[int] = set()

    def add(self, *cells: object) -> None:
        """Add a row, a cell a column; None is blank."""
        assert len(cells) == len(self.columns), f"{len(cells)} cells under {len(self.columns)} headings"
        self._rows.append(["" if cell is None else _printable(str(cell)) for cell in cells])

    def rule(self) -> None:
        """Draw a line below the rows so far."""
        self._sections.add(len(self._rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the title, the rows and the caption."""
        width = options.max_width
        yield from _wrapped(self.title, width, "bold")
        shown = None if self._in_blocks else self._shown(width)
        if shown is None:
            yield from self._blocks(width)
        else:
            yield self._table(shown, width)
            left_out = [self.columns[place].heading for place in self._filled() if place not in shown]
            if left_out:
                yield from _wrapped(f"no room for: {'; '.join(left_out)}. A wider screen, or --json, shows all.", width)
        notes = [self.columns[place].note for place in (self._filled() if shown is None else shown)]
        yield from _wrapped("\n".join([*notes, self.caption]), width, "dim")

    def _shown(self, width: int) -> list[int] | None:
        """Return the places of the columns that fit into ``width``, None where those that must be shown do not."""
        places = self._filled()
        for order in range(max((column.drop for column in self.columns), default=0) + 1):
            shown = [place for place in places if not 0 < self.columns[place].drop <= order]
            if sum(self._least(place) for place in shown) + _borders(len(shown)) <= width:
                return shown
        return None

    def _filled(self) -> list[int]:
        return [place for place in range(len(self.columns)) if not self._rows or any(row[place] for row in self._rows)]

    def _texts(self, place: int) -> list[str]:
        return [self.columns[place].heading, *(row[place] for row in self._rows)]

    def _natural(self, place: int) -> int:
        return max(map(cell_len, self._texts(place)))

    def _least(self, place: int) -> int:
        natural = self._natural(place)
        if not self.columns[place].prose:
            return natural
        words = (cell_len(word) for text in self._texts(place) for word in text.split())
        return max(min(natural, _PROSE_WIDTH), *words)

    def _widths(self, shown: Sequence[int], width: int) -> dict[int, int]:
        """Return the width of each column in ``shown``: the least, and for prose what is left of ``width``."""
        widths = {place: self._least(place) for place in shown}
        spare = width - _borders(len(shown)) - sum(widths.values())
        growing = sorted(shown, key=lambda place: self._natural(place) - widths[place])
        for left, place in zip(range(len(growing), 0, -1), growing, strict=True):
            more = min(spare // left, self._natural(place) - widths[place])  # an equal share of what is left
            widths[place] += more
            spare -= more
        return widths

    def _table(self, shown: Sequence[int], width: int) -> Table:
        table = Table()
        for place, columns in self._widths(shown, width).items():
            column = self.columns[place]
            table.add_column(
                Text(column.heading),
                justify="right" if column.number else "left",
                width=columns,
                no_wrap=not column.prose,
                overflow="fold",  # each is wide enough; with "ignore", rich leaves numbers flush left
            )
        before: list[str] = []
        for number, row in enumerate(self._rows):
            cells, same = [], bool(before)
            for place in shown:
                same = same and self.columns[place].once and before[place] == row[place]
                cells.append(Text("" if same else row[place]))
            table.add_row(*cells, end_section=number in self._sections)
            before = row
        return table

    def _blocks(self, width: int) -> Iterator[Text]:
        first, *rest = self.columns
        label = max((cell_len(column.heading) for column in rest), default=0)
        beside = label <= width // 2
        for row in self._rows:
            yield from _wrapped(f"{first.heading} {row[0]}" if first.number else row[0] or "-", width, "bold")
            for column, cell in zip(rest, row[1:], strict=True):
                if cell and beside:
                    yield from _wrapped(cell, width, first=f"  {column.heading:{label}}  ", rest=" " * (label + 4))
                elif cell:
                    yield from _wrapped(column.heading, width, first="  ", rest="  ")
                    yield from _wrapped(cell, width, first="    ", rest="    ")


def show(*tables: DataTable, console: Console | None = None) -> None:
    """Print ``tables`` on ``console``, by default standard output, in its width.

    In a pipe or a file, unless COLUMNS is set, they are as wide as they need to be.
    """
    console = console or Console()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = 10_000
    for table in tables:
        console.print(table, crop=False, highlight=False)


def digits(value: float) -> str:
    """Return ``value`` to three significant digits, large ones in full: 0.123, 960, 1,220."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _borders(columns: int) -> int:
    """Return how much of a row's width a table of so many columns spends on its lines and blanks."""
    return 3 * columns + 1


def _printable(text: str) -> str:
    """Return ``text`` on one line, with control characters spelt out."""
    plain = " ".join(text.split())
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in plain)


def _wrapped(text: str, width: int, style: str = "", first: str = "", rest: str = "") -> Iterator[Text]:
    """Yield the lines of ``text``, broken between words only: the terminal itself wraps a longer word."""
    for line in text.splitlines():
        for part in textwrap.wrap(
            line, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        ):
            yield Text(part, style=style, no_wrap=True, overflow="ignore")
