"""The board in LaTeX: what a paper's table needs, with booktabs, citations and their BibTeX."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from bench.errors import BenchError
from bench.leaderboard.columns import Notes
from bench.leaderboard.markdown import GENERATED
from bench.leaderboard.tables import KNOWN, flops_ratios, machine_lines, machine_sign, time_marks, time_ratios
from bench.recipe import protocol_title
from bench.results import (
    DASH,
    Leaderboard,
    Row,
    Score,
    TableKey,
    known_text,
    percent,
    radius_text,
    row_names,
    time_text,
)

_HEAD = f"% {GENERATED.removeprefix('<!-- ').removesuffix(' -->')}\n% In the preamble: \\usepackage{{booktabs}}"
_BOLD = (
    r"Bold: AA not separated from the best by a test at 5\,\% "
    r"(McNemar's exact test; Welch's $t$ test over several seeds), uncorrected for the number of comparisons."
)

_LATEX = {
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "–": "--"},
}


def render_latex(board: Leaderboard, entries: Mapping[str, str]) -> str:
    """Return one table environment for each table of measured rows.

    Args:
        board: whose rows to show.
        entries: BibTeX by method, for the citations.
    """
    keys = {method: citation_key(entry) for method, entry in entries.items()}
    tables = [_table(key, list(rows), keys) for key, rows in groupby(board.rows, key=lambda row: row.table)]
    return "\n\n".join([_HEAD, *tables]) + "\n"


def bibtex_entries(methods: Iterable[str]) -> dict[str, str]:
    """Return the BibTeX of each of ``methods`` that is installed, by its registered name.

    A record may be of a method that is not installed here; it has no entry.
    """
    from bench.method import METHODS  # imports torch, which no other table needs

    installed = set(METHODS)
    return {name: METHODS.get(name).info.bibtex.strip() for name in sorted(set(methods) & installed)}


def citation_key(entry: str) -> str:
    """Return the key of a BibTeX ``entry``; raises BenchError if it has none."""
    found = re.match(r"@\w+\s*\{\s*([^,\s]+)\s*,", entry)
    if found is None:
        raise BenchError(f"not a BibTeX entry: {entry[:60]!r}. It starts with @inproceedings{{key, or the like.")
    return found[1]


def bibliography(entries: dict[str, str]) -> str:
    """Return the text of a .bib file with each of ``entries`` once, by key."""
    by_key = {citation_key(entry): entry for entry in entries.values()}
    return "\n\n".join(by_key[key] for key in sorted(by_key)) + "\n"


def _table(key: TableKey, rows: Sequence[Row], cited: Mapping[str, str]) -> str:
    doubts = list(dict.fromkeys(doubt for row in rows for doubt in row.doubts))
    names = [
        _method(name, cited.get(row.method), [doubts.index(doubt) + 1 for doubt in row.doubts])
        for name, row in zip(row_names(rows), rows, strict=True)
    ]
    machines = Notes(machine_sign)
    columns = {
        "Method": names,
        "AA": [_aa(row) for row in rows],
        "RA, images of AA": [_score(row.ra_on_aa or (row.aa and row.ra)) for row in rows],
        "RA": [_score(row.ra) for row in rows],
        "SA": [_score(row.sa) for row in rows],
        KNOWN: [escape_latex(known_text(row)) for row in rows],
        "Time": [_time(row) + mark for row, mark in zip(rows, time_marks(rows, machines), strict=True)],
        "Time / DeACL": [escape_latex(ratio) for ratio in time_ratios(rows)],
        "FLOPs / DeACL": [escape_latex(ratio) for ratio in flops_ratios(rows)],
    }
    if not any(row.ra_on_aa for row in rows):
        del columns["RA, images of AA"]
    lines = [" & ".join(cells) + r" \\" for cells in zip(*columns.values(), strict=True)]
    notes = [rf"\textsuperscript{{{i}}}{escape_latex(doubt)}" for i, doubt in enumerate(doubts, 1)]
    notes += [escape_latex(line) for line in machine_lines(rows, machines)]
    label = "-".join(filter(None, (key.dataset, key.tier, key.fidelity, key.protocol, key.attack)))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_caption(key, rows)}}}",
            rf"\label{{tab:{''.join(c if c.isalnum() else '-' for c in label)}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(columns) - 1)}}}",
            r"\toprule",
            " & ".join(columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {note}" for note in notes),
            r"\end{table}",
        ]
    )


def _caption(key: TableKey, rows: Sequence[Row]) -> str:
    facts = rows[0].facts
    parts = [f"{key.dataset}, {protocol_title(key.protocol)}, tier {key.tier}, fidelity {key.fidelity}"]
    parts += [*([] if key.attack else [radius_text("linf", facts.eps)]), *key.departures]
    scores = {name: {s.n for row in rows if (s := getattr(row, name))} for name in ("aa", "ra", "sa")}
    images = ", ".join(f"{name.upper()} {_range(counts)}" for name, counts in scores.items() if counts)
    seeds = _range({len(row.seeds) for row in rows})
    return (
        f"{escape_latex(', '.join(parts))}. Percent of test images ({images}); seeds: {seeds}; one seed with the "
        rf"ends of its 95\,\% Wilson interval, several as mean $\pm$ standard deviation. {_BOLD}"
    )


def _range(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low}--{high}"


def _method(name: str, key: str | None, doubts: Sequence[int]) -> str:
    cite = rf"~\cite{{{key}}}" if key else ""
    return escape_latex(name) + cite + "".join(rf"\textsuperscript{{{number}}}" for number in doubts)


def _aa(row: Row) -> str:
    text = _score(row.aa)
    if row.aa is None or row.rank != 1:
        return text
    value = percent(row.aa.accuracy, row.aa.n)
    return rf"\textbf{{{value}}}{text.removeprefix(value)}"


def _score(score: Score | None) -> str:
    if score is None:
        return escape_latex(DASH)
    value = percent(score.accuracy, score.n)
    if isinstance(score.spread, str):
        return rf"{value} {{\scriptsize$\pm$ {score.spread}}}"
    low, high = score.spread
    return rf"{value}$^{{{high}}}_{{{low}}}$"


def _time(row: Row) -> str:
    return escape_latex(DASH if row.pretraining_seconds is None else time_text(row.pretraining_seconds))


def escape_latex(text: str) -> str:
    """Return ``text`` on one line, with what LaTeX would read as markup made literal."""
    return re.sub(r"[\\{}$&#_%~^<>±|–]", lambda found: _LATEX[found[0]], " ".join(text.split()))
