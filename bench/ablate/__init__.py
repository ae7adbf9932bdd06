"""Ablations: a grid of settings with one run per cell, shared stages trained once, beside the paper's numbers."""

from bench.ablate.ablation import Ablation, Cell, Projection, plan_ablation, project_ablation
from bench.ablate.execution import CellResult, carry_out
from bench.ablate.report import AblationReport, AblationRow, PaperColumn, report_ablation
from bench.ablate.tables import choose_table, parse_grid

__all__ = [
    "Ablation",
    "AblationReport",
    "AblationRow",
    "Cell",
    "CellResult",
    "PaperColumn",
    "Projection",
    "carry_out",
    "choose_table",
    "parse_grid",
    "plan_ablation",
    "project_ablation",
    "report_ablation",
]
