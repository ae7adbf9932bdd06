"""Accuracy along a grid, one line a method, each named at its end."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from bench.report.charts.axis import Axis, linear_ticks

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 190, 22, 50
_LINE = 15.0
_STYLES = 7
"""Kinds of line that the style sheet knows."""
_MOST_TICKS = 10


class Line(NamedTuple):
    """One method along the grid."""

    name: str
    values: Sequence[float]
    """In percent, one a value of the grid."""


def lines(found: Sequence[Line], grid: Sequence[float], marks: Sequence[str], *, title: str, x: str, log: bool) -> str:
    """Return the chart of ``found`` over ``grid`` as an SVG element.

    Args:
        found: at least one line.
        grid: at least one value, ascending, and positive for a logarithmic axis.
        marks: how each value of the grid reads.
        title: for those who listen to the page.
        x: what the grid is.
        log: whether its axis is logarithmic.
    """
    across = Axis(grid[0], grid[-1], _LEFT, _WIDTH - _RIGHT, log=log)
    top = max(value for line in found for value in line.values)
    up = Axis(0, min(100, 10 * int(top / 10 + 1.05)), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg class="lines" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">',
        *_frame(across, up, grid, marks),
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(x)}</text>',
        f'<text class="axis" x="{_LEFT}" y="{_TOP - 8}">RA, %</text>',
    ]
    ends = _spread([up.place(line.values[-1]) for line in found])
    for number, (line, end) in enumerate(zip(found, ends, strict=True)):
        places = [f"{across.place(at):g} {up.place(value):g}" for at, value in zip(grid, line.values, strict=True)]
        style = f"series s{number % _STYLES}"
        parts.append(f'<g class="{style}"><path class="line" d="M{"L".join(places)}"/>')
        parts += ['<circle class="dot" cx="{}" cy="{}" r="3"/>'.format(*place.split()) for place in places]
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{end + 4:g}">{escape(line.name)}</text></g>')
    return "".join([*parts, "</svg>"])


def _frame(across: Axis, up: Axis, grid: Sequence[float], marks: Sequence[str]) -> Iterator[str]:
    for tick in linear_ticks(up.low, up.high, 5):
        at = up.place(tick)
        yield f'<path class="grid" d="M{_LEFT} {at}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{at + 4:g}" text-anchor="end">{tick:g}</text>'
    every = -(-len(grid) // _MOST_TICKS)
    for value, mark in list(zip(grid, marks, strict=True))[::every]:
        yield f'<text x="{across.place(value)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escape(mark)}</text>'


def _spread(places: Sequence[float]) -> list[float]:
    """Return ``places`` moved down just so far that labels there do not cover each other."""
    moved = list(places)
    free = float("-inf")
    for number in sorted(range(len(places)), key=lambda number: places[number]):
        moved[number] = max(places[number], free)
        free = moved[number] + _LINE
    return moved
