"""The features of test images in the plane, by t-SNE, one panel a run (DeACL, figure 4)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bench.report.figures.style import RULE, heading, mark, new_figure, styled

Points = NDArray[np.float32]
"""[N, 2]."""

_PERPLEXITY = 30.0  # scikit-learn's default
_ACROSS = 4
_NAMED = 20
"""Classes up to which each is named in the panel; beyond, the names would hide the points."""


class Panel(NamedTuple):
    """One run."""

    title: str
    points: Points
    labels: NDArray[np.int64]
    """[N], position in the class names."""


def embed(features: NDArray[np.float32]) -> Points:
    """Return ``features`` [N, D], N >= 4, in the plane: [N, 2], the same at every call.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; scikit-learn's code.
    """
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0)
    return np.asarray(tsne.fit_transform(features), dtype=np.float32)


def tsne_figure(panels: Sequence[Panel], classes: Sequence[str], *, title: str, across: int = _ACROSS) -> Figure:
    """Return the figure of ``panels``, points coloured and shaped by class.

    Args:
        panels: at least one.
        classes: the names of the classes.
        title: what all panels have in common.
        across: panels in a row.
    """
    across = min(len(panels), across)
    down = -(-len(panels) // across)
    with styled():
        figure = new_figure(max(2.5 * across, 4.0), 2.6 * down + 0.6)
        grid = figure.subplots(down, across, squeeze=False).flat
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel, classes)
        heading(figure, title)
        figure.legend(
            handles=_legend(classes),
            loc="outside lower left",
            ncols=min(len(classes), 5 * across),
            handlelength=1,
            columnspacing=1.4,
        )
        return figure


def _draw(axes: Axes, panel: Panel, classes: Sequence[str]) -> None:
    axes.set_title(panel.title, fontsize=9, fontweight="normal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set(visible=True, color=RULE)
    size = min(12.0, 4000 / len(panel.points))
    for number, name in enumerate(classes):
        points = panel.points[panel.labels == number]
        if not len(points):
            continue
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            color=mark(number).colour,
            marker=mark(number).marker,
            linewidths=0,
            alpha=0.75,
        )
        if len(classes) <= _NAMED:
            _name(axes, points, name)


def _legend(classes: Sequence[str]) -> list[Line2D]:
    marks = map(mark, range(len(classes)))
    return [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle="", label=name)
        for style, name in zip(marks, classes, strict=True)
    ]


def _name(axes: Axes, points: Points, name: str) -> None:
    """Write the name of a class where the densest of its points are, legible on any colour."""
    x, y = _medoid(points)
    text = axes.text(x, y, name, ha="center", va="center", fontsize=8.5, fontweight="bold", zorder=4)
    text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])


def _medoid(points: Points) -> tuple[float, float]:
    """Return the point with the smallest sum of distances to the others; a mean may lie where there is none."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2).sum(axis=1)
    x, y = points[int(distances.argmin())]
    return float(x), float(y)
