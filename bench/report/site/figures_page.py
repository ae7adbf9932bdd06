"""The figures: what robustness costs, as measured here and as published, and how it falls as the attack grows."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from bench.report.site.charts import CostPoint, Spec, SweepLine, cost_chart, sweep_chart
from bench.report.site.tables import Group, Line
from bench.report.templating import url
from bench.results import NORMS, Leaderboard, SweepKey, SweepRow, bare_radius, percent, radius_text

_FEWEST = 2
"""With fewer points, a chart shows no more than its table."""
_COST = {False: "pre-training, floating-point operations", True: "pre-training, GPU-days"}
"""By whether the numbers are published. Operations, since wall-clock of different machines cannot be compared."""


class CostFigure(NamedTuple):
    """The charts of one group, and the table of the same numbers."""

    group: Group
    charts: tuple[Spec, ...]
    """AA and RA, each where there are enough points."""
    lines: tuple[Line, ...]
    """What is drawn."""
    without: int
    """Number of lines in none of the charts: their cost was not measured, or there is none."""


class SweepFigure(NamedTuple):
    """Accuracy along one grid: the chart, and the table of the same numbers."""

    key: SweepKey
    attack: str
    chart: Spec
    marks: tuple[str, ...]
    """The values of the grid, as text."""
    rows: tuple[tuple[SweepRow, tuple[str, ...]], ...]
    """Each with its accuracies."""


def sweep_figures(board: Leaderboard) -> list[SweepFigure]:
    """Return the sweeps of ``board``, grid by grid."""
    return [_sweep(key, list(rows)) for key, rows in groupby(board.sweeps, key=lambda row: row.key)]


def _sweep(key: SweepKey, rows: Sequence[SweepRow]) -> SweepFigure:
    settings = key.settings
    by_eps, norm = settings.kind == "eps", settings.norm
    marks = tuple(bare_radius(norm, value) if by_eps else f"{value:g}" for value in settings.grid)
    attack = f"PGD-{settings.steps[0]} at a growing {NORMS[norm]} radius"
    if not by_eps:
        attack = f"PGD at {radius_text(norm, settings.eps[0])} with a growing number of steps"
    accuracies = [tuple(percent(score.accuracy, score.n) for score in row.scores) for row in rows]
    chart = sweep_chart(
        [
            SweepLine(row.label, [100 * score.accuracy for score in row.scores], texts)
            for row, texts in zip(rows, accuracies, strict=True)
        ],
        settings.grid,
        marks,
        title=f"RA under {attack}: {key.dataset}, {key.conditions}",
        x=f"{NORMS[norm]} radius of the attack" if by_eps else "steps of PGD, logarithmic",
        log=not by_eps,
    )
    return SweepFigure(key, attack, chart, marks, tuple(zip(rows, accuracies, strict=True)))


def cost_figures(groups: Sequence[Group], *, root: str, published: bool) -> list[CostFigure]:
    """Return robustness against the cost of pre-training for each of ``groups`` that has enough of both."""
    methods = sorted({line.title for group in groups for line in group.lines})
    figures = []
    for group in groups:
        drawn = tuple(line for line in group.lines if _cost(line, published))
        points = {measure: _points(drawn, measure, root, published) for measure in ("aa", "ra")}
        charts = tuple(
            _draw(group, found, methods, measure, published)
            for measure, found in points.items()
            if len(found) >= _FEWEST
        )
        if charts:
            figures.append(CostFigure(group, charts, drawn, len(group.lines) - len(drawn)))
    return figures


def _cost(line: Line, published: bool) -> float | None:
    return line.cost_sort if published else line.operations


def _points(lines: Sequence[Line], measure: str, root: str, published: bool) -> list[CostPoint]:
    found = []
    for line in lines:
        number, cost = line.numbers[measure], _cost(line, published)
        if number is None or not cost:
            continue
        facts = line.cost if published else f"{line.flops} FLOPs; {line.cost} on {line.machines}"
        name = f"{line.title}, {line.departures}" if line.departures else line.title
        text = " ".join(filter(None, (number.text, number.spread)))
        ends = (number.at, number.low, number.high)
        found.append(CostPoint(line.title, name, cost, *ends, text, facts, root + url(number.page)))
    return found


def _draw(group: Group, points: Sequence[CostPoint], methods: Sequence[str], measure: str, published: bool) -> Spec:
    conditions = ", ".join(filter(None, (group.dataset, group.protocol, group.tier and f"tier {group.tier}")))
    name, how = measure.upper(), "as published" if published else "as measured here"
    title = f"{name} against {_COST[published]}, {how}: {conditions}"
    return cost_chart(points, methods, title=title, x=_COST[published], y=f"{name}, %", published=published)
