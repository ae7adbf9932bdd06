"""Accuracy against cost: one mark a row, with its interval and a link to what it comes from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from bench.report.charts.axis import Axis, linear_ticks, log_ticks

_WIDTH, _HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 18, 52
_LETTER, _LINE = 6.8, 14.0
"""About how wide a letter of a label is, and how high a line."""


class Point(NamedTuple):
    """One mark."""

    name: str
    details: str
    """What the label leaves out."""
    cost: float
    accuracy: float
    """In percent."""
    interval: tuple[float, float] | None
    """In percent."""
    href: str
    published: bool = False


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        sideways = self.left < other.right and other.left < self.right
        return sideways and self.top < other.bottom and other.top < self.bottom


def scatter(points: Sequence[Point], *, title: str, x: str, y: str, marks: Mapping[float, str]) -> str:
    """Return the chart of ``points`` as an SVG element: cost on a logarithmic axis, accuracy on a linear one.

    Args:
        points: at least one, of positive cost.
        title: for those who listen to the page.
        x: what the cost is.
        y: what the accuracy is.
        marks: costs that may be marked on the axis, each with its text.
    """
    across, up = _axes(points)
    parts = [
        f'<svg class="scatter" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">',
        *_frame(across, up, marks),
        f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(x)}</text>',
        f'<text class="axis" x="{_LEFT}" y="{_TOP - 4}">{escape(y)}</text>',
    ]
    taken = [_around(across.place(point.cost), up.place(point.accuracy)) for point in points]
    for point in sorted(points, key=lambda point: (-point.accuracy, point.cost, point.name)):
        parts.append(_mark(point, across, up, taken))
    return "".join([*parts, "</svg>"])


def _axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    costs = [point.cost for point in points]
    ends = [end for point in points for end in (point.interval or (point.accuracy, point.accuracy))]
    across = Axis(min(costs) / 1.6, max(costs) * 1.9, _LEFT, _WIDTH - _RIGHT, log=True)
    low, high = 10 * math.floor(min(ends) / 10 - 0.1), 10 * math.ceil(max(ends) / 10 + 0.1)
    return across, Axis(max(0, low), min(100, high), _HEIGHT - _BOTTOM, _TOP)


def _frame(across: Axis, up: Axis, marks: Mapping[float, str]) -> Iterator[str]:
    for tick in linear_ticks(up.low, up.high, 5):
        at = up.place(tick)
        yield f'<path class="grid" d="M{_LEFT} {at}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{at + 4:g}" text-anchor="end">{tick:g}</text>'
    ticks = log_ticks(across.low, across.high, sorted(marks))
    for tick in ticks[:: max(1, -(-len(ticks) // 7))]:
        at = across.place(tick)
        yield f'<path class="grid" d="M{at} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
        yield f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escape(marks[tick])}</text>'


def _mark(point: Point, across: Axis, up: Axis, taken: list[_Box]) -> str:
    at_x, at_y = across.place(point.cost), up.place(point.accuracy)
    kind = "published" if point.published else "measured"
    parts = [f'<a class="{kind}" href="{escape(point.href)}"><title>{escape(_words(point))}</title>']
    if point.interval is not None:
        low, high = (up.place(end) for end in point.interval)
        parts.append(f'<path class="interval" d="M{at_x} {low}V{high}"/>')
    if point.published:
        parts.append(f'<path class="dot" d="M{at_x} {at_y - 6:g}l6 6l-6 6l-6 -6z"/>')
    else:
        parts.append(f'<circle class="dot" cx="{at_x}" cy="{at_y}" r="5"/>')
    spot = _free_spot(point.name, at_x, at_y, taken)
    if spot is not None:
        x, y, anchor = spot
        parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(point.name)}</text>')
    return "".join([*parts, "</a>"])


def _words(point: Point) -> str:
    spread = "" if point.interval is None else f" [{point.interval[0]:.1f}, {point.interval[1]:.1f}]"
    name = f"{point.name} ({point.details})" if point.details else point.name
    return f"{name}: {point.accuracy:.1f} %{spread}" + (", as published" if point.published else "")


def _free_spot(name: str, x: float, y: float, taken: list[_Box]) -> tuple[float, float, str] | None:
    """Return place and anchor of a label that covers nothing, and take it; None: there is no room."""
    width = _LETTER * len(name)
    for dx, dy, anchor in ((10, 4, "start"), (-10, 4, "end"), (10, -10, "start"), (10, 18, "start"), (-10, -10, "end")):
        left = x + dx if anchor == "start" else x + dx - width
        box = _Box(left, y + dy - _LINE + 3, left + width, y + dy + 3)
        inside = box.left > _LEFT and box.right < _WIDTH and box.top > 0 and box.bottom < _HEIGHT - _BOTTOM
        if inside and not any(box.meets(other) for other in taken):
            taken.append(box)
            return x + dx, y + dy, anchor
    return None


def _around(x: float, y: float) -> _Box:
    return _Box(x - 6, y - 6, x + 6, y + 6)
