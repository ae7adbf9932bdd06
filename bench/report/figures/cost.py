"""Robustness against what pre-training took, one mark a method (DeACL, figure 1)."""

from collections.abc import Sequence
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
"""Durations that people use, and so the only ones on the axis."""

_ROOM = 0.11
"""Of the axis, that a tick's text needs."""
_SHIFT = 0.018
"""Of the axis."""


class CostPoint(NamedTuple):
    """One method: what its pre-training took and what came of it."""

    label: str
    seconds: float
    """Of pre-training, above 0."""
    ra: Band
    aa: Band | None
    """None where AutoAttack was not run."""
    mark: int
    """Which colour and marker; another for each point."""


def cost_figure(points: Sequence[CostPoint], *, title: str, note: str) -> Figure:
    """Return the figure of ``points``: RA as a filled mark, AA as a hollow one, a hair to the right for its bar.

    Args:
        points: at least one; listed in their order.
        title: what all points have in common.
        note: small print: what the bars are, and on which device the time was taken.
    """
    with styled():
        figure = new_figure(6.6, 3.6)
        axes = figure.add_subplot()
        _time_axis(axes, [point.seconds for point in points])
        handles = [_point(axes, mark(point.mark), point) for point in points]
        handles += [_key("RA, PGD", filled=True)]
        if any(point.aa for point in points):
            handles += [_key("AA, AutoAttack", filled=False)]
        axes.set_title(title)
        percent_axis(axes, max(band.high for point in points for band in (point.ra, point.aa) if band))
        legend_beside(axes, handles)
        caption(figure, note)
        return figure


def _point(axes: Axes, style: Mark, point: CostPoint) -> Line2D:
    if point.aa:
        low, high = axes.get_xlim()
        _bar(axes, style, point.seconds * (high / low) ** _SHIFT, point.aa, face="white")
    _bar(axes, style, point.seconds, point.ra, face=style.colour)
    return Line2D([], [], color=style.colour, marker=style.marker, linestyle="", markersize=7, label=point.label)


def _bar(axes: Axes, style: Mark, seconds: float, band: Band, *, face: str) -> None:
    axes.errorbar(
        [seconds],
        [band.mean],
        yerr=[[band.mean - band.low], [band.high - band.mean]],
        color=style.colour,
        marker=style.marker,
        markersize=7,
        markerfacecolor=face,
        markeredgewidth=1.2,
        elinewidth=1,
        capsize=3,
        clip_on=False,
        zorder=3,
    )


def _key(label: str, *, filled: bool) -> Line2D:
    face = GREY if filled else "white"
    return Line2D([], [], color=GREY, marker="o", linestyle="", markersize=6, markerfacecolor=face, label=label)


def _time_axis(axes: Axes, seconds: Sequence[float]) -> None:
    low, high = min(seconds) / 1.6, max(seconds) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("pre-training time, wall-clock (logarithmic)")
    ticks: list[float] = []
    for tick in _TICKS:
        if low <= tick <= high and (not ticks or tick / ticks[-1] > (high / low) ** _ROOM):
            ticks.append(tick)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([_TICKS[tick] for tick in ticks]))
