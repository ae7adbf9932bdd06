"""Accuracy along a grid of eps or of steps, one line a method (DeACL, figure 3)."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from bench.recipe import Norm
from bench.record import SweepKind
from bench.report.figures.style import Band, caption, legend_beside, mark, new_figure, percent_axis, styled


class SweepLine(NamedTuple):
    """One method along the grid."""

    label: str
    bands: Sequence[Band]
    """One a value of the grid."""
    mark: int
    """Number of its mark, different for each line."""


def sweep_figure(
    lines: Sequence[SweepLine], grid: Sequence[float], *, kind: SweepKind, title: str, note: str, norm: Norm = "linf"
) -> Figure:
    """Return the figure of ``lines`` over ``grid``.

    Args:
        grid: radii (kind "eps"), under Linf drawn in units of 1/255; or steps, at least 1 (kind "steps").
        note: small print: what the bands around the lines are.
    """
    with styled():
        figure = new_figure(6.6, 3.5)
        axes = figure.add_subplot()
        grey = kind == "eps" and norm == "linf"
        x = [255 * value for value in grid] if grey else list(grid)
        handles = [_line(axes, x, line) for line in lines]
        axes.set_title(title)
        percent_axis(axes, max(band.high for line in lines for band in line.bands))
        if kind == "eps":
            _eps_axis(axes, x, "Linf radius of the attack x 255" if grey else "L2 radius of the attack")
        else:
            _steps_axis(axes, x)
        legend_beside(figure, axes, handles)
        caption(figure, note)
        return figure


def _line(axes: Axes, x: Sequence[float], line: SweepLine) -> Line2D:
    style = mark(line.mark)
    axes.fill_between(
        x,
        [band.low for band in line.bands],
        [band.high for band in line.bands],
        color=style.colour,
        alpha=0.16,
        linewidth=0,
    )
    (handle,) = axes.plot(
        x,
        [band.mean for band in line.bands],
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=line.label,
        clip_on=False,  # draw the whole marker at 0 %
        zorder=3,
    )
    return handle


def _eps_axis(axes: Axes, x: Sequence[float], label: str) -> None:
    axes.set_xlabel(label)
    axes.set_xlim(x[0], x[-1] if len(x) > 1 else x[0] + 1)
    if len(x) <= 12:
        axes.xaxis.set_major_locator(FixedLocator(list(x)))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:.3g}" for value in x]))


def _steps_axis(axes: Axes, x: Sequence[float]) -> None:
    axes.set_xlabel("steps of PGD (logarithmic)")
    axes.set_xscale("log")
    axes.set_xlim(x[0], x[-1] if len(x) > 1 else x[0] + 1)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(x) <= 12:
        axes.xaxis.set_major_locator(FixedLocator(list(x)))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in x]))
