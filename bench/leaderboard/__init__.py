"""The leaderboard: every table is generated from records, beside the numbers that papers published."""

from bench.leaderboard.board import Leaderboard, build_leaderboard
from bench.leaderboard.citations import bibliography, bibtex_entries
from bench.leaderboard.groups import LeftOut
from bench.leaderboard.latex import render_latex
from bench.leaderboard.long import render_csv
from bench.leaderboard.markdown import conditions, render_leaderboard, render_tables
from bench.leaderboard.output import check_leaderboard, write_leaderboard
from bench.leaderboard.published import PublishedNumber, load_published, published_reference
from bench.leaderboard.readme import render_readme_block
from bench.leaderboard.rows import Row, Score
from bench.leaderboard.sweeps import SweepRow
from bench.leaderboard.tables import PUBLISHED_AA, plain_table

__all__ = [
    "PUBLISHED_AA",
    "Leaderboard",
    "LeftOut",
    "PublishedNumber",
    "Row",
    "Score",
    "SweepRow",
    "bibliography",
    "bibtex_entries",
    "build_leaderboard",
    "check_leaderboard",
    "conditions",
    "load_published",
    "plain_table",
    "published_reference",
    "render_csv",
    "render_latex",
    "render_leaderboard",
    "render_readme_block",
    "render_tables",
    "write_leaderboard",
]
