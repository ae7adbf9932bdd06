"""The board in short: the tables of a README, measured numbers only."""

from collections.abc import Sequence
from itertools import groupby
from urllib.parse import quote

from bench.leaderboard.grid import Notes, markdown_table, score_column
from bench.leaderboard.markdown import GENERATED
from bench.leaderboard.tables import FLAG, cost_columns, machine_lines, machine_sign, marked_up, score_columns
from bench.results import Leaderboard, Row, TableKey, escape, radius_text

_NO_ROWS = "No measured results yet: `bench run deacl --dataset digits` makes the first."


def render_readme_block(board: Leaderboard, *, details_at: str) -> str:
    """Return the short tables of a README: one a (dataset, tier), standard linear finetuning, and AA under AFF.

    Rows of transfer, of equal compute and under another adversary are left to the details.

    Args:
        board: what to show.
        details_at: LEADERBOARD.md as seen from the README.
    """
    plain = [row for row in board.rows if not (row.pretrained_on or row.budget or row.attack)]
    parts = [GENERATED]
    for key, table in groupby(plain, key=_place):
        rows = list(table)
        linear = [row for row in rows if row.protocol == "slf"]
        if linear:
            radius = radius_text("linf", rows[0].facts.eps)
            parts.append(f"**{escape(key.dataset)}** ({radius}): SLF, tier {escape(key.tier)}, fidelity {key.fidelity}")
            parts += _short_table(linear, [row for row in rows if row.protocol == "aff"])
    if len(parts) == 1:
        parts.append(_NO_ROWS)
    elif any(row.tied for row in plain):
        parts.append("Rows that share a rank (=) are not separated by a test at 5 %.")
    link = f"[{escape(details_at)}]({quote(details_at)})"
    return "\n\n".join([*parts, f"Every record, every protocol, and what the columns mean: {link}."])


def _place(row: Row) -> TableKey:
    return row.table._replace(protocol="")


def _short_table(linear: Sequence[Row], full: Sequence[Row]) -> list[str]:
    flags, machines = Notes(FLAG), Notes(machine_sign)
    columns = list(map(marked_up, score_columns(linear, flags)))
    finetuned = {row.label: row.aa for row in full}
    if finetuned.keys() & {row.label for row in linear}:
        columns.append(score_column("AA under AFF", [finetuned.get(row.label) for row in linear]))
    time, time_ratio, _, flops_ratio = cost_columns(linear, machines)
    columns += [time, time_ratio, flops_ratio]
    return [markdown_table(columns), *map(escape, [*flags.lines(), *machine_lines(linear, machines)])]
