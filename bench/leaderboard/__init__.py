"""The leaderboard: what records say as Markdown, LaTeX and CSV, on disk and in a README."""

from bench.leaderboard.columns import Column
from bench.leaderboard.csv import render_csv
from bench.leaderboard.latex import bibliography, bibtex_entries, render_latex
from bench.leaderboard.markdown import render_leaderboard, render_readme_block, render_tables
from bench.leaderboard.output import board_files, check_leaderboard, default_board, write_leaderboard
from bench.leaderboard.tables import PUBLISHED_AA, plain_table
from bench.leaderboard.weights import write_weights_page

__all__ = [
    "PUBLISHED_AA",
    "Column",
    "bibliography",
    "bibtex_entries",
    "board_files",
    "check_leaderboard",
    "default_board",
    "plain_table",
    "render_csv",
    "render_latex",
    "render_leaderboard",
    "render_readme_block",
    "render_tables",
    "write_leaderboard",
    "write_weights_page",
]
