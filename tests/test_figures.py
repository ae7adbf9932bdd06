"""Figures: they show the numbers they were given, are told apart without colour, and never change by themselves."""

import itertools
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.errors import BenchError
from bench.report.figures import (
    Band,
    CostPoint,
    MinimalLine,
    Panel,
    SweepLine,
    cost_figure,
    curves_figure,
    embed,
    encoded,
    minimal_figure,
    save_figure,
    sweep_figure,
    tsne_figure,
)
from bench.report.figures.style import COLOURS, mark

GRID = (0.0, 8 / 255, 16 / 255)
HISTORY = {"stage:ssl": [{"loss": 3.0, "lr": 0.1}, {"loss": 2.0, "lr": 0.05}], "protocol:slf": [{"accuracy": 0.5}]}


def lines(count: int = 2) -> list[SweepLine]:
    return [
        SweepLine(f"method {n}", [Band(80 - n, 75 - n, 85 - n), Band(40 + n, 30, 50), Band(2, 0, 4)], n)
        for n in range(count)
    ]


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Return 60 points in three clusters of a space of 5 dimensions, and their classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    return (10 * np.eye(5)[labels] + rng.normal(size=(60, 5))).astype(np.float32), labels


FIGURES: dict[str, Callable[[], Figure]] = {
    "eps": lambda: sweep_figure(lines(), GRID, kind="eps", title="title", note="note"),
    "steps": lambda: sweep_figure(lines(), (1, 10, 100), kind="steps", title="title", note="note"),
    "minimal": lambda: minimal_figure(
        [MinimalLine(f"line {n}", np.array([0, 0.01 + n / 100, 0.05, np.inf], "float32"), n) for n in range(2)],
        norm="linf",
        eps=8 / 255,
        title="title",
        note="note",
    ),
    "cost": lambda: cost_figure(
        [CostPoint("a", 30, Band(50, 45, 55), Band(40, 35, 45), 0), CostPoint("b", 3e5, Band(9, 8, 10), None, 1)],
        title="title",
        note="note",
    ),
    "curves": lambda: curves_figure({"seed 0": HISTORY, "seed 1": HISTORY}, title="title"),
    "tsne": lambda: tsne_figure(
        [Panel(name, clusters()[0][:, :2], clusters()[1]) for name in ("one", "two")], "xyz", title="title"
    ),
}


def drawn_lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.get_lines()}


# What they show


def test_a_sweep_shows_each_mean_and_its_band() -> None:
    (axes,) = FIGURES["eps"]().axes
    for line in lines():
        drawn = drawn_lines(axes)[line.label]
        assert drawn.get_xydata() == pytest.approx(
            np.array([(x, band.mean) for x, band in zip((0, 8, 16), line.bands, strict=True)])
        )
    for line, band in zip(lines(), axes.collections, strict=True):
        corners = {(float(x), float(y)) for x, y in np.asarray(band.get_paths()[0].vertices).round(6)}
        assert {(0.0, line.bands[0].low), (0.0, line.bands[0].high), (16.0, 0.0), (16.0, 4.0)} <= corners


def test_steps_are_on_a_logarithmic_axis_marked_where_they_were_measured() -> None:
    (axes,) = FIGURES["steps"]().axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "10", "100"]


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path) -> None:
    point = CostPoint(r"$\method$ SSL", 30, Band(50, 45, 55), None, 0)
    histories = {"seed 0": {"stage:ssl": [{"loss": 1.0, r"$\lam$": 0.5}]}}
    for figure in (cost_figure([point], title="A$x$", note="$"), curves_figure(histories, title=r"$\method$")):
        save_figure(figure, tmp_path, "dollars")


def test_a_long_heading_stays_within_its_figure() -> None:
    title = "t, tier tiny, uniform fidelity, SLF: " + ", ".join(f"stage{n}.batch_size=2{n}" for n in range(12))
    panel = Panel("one", clusters()[0][:, :2], clusters()[1])
    for figure in (curves_figure({"seed 0": HISTORY}, title=title), tsne_figure([panel], "xyz", title=title)):
        figure.draw_without_rendering()
        (heading,) = (text for text in figure.texts if text.get_text().split() == title.split())
        assert heading.get_window_extent().x1 <= figure.bbox.x1


def test_one_value_is_a_figure_too() -> None:
    line = SweepLine("alone", [Band(50, 40, 60)], 0)
    for kind, grid in (("eps", (0.0,)), ("steps", (1,))):
        (axes,) = sweep_figure([line], grid, kind=kind, title="", note="").axes  # type: ignore[arg-type]
        low, high = axes.get_xlim()
        assert low < high


@pytest.mark.parametrize(("top", "limit"), [(0, 10), (4, 10), (31, 40), (88, 90), (97, 100), (100, 100)])
def test_the_accuracy_axis_holds_what_it_shows(top: float, limit: float) -> None:
    line = SweepLine("x", [Band(top, 0, top)], 0)
    (axes,) = sweep_figure([line], (0.0,), kind="eps", title="", note="").axes
    assert axes.get_ylim() == (0, limit)


def test_cost_shows_ra_filled_and_aa_hollow() -> None:
    (axes,) = FIGURES["cost"]().axes
    found = {(float(np.asarray(line.get_ydata())[0]), line.get_markerfacecolor()) for line in axes.get_lines()}
    assert {(50.0, mark(0).colour), (40.0, "white"), (9.0, mark(1).colour)} <= found
    assert {float(np.asarray(line.get_xdata())[0]) for line in axes.get_lines()} == {30, 3e5}, "both at the true cost"
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("seconds", [0.3, 4.0, 90.0, 3000.0, 2e5, 6e6])
def test_any_cost_has_its_ticks(seconds: float) -> None:
    point = CostPoint("x", seconds, Band(50, 40, 60), None, 0)
    for longest, time in itertools.product((2 * seconds, 400 * seconds), (True, False)):
        (axes,) = cost_figure([point, point._replace(cost=longest)], title="", note="", time=time).axes
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert low < seconds < longest < high
        assert ticks
        assert all(later / earlier > (high / low) ** 0.1 for earlier, later in pairwise(ticks)), "texts would overlap"


def test_curves_have_a_panel_for_every_quantity_of_every_phase() -> None:
    panels = [axes for axes in FIGURES["curves"]().axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == ["loss", "learning rate", "accuracy"]
    for axes in panels:
        assert len(axes.get_lines()) == 2
    assert np.array_equal(panels[0].get_lines()[0].get_xydata(), [(1, 3.0), (2, 2.0)])


def test_tsne_keeps_clusters_together_and_is_always_the_same() -> None:
    features, labels = clusters()
    points = embed(features)
    assert points.shape == (60, 2)
    assert np.array_equal(points, embed(features))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(1)] == labels).mean() > 0.95
    assert embed(features[:4]).shape == (4, 2)


def test_tsne_shows_every_image_in_the_mark_of_its_class() -> None:
    features, labels = clusters()
    axes = FIGURES["tsne"]().axes[0]
    assert sum(len(np.asarray(found.get_offsets())) for found in axes.collections) == 60
    for number, found in enumerate(axes.collections):
        assert np.allclose(found.get_offsets(), features[labels == number][:, :2])
        assert tuple(np.asarray(found.get_facecolor())[0, :3]) == to_rgb(mark(number).colour)
    (legend,) = FIGURES["tsne"]().legends
    assert [text.get_text() for text in legend.texts] == ["x", "y", "z"]


@pytest.mark.parametrize("count", [10, 20, 21, 100])
@pytest.mark.parametrize("letters", [1, 300])
def test_names_of_classes_leave_room_for_the_points(count: int, letters: int) -> None:
    names = [f"{number:03d}" + letters * "x" for number in range(count)]
    points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    figure = tsne_figure([Panel("one", points, np.arange(400) % count)], names, title="title")
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().height > figure.bbox.height / 4
    if count > 20:
        assert not figure.legends
        assert any(f"{count} classes, without a legend" in " ".join(text.get_text().split()) for text in figure.texts)
        return
    (legend,) = figure.legends
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert [text.get_text()[:3] for text in legend.texts] == [name[:3] for name in names]


# How they look


def test_lines_are_told_apart_without_colour() -> None:
    marks = [mark(number) for number in range(65)]
    assert len({(style.marker, str(style.dash)) for style in marks}) == 65
    assert len({style.marker for style in marks[:13]}) == 13, "as many as there are methods"
    assert len({(mark(number).colour, mark(number).marker) for number in range(169)}) == 169


BLIND = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}
"""On linear RGB. Source: Vienot, Brettel and Mollon, "Digital video colourmaps for checking the legibility of
displays by dichromats", Color Research and Application 24 (1999)."""


def nearest(colours: Sequence[str], matrix: list[list[float]]) -> float:
    """Return the distance of the two colours that are hardest to tell apart."""
    seen = [(np.array(matrix) @ np.array(to_rgb(c)) ** 2.2).clip(0, 1) ** (1 / 2.2) for c in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))


def test_the_colour_blind_tell_all_colours_apart() -> None:
    usual = [f"C{number}" for number in range(len(COLOURS))]
    assert min(nearest(usual, matrix) for matrix in BLIND.values()) < 0.1
    assert min(nearest(COLOURS, matrix) for matrix in BLIND.values()) > 0.14


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_numbers_give_the_same_bytes(name: str, kind: str) -> None:
    first = encoded(FIGURES[name](), kind)
    with mpl.rc_context({"font.size": 30, "savefig.dpi": 20, "lines.linewidth": 9}):
        assert encoded(FIGURES[name](), kind) == first, "the user's own settings must not change it"
    assert b"dc:date" not in first
    assert b"Matplotlib v" not in first


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_leaves_matplotlib_as_it_was(name: str) -> None:
    # Values that no style has, so that a leak shows whatever was drawn before in this process.
    own = {"font.size": 31.0, "axes.linewidth": 7.0, "lines.linewidth": 9.0, "legend.frameon": True, "axes.grid": False}
    with mpl.rc_context(own):  # type: ignore[arg-type]
        before = dict(mpl.rcParams)
        encoded(FIGURES[name](), "svg")
        assert dict(mpl.rcParams) == before
        assert own.items() <= dict(mpl.rcParams).items()


def test_small_print_ends_inside_the_figure() -> None:
    note = "bars: 95 % interval over 100 or 360 images; " * 3 + "time on a machine of a long name, 16 threads"
    figure = cost_figure([CostPoint("a", 30, Band(50, 45, 55), None, 0)], title="title", note=note)
    figure.draw_without_rendering()
    (text,) = [text for text in figure.texts if text.get_text().startswith("bars")]
    box, whole = text.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1
    assert whole.y0 <= box.y0


def test_a_method_has_one_colour_and_no_other_method_has_it() -> None:
    found = [
        CostPoint(f"{method} {row}", 30, Band(50, 45, 55), None, method + 13 * row)
        for method in range(13)
        for row in range(2)
    ]
    (axes,) = cost_figure(found, title="", note="").axes
    legend = axes.get_legend()
    assert legend is not None
    colours = [str(handle.get_color()) for handle in legend.get_lines()[:26]]
    assert colours[::2] == colours[1::2]
    assert len(set(colours)) == 13
    assert len({str(handle.get_marker()) for handle in legend.get_lines()[:26:2]}) == 13
    assert len({(handle.get_color(), str(handle.get_marker())) for handle in legend.get_lines()[:26]}) == 26


def test_a_figure_is_written_as_png_and_svg(tmp_path: Path) -> None:
    png, svg = save_figure(FIGURES["eps"](), tmp_path / "new", "name")
    assert (png.name, svg.name) == ("name.png", "name.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot write"):
        save_figure(FIGURES["eps"](), tmp_path / "file", "name")


@pytest.mark.parametrize("count", [1, 12, 24, 60])
def test_a_long_legend_stays_on_its_figure_and_leaves_the_axes_their_width(count: int) -> None:
    long = [line._replace(label="a recipe of a method\n  (with its settings,\n  all of them)") for line in lines(count)]
    figure = sweep_figure(long, GRID, kind="eps", title="title", note="note")
    encoded(figure, "png")  # laid out
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    box, inches = legend.get_window_extent(), figure.get_size_inches()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 < box.y0 < box.y1 <= figure.bbox.y1
    assert axes.get_position().width * inches[0] > 2.5
