"""The style of figures, with lines that differ for colour-blind readers and in black and white; and saving figures."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.files import write_bytes

# Okabe and Ito, "Color Universal Design" (2008), without its yellow, which is hardly visible on white; then six more,
# each chosen far from all before it for dichromats, so that each of the bench's methods has a colour of its own.
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
COLOURS = (*_OKABE_ITO, "#4C342A", "#733F6E", "#4D45E6", "#280073", "#0000D8", "#6FC64E")
MARKERS = ("o", "s", "^", "D", "v", "<", ">", "p", "h", "P", "X", "*", "d")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
)

_DPI = 200

_LEGEND_ENTRY, _LEGEND_LINE = 0.21, 0.165
"""Height in inches of an entry of a legend of one line, and of each line more."""
_LEGEND_COLUMN, _BELOW = 2.6, 0.3
"""Width in inches of a column of a legend, and what the small print below needs."""

INK, GREY, RULE = "#222222", "#666666", "#DDDDDD"

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": 9,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "ssl-robustness-bench",  # element names in an SVG derive from it, not from chance
}


class Mark(NamedTuple):
    """How one line or point set differs from the others: by colour, and also without it."""

    colour: str
    marker: str
    dash: Any


def mark(number: int) -> Mark:
    """Return the mark with this number: the first 65 differ even without colour.

    Numbers 13 apart share a colour, and differ in marker and dashes.
    """
    rest, place = divmod(number, len(COLOURS))
    marker = (place + rest) % len(MARKERS)
    return Mark(COLOURS[place], MARKERS[marker], _DASHES[(marker + rest) % len(_DASHES)])


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the bench's style inside the block, whatever the user's matplotlibrc says, and leave it as it was."""
    with rc_context():
        rcdefaults()
        rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, drawn by Agg and without global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class Band(NamedTuple):
    """A mean accuracy and what surrounds it, in percent."""

    mean: float
    low: float
    high: float


def percent_axis(axes: Axes, top: float) -> None:
    """Make the y axis of ``axes`` run from 0 to a round number of percent above ``top``."""
    axes.set_ylim(0, min(100, 10 * int(top / 10 + 1.05)))
    axes.set_ylabel("accuracy [%]")


def legend_beside(figure: Figure, axes: Axes, handles: Sequence[Artist]) -> None:
    """Put the legend to the right of ``axes``, where no curve can run under it.

    A legend of many entries makes ``figure`` higher, up to twice, and then takes several columns, which make it wider.
    """
    width, height = figure.get_size_inches()
    heights = [_LEGEND_ENTRY + _LEGEND_LINE * str(handle.get_label()).count("\n") for handle in handles]
    columns = ceil(sum(heights) / (2 * height))
    needed = max(float(sum(column)) for column in np.array_split(heights, columns))  # matplotlib splits them like this
    figure.set_size_inches(width + (columns - 1) * _LEGEND_COLUMN, max(height, needed + _BELOW))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0, ncols=columns)


def heading(figure: Figure, text: str) -> None:
    """Put the title of a figure of several panels above them, in as many lines as its width requires."""
    size = 10
    figure.suptitle(_filled(figure, text, 0.68 * size), x=0.01, ha="left", fontweight="bold", fontsize=size)


def caption(figure: Figure, text: str) -> None:
    """Put small print below ``figure``, in as many lines as its width requires."""
    size = 7.5
    figure.supxlabel(_filled(figure, text, 0.52 * size), x=0.01, ha="left", fontsize=size, color=GREY)


def _filled(figure: Figure, text: str, letter: float) -> str:
    """Return ``text`` in lines that fit ``figure``; ``letter`` is the mean width of a letter, in points."""
    return fill(text, int(figure.get_figwidth() * 72 / letter))


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``figure`` as ``name``.png and .svg into ``folder``, atomically, and return their paths.

    Raises:
        BenchError: the folder cannot be written.
    """
    paths = []
    for kind in ("png", "svg"):
        path = folder / f"{name}.{kind}"
        write_bytes(path, encoded(figure, kind))
        figure.set_layout_engine("none")  # laid out once for both files: it takes half of the time
        paths.append(path)
    return paths


def encoded(figure: Figure, kind: str) -> bytes:
    """Return ``figure`` as the content of a file of this kind, "png" or "svg", without date or program version."""
    buffer = io.BytesIO()
    # None leaves an entry out that matplotlib would otherwise fill in.
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with styled():
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
