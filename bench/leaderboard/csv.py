"""The board in CSV: one line a (row, measure), for other programs."""

import csv
import io

from bench.results import Leaderboard, Row, Score

_COLUMNS = (
    *("dataset", "data_sha256", "tier", "fidelity", "protocol", "pretrained_on", "budget", "precision", "attack"),
    *(
        "method",
        "label",
        "local",
        "known",
        "verified",
        "rank",
        "tied",
        "measure",
        "accuracy",
        "std",
        "low",
        "high",
        "n",
        "seeds",
    ),
    *("pretraining_seconds", "pretraining_flops", "machines", "flags", "records"),
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The beginnings of a cell that a spreadsheet takes for a formula."""


def render_csv(board: Leaderboard) -> str:
    """Return a header and one line a (row, measure); accuracies are shares of 1, what is missing is empty.

    Several seeds, flags or records of a row stand in one cell, with semicolons.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in board.rows:
        corrupted = row.corruptions and row.corruptions.mean
        scores = {
            "aa": row.aa,
            "ra_on_aa": row.ra_on_aa,
            "ra": row.ra,
            "sa": row.sa,
            "attacks": row.attacks,
            "corruptions": corrupted,
        }
        for measure, score in scores.items():
            if score:
                writer.writerow(map(_text, _line(row, measure, score)))
    return text.getvalue()


def _text(cell: object) -> object:
    """Return ``cell`` so that no spreadsheet takes a text for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _line(row: Row, measure: str, score: Score) -> list[object]:
    low, high = score.interval or (None, None)
    return [
        *(row.dataset, row.facts.sha256, row.table.tier, row.fidelity, row.protocol, row.pretrained_on, row.budget),
        *(row.precision, row.attack, row.method, row.label, row.local, row.known),
        *(";".join(map(str, row.verified)), row.rank, row.tied),
        *(measure, score.accuracy, score.std, low, high, score.n, ";".join(map(str, row.seeds))),
        *(row.pretraining_seconds, row.pretraining_flops, "; ".join(row.machines)),
        *("; ".join(row.doubts), ";".join(row.records)),
    ]
