"""The leaderboard: every table is generated from records, beside the numbers that papers published."""

from bench.leaderboard.board import Leaderboard, build_leaderboard
from bench.leaderboard.groups import LeftOut
from bench.leaderboard.markdown import render_leaderboard
from bench.leaderboard.output import check_leaderboard, write_leaderboard
from bench.leaderboard.published import PublishedNumber, load_published, published_reference
from bench.leaderboard.readme import render_readme_block
from bench.leaderboard.rows import Row, Score

__all__ = [
    "Leaderboard",
    "LeftOut",
    "PublishedNumber",
    "Row",
    "Score",
    "build_leaderboard",
    "check_leaderboard",
    "load_published",
    "published_reference",
    "render_leaderboard",
    "render_readme_block",
    "write_leaderboard",
]
