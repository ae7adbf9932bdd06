"""The leaderboard: what records say as Markdown, LaTeX and CSV, on disk and in a README."""

from bench.leaderboard.citations import bibliography, bibtex_entries
from bench.leaderboard.grid import Column
from bench.leaderboard.latex import render_latex
from bench.leaderboard.long import render_csv
from bench.leaderboard.markdown import conditions, render_leaderboard, render_tables
from bench.leaderboard.output import check_leaderboard, write_leaderboard
from bench.leaderboard.readme import render_readme_block
from bench.leaderboard.tables import PUBLISHED_AA, plain_table

__all__ = [
    "PUBLISHED_AA",
    "Column",
    "bibliography",
    "bibtex_entries",
    "check_leaderboard",
    "conditions",
    "plain_table",
    "render_csv",
    "render_latex",
    "render_leaderboard",
    "render_readme_block",
    "render_tables",
    "write_leaderboard",
]
