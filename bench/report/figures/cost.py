"""Robustness against what pre-training cost, one mark a row (DeACL, figure 1)."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from bench.report.figures.style import GREY, Band, Mark, caption, legend_beside, mark, new_figure, percent_axis, styled

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_TICKS: dict[float, str] = {
    **{seconds: f"{seconds:g} s" for seconds in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)},
    **{minutes * _MINUTE: f"{minutes} min" for minutes in (1, 2, 5, 10, 20, 30)},
    **{hours * _HOUR: f"{hours} h" for hours in (1, 2, 4, 8, 12)},
    **{days * _DAY: f"{days} d" for days in (1, 2, 5, 10, 20, 50, 100)},
}
"""Common durations, the only ones on the axis."""

_ROOM = 0.11
"""Share of the axis that a tick's text needs."""


class CostPoint(NamedTuple):
    """One row: the cost of its pre-training and its accuracies."""

    label: str
    cost: float
    """Of pre-training, above 0: operations or seconds."""
    ra: Band
    aa: Band | None
    """None where AutoAttack was not run."""
    mark: int
    """Number of its mark, different for each point."""


def cost_figure(points: Sequence[CostPoint], *, title: str, note: str, time: bool = False) -> Figure:
    """Return the figure of ``points``: RA as a filled mark, AA as a hollow one, slightly larger.

    Args:
        note: small print: what the bars are, and on which machine a time was taken.
        time: whether the costs are seconds of wall-clock, instead of floating-point operations.
    """
    with styled():
        figure = new_figure(6.6, 3.6)
        axes = figure.add_subplot()
        (_time_axis if time else _operations_axis)(axes, _limits(axes, [point.cost for point in points]))
        handles = [_point(axes, mark(point.mark), point) for point in points]
        handles += [_key("RA, PGD", filled=True)]
        if any(point.aa for point in points):
            handles += [_key("AA, AutoAttack", filled=False)]
        axes.set_title(title)
        percent_axis(axes, max(band.high for point in points for band in (point.ra, point.aa) if band))
        legend_beside(figure, axes, handles)
        caption(figure, note)
        return figure


def _point(axes: Axes, style: Mark, point: CostPoint) -> Line2D:
    if point.aa:
        _bar(axes, style, point.cost, point.aa, face="white", size=9)
    _bar(axes, style, point.cost, point.ra, face=style.colour)
    return Line2D([], [], color=style.colour, marker=style.marker, linestyle="", markersize=7, label=point.label)


def _bar(axes: Axes, style: Mark, cost: float, band: Band, *, face: str, size: int = 7) -> None:
    axes.errorbar(
        [cost],
        [band.mean],
        yerr=[[band.mean - band.low], [band.high - band.mean]],
        color=style.colour,
        marker=style.marker,
        markersize=size,
        markerfacecolor=face,
        markeredgewidth=1.2,
        elinewidth=1,
        capsize=size / 2,
        clip_on=False,
        zorder=3,
    )


def _key(label: str, *, filled: bool) -> Line2D:
    face = GREY if filled else "white"
    return Line2D([], [], color=GREY, marker="o", linestyle="", markersize=6, markerfacecolor=face, label=label)


def _limits(axes: Axes, costs: Sequence[float]) -> tuple[float, float]:
    low, high = min(costs) / 1.6, max(costs) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    return low, high


def _operations_axis(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_xlabel("pre-training, floating-point operations (logarithmic)")
    powers = range(math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1])) + 1)
    marked = {factor * 10.0**power: f"{factor}e{power}" for power in powers for factor in (1, 2, 5)}
    _mark_ticks(axes, limits, marked)


def _time_axis(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_xlabel("pre-training, wall-clock (logarithmic)")
    _mark_ticks(axes, limits, _TICKS)


def _mark_ticks(axes: Axes, limits: tuple[float, float], texts: Mapping[float, str]) -> None:
    """Mark what lies between ``limits``, as far as the texts do not overlap."""
    low, high = limits
    ticks: list[float] = []
    for tick in texts:
        if low <= tick <= high and (not ticks or tick / ticks[-1] > (high / low) ** _ROOM):
            ticks.append(tick)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([texts[tick] for tick in ticks]))
