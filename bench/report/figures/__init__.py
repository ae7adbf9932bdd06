"""Figures: rendering takes numbers and returns a matplotlib figure; drawing takes results and writes files."""

from bench.report.figures.cost import CostPoint, cost_figure
from bench.report.figures.curves import History, curves_figure
from bench.report.figures.draw import Choice, Drawn, draw_cost, draw_curves, draw_minimal, draw_sweeps
from bench.report.figures.minimal import MinimalLine, minimal_figure
from bench.report.figures.style import COLOURS, GREY, Band, encoded, new_figure, save_figure, styled
from bench.report.figures.sweep import SweepLine, sweep_figure
from bench.report.figures.tsne import Panel, draw_tsne, embed, tsne_figure

__all__ = [
    "COLOURS",
    "GREY",
    "Band",
    "Choice",
    "CostPoint",
    "Drawn",
    "History",
    "MinimalLine",
    "Panel",
    "SweepLine",
    "cost_figure",
    "curves_figure",
    "draw_cost",
    "draw_curves",
    "draw_minimal",
    "draw_sweeps",
    "draw_tsne",
    "embed",
    "encoded",
    "minimal_figure",
    "new_figure",
    "save_figure",
    "styled",
    "sweep_figure",
    "tsne_figure",
]
