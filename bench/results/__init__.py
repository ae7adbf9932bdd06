"""What records say: rows, ranks, doubts and costs, beside the numbers that papers published."""

from bench.results.board import Leaderboard, build_leaderboard
from bench.results.costs import MeasuredCost, MeasuredStage, MeasuredTable, measured_costs
from bench.results.flags import reliability_flags
from bench.results.groups import Group, LeftOut, read_groups
from bench.results.labels import attack_text, budget_text, label
from bench.results.measured import Measured, load_measured
from bench.results.published import PublishedNumber, headline, load_published, published_reference
from bench.results.published_costs import PublishedCosts
from bench.results.rows import Row, Score, TableKey, mean_score, rank_text, row_names
from bench.results.sweeps import SweepKey, SweepRow
from bench.results.wording import (
    DASH,
    NORMS,
    bare_radius,
    duration,
    eps_text,
    escape,
    flops_text,
    percent,
    radius_text,
    settings_text,
)

__all__ = [
    "DASH",
    "NORMS",
    "Group",
    "Leaderboard",
    "LeftOut",
    "Measured",
    "MeasuredCost",
    "MeasuredStage",
    "MeasuredTable",
    "PublishedCosts",
    "PublishedNumber",
    "Row",
    "Score",
    "SweepKey",
    "SweepRow",
    "TableKey",
    "attack_text",
    "bare_radius",
    "budget_text",
    "build_leaderboard",
    "duration",
    "eps_text",
    "escape",
    "flops_text",
    "headline",
    "label",
    "load_measured",
    "load_published",
    "mean_score",
    "measured_costs",
    "percent",
    "published_reference",
    "radius_text",
    "rank_text",
    "read_groups",
    "reliability_flags",
    "row_names",
    "settings_text",
]
