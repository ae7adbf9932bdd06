"""The board on the screen: one table for each set of comparable rows."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from bench.cli._tables import Column, DataTable, show
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.leaderboard import Column as Written
    from bench.results import Leaderboard, Row

_LEFT_OUT_FIRST = (
    "FLOPs",
    "Known",
    "Time x DeACL",
    "FLOPs x DeACL",
    "Seeds",
    "Time",
    "Published AA",
    "RA, images of AA",
    "SA",
)
"""The columns that a narrow screen leaves out, in this order."""


def show_board(board: "Leaderboard") -> None:
    """Print the tables of ``board``, then what its marks mean."""
    if not board.rows and not board.failed:
        print("No records yet: `bench run deacl --dataset digits` makes the first.")
        return
    data = Counter(dataset for dataset, _ in {(row.dataset, row.facts.sha256) for row in board.rows})
    for key, rows in groupby(board.rows, key=lambda row: row.table):
        name = key.dataset if data[key.dataset] == 1 else f"{key.dataset} {key.sha256[:8]}"
        show(_table(list(rows), board, name))
    for one in board.failed:
        print(one.said)
    words = ["percent of n test images; one seed: 95 % interval; several: mean ± deviation"]
    if any(row.tied for row in board.rows):
        words.append("=: not separated from the best of its group by a test at 5 %")
    if shared := ", ".join(name for name, several in data.items() if several > 1):
        words.append(f"{shared}: several data sets of one name, told apart by the first digits of their SHA-256")
    if any(row.local for row in board.rows):
        words.append("local: your own records, in the folder local of the results")
    counts = {"common corruptions": sum(row.corruptions is not None for row in board.rows), "sweeps": len(board.sweeps)}
    if also := [f"{what} ({plural(count, 'row')})" for what, count in counts.items() if count]:
        words.append(f"tables of {' and of '.join(also)}: --format markdown")
    print("\n".join(words))


def _table(rows: "Sequence[Row]", board: "Leaderboard", dataset: str) -> DataTable:
    from bench.leaderboard import plain_table
    from bench.results import DASH

    columns = plain_table(rows, board.published)
    columns = [column for column in columns if any(cell not in ("", DASH) for cell in column.cells)]
    table = DataTable(*map(_column, columns), title=f"{dataset}: {rows[0].table.conditions}")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add(*cells)
    return table


def _column(column: "Written") -> Column:
    kind = column.heading.split(", n=")[0]
    drop = _LEFT_OUT_FIRST.index(kind) + 1 if kind in _LEFT_OUT_FIRST else 0
    return Column(column.heading, not column.left, prose=column.left, drop=drop, note="\n".join(column.notes))
