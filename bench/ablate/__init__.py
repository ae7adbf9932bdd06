"""Ablations: a grid of settings, each cell a run, what they share trained once, beside the paper's numbers."""

from bench.ablate.grid import choose_table, parse_grid
from bench.ablate.plan import Ablation, Cell, plan_ablation
from bench.ablate.project import Projection, project_ablation
from bench.ablate.report import AblationReport, AblationRow, report
from bench.ablate.work import CellResult, carry_out

__all__ = [
    "Ablation",
    "AblationReport",
    "AblationRow",
    "Cell",
    "CellResult",
    "Projection",
    "carry_out",
    "choose_table",
    "parse_grid",
    "plan_ablation",
    "project_ablation",
    "report",
]
