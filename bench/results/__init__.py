"""The results in records: rows, ranks, doubts and costs, beside the numbers that papers published."""

from bench.results.board import Leaderboard, build_leaderboard
from bench.results.corrections import (
    NEW_RECORD,
    corrections_by_record,
    counted,
    find_correction,
    read_corrections,
)
from bench.results.costs import MeasuredCost, MeasuredStage, MeasuredTable, measured_costs
from bench.results.flat import load_records
from bench.results.groups import Failed, Found, Group, LeftOut, grouped, left_out_of, no_records, read_groups
from bench.results.measured import Measured, load_measured, without_garbage_collection
from bench.results.published import (
    PublishedCosts,
    PublishedNumber,
    headline,
    load_published,
    reference,
)
from bench.results.ratios import CostRatio, cost_ratios
from bench.results.remarks import attack_text, budget_text, label, precision_text, recipe_departures, reliability_flags
from bench.results.rows import Row, TableKey, known_text, rank_text, row_names, table_of
from bench.results.scores import Score, mean_score
from bench.results.sweeps import SweepKey, SweepRow, sweep_key, sweep_label
from bench.results.tiers import tier_called, tier_forms, tier_text
from bench.results.wording import (
    DASH,
    NORMS,
    bare_radius,
    departures_text,
    eps_text,
    escape,
    evaluation_names,
    flops_text,
    machine_text,
    measure_text,
    named,
    percent,
    radius_text,
    settings_text,
    time_text,
)

__all__ = [
    "DASH",
    "NEW_RECORD",
    "NORMS",
    "CostRatio",
    "Failed",
    "Found",
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
    "corrections_by_record",
    "cost_ratios",
    "counted",
    "departures_text",
    "eps_text",
    "escape",
    "evaluation_names",
    "find_correction",
    "flops_text",
    "grouped",
    "headline",
    "known_text",
    "label",
    "left_out_of",
    "load_measured",
    "load_published",
    "load_records",
    "machine_text",
    "mean_score",
    "measure_text",
    "measured_costs",
    "named",
    "no_records",
    "percent",
    "precision_text",
    "radius_text",
    "rank_text",
    "read_corrections",
    "read_groups",
    "recipe_departures",
    "reference",
    "reliability_flags",
    "row_names",
    "settings_text",
    "sweep_key",
    "sweep_label",
    "table_of",
    "tier_called",
    "tier_forms",
    "tier_text",
    "time_text",
    "without_garbage_collection",
]
