"""The figures: what robustness costs, as measured here and as published, and how it ends as the attack grows."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote

from bench.leaderboard import Leaderboard, SweepRow
from bench.leaderboard.sweeps import SweepKey
from bench.leaderboard.wording import eps_text, percent
from bench.report import charts
from bench.report.charts import Point, scatter
from bench.report.site.tables import Group, Line

_SECONDS: dict[float, str] = {
    **{1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 60: "1 min", 180: "3 min", 600: "10 min", 1800: "30 min"},
    **{3600: "1 h", 10800: "3 h", 36000: "10 h", 86400: "1 day", 3 * 86400: "3 days", 10 * 86400: "10 days"},
    **{30 * 86400: "30 days", 100 * 86400: "100 days"},
}
_DAYS: dict[float, str] = {
    0.1: "0.1",
    0.2: "0.2",
    0.5: "0.5",
    1: "1",
    2: "2",
    5: "5",
    10: "10",
    20: "20",
    50: "50",
    100: "100",
}
_FEWEST = 2
"""Points below which a chart says nothing that its table does not."""


class Figure(NamedTuple):
    """One chart."""

    group: Group
    measure: str
    svg: str
    without: int
    """Lines of the group that have no place in it: their cost was not measured, or is none."""


class SweepFigure(NamedTuple):
    """Accuracy along one grid: the chart, and the table of the same numbers."""

    key: SweepKey
    attack: str
    svg: str
    marks: tuple[str, ...]
    """The values of the grid, as they read."""
    rows: tuple[tuple[SweepRow, tuple[str, ...]], ...]
    """Each with its accuracies."""


def sweep_figures(board: Leaderboard) -> list[SweepFigure]:
    """Return the sweeps of ``board``, grid by grid."""
    return [_sweep(key, list(rows)) for key, rows in groupby(board.sweeps, key=lambda row: row.key)]


def _sweep(key: SweepKey, rows: Sequence[SweepRow]) -> SweepFigure:
    settings = key.settings
    by_eps, norm = settings.kind == "eps", "L2 " if settings.norm == "l2" else ""
    marks = tuple(eps_text(value) if by_eps else f"{value:g}" for value in settings.grid)
    attack = f"PGD-{settings.steps[0]} at growing {norm}eps"
    if not by_eps:
        attack = f"PGD at {norm}eps {eps_text(settings.eps[0])} with ever more steps"
    svg = charts.lines(
        [charts.Line(row.label.partition(" (")[0], [100 * score.accuracy for score in row.scores]) for row in rows],
        settings.grid,
        marks,
        title=f"RA under {attack}: {key.dataset}, {key.protocol.upper()}, tier {key.tier}, {key.fidelity}",
        x="radius eps of the attack" if by_eps else "steps of PGD, logarithmic",
        log=not by_eps,
    )
    accuracies = [tuple(percent(score.accuracy, score.n) for score in row.scores) for row in rows]
    return SweepFigure(key, attack, svg, marks, tuple(zip(rows, accuracies, strict=True)))


def cost_figures(groups: Sequence[Group], *, root: str, published: bool) -> list[Figure]:
    """Return robustness against the cost of pre-training for each of ``groups`` that has enough of both.

    Args:
        groups: what the index shows.
        root: the site's folder as seen from the page.
        published: whether the groups hold published numbers.
    """
    figures = []
    for group in groups:
        # AutoAttack tells more, where it was measured at all.
        measure = "aa" if sum(line.numbers["aa"] is not None for line in group.lines) >= _FEWEST else "ra"
        points = [point for line in group.lines if (point := _point(line, measure, root, published))]
        if len(points) >= _FEWEST:
            svg = _draw(group, points, measure, published)
            figures.append(Figure(group, measure.upper(), svg, len(group.lines) - len(points)))
    return figures


def _point(line: Line, measure: str, root: str, published: bool) -> Point | None:
    number = line.numbers[measure]
    if number is None or not line.cost_sort:
        return None
    page, _, anchor = number.page.partition("#")
    href = f"{root}{quote(page)}" + (f"#{anchor}" if anchor else "")
    interval = (number.low, number.high) if number.high > number.low else None
    return Point(line.title, line.departures, line.cost_sort, number.at, interval, href, published)


def _draw(group: Group, points: Sequence[Point], measure: str, published: bool) -> str:
    conditions = f"{group.dataset}, {group.protocol}"
    if published:
        title = f"{measure.upper()} against GPU-days, as published: {conditions}"
        return scatter(points, title=title, x="pre-training, GPU-days", y=f"{measure.upper()}, %", marks=_DAYS)
    title = f"{measure.upper()} against pre-training time: {conditions}, tier {group.tier}, {group.fidelity}"
    return scatter(points, title=title, x="pre-training, wall-clock", y=f"{measure.upper()}, %", marks=_SECONDS)
