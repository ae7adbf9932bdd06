"""Accuracy at every radius, from the smallest perturbation that a minimum-norm attack found for each image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bench.recipe import Norm
from bench.report.figures.style import GREY, caption, legend_beside, mark, new_figure, percent_axis, styled

_SHOWN = 0.98
"""The axis ends where this share of the finite sizes is."""


class MinimalLine(NamedTuple):
    """One recipe's robustness curve."""

    label: str
    sizes: NDArray[np.float32]
    """[n], the smallest perturbation of each image, over all seeds: 0 where it is wrong already, perhaps infinite."""
    mark: int
    """Number of its mark, different for each line."""


def minimal_figure(lines: Sequence[MinimalLine], *, norm: Norm, eps: float, title: str, note: str) -> Figure:
    """Return the figure of ``lines``: the share of images that no perturbation of a size breaks, against the size.

    Args:
        lines: at least one.
        norm: of the sizes; under Linf they are drawn in units of 1/255.
        eps: the radius of the evaluation, which a dotted line shows.
        title: of the figure.
        note: small print.
    """
    unit = 255.0 if norm == "linf" else 1.0
    sizes = np.concatenate([line.sizes for line in lines])
    end = unit * max(eps, float(np.quantile(sizes[np.isfinite(sizes)], _SHOWN)) if np.isfinite(sizes).any() else eps)
    with styled():
        figure = new_figure(6.6, 3.5)
        axes = figure.add_subplot()
        handles = [_line(axes, line, unit, end) for line in lines]
        axes.axvline(unit * eps, color=GREY, linestyle=":", linewidth=1)
        axes.set_title(title)
        axes.set_xlim(0, end)
        axes.set_xlabel("Linf radius x 255" if norm == "linf" else "L2 radius")
        percent_axis(axes, max(100 * float((line.sizes > 0).mean()) for line in lines))
        if len(lines) > 1:
            legend_beside(figure, axes, handles)
        caption(figure, note)
        return figure


def _line(axes: Axes, line: MinimalLine, unit: float, end: float) -> Line2D:
    style, n = mark(line.mark), len(line.sizes)
    broken = np.sort(line.sizes[np.isfinite(line.sizes)])
    # At a size the images broken by it are counted out: the curve falls there, and is flat in between.
    x = np.concatenate([[0.0], unit * broken, [end]])
    left = 100 * (n - np.arange(len(broken) + 1)) / n
    (handle,) = axes.step(
        x, [*left, left[-1]], where="post", color=style.colour, linestyle=style.dash, label=line.label
    )
    return handle
