"""CORRECTIONS.md: the records that no longer count, and why."""

from collections.abc import Sequence
from urllib.parse import quote

from bench.leaderboard.columns import Column, markdown_table
from bench.leaderboard.markdown import GENERATED
from bench.record import REASONS, Correction
from bench.results import DASH, escape

_INTRODUCTION = f"""\
{GENERATED}

# Corrections

Records that were withdrawn, or superseded by another one. The board does not show them; their files stay, unchanged. \
`bench correct RECORD --reason REASON --note TEXT` adds one."""


def render_corrections(corrections: Sequence[Correction]) -> str:
    """Return the text of CORRECTIONS.md, which lies in the results folder."""
    if not corrections:
        return f"{_INTRODUCTION}\n\nNone so far.\n"
    columns = [
        Column("Record", [_link(one.about, one.record) for one in corrections], left=True),
        Column("Reason", [REASONS[one.reason] for one in corrections], left=True),
        Column("In words", [escape(one.note) for one in corrections], left=True),
        Column(
            "Superseded by",
            [DASH if one.superseded_by is None else _link(one.superseded_by, one.superseded_by) for one in corrections],
            left=True,
        ),
        Column("Date", [one.date.date().isoformat() for one in corrections], left=True),
    ]
    return f"{_INTRODUCTION}\n\n{markdown_table(columns)}\n"


def _link(text: str, file: str) -> str:
    return f"[{escape(text)}]({quote(file)})"
