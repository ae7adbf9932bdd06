"""Charts of the site as Vega-Lite specifications: plain dictionaries, made of the numbers that the tables show.

Colours are variables of the style sheet, so that a chart follows the page's theme; ``static/charts.js`` draws.
Source of the grammar: Satyanarayan et al., "Vega-Lite: A Grammar of Interactive Graphics", TVCG 2017.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

Spec = dict[str, Any]
"""A Vega-Lite specification, without what all charts share."""

_COLOURS = 12
"""Number of series colours in the style sheet; further series repeat them with another shape."""
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
_ZOOM: Spec = {"name": "zoom", "select": {"type": "interval", "zoom": "wheel![event.ctrlKey]"}, "bind": "scales"}
_MARKED = 15
"""Epochs up to which each is marked; beyond, the marks would hide the line."""


class CostPoint(NamedTuple):
    """One row: the cost of its pre-training and its accuracy."""

    method: str
    """What its colour stands for."""
    name: str
    """All that distinguishes it from the other rows of the chart."""
    cost: float
    """Above 0."""
    accuracy: float
    """In percent, as are the ends of the interval."""
    low: float
    high: float
    text: str
    """The accuracy as the tables write it."""
    facts: str
    """Further text of its tooltip."""
    href: str


class SweepLine(NamedTuple):
    """One row along the grid; accuracies in percent."""

    name: str
    accuracies: Sequence[float]
    texts: Sequence[str]
    """The accuracies as the tables write them."""


def cost_chart(
    points: Sequence[CostPoint], methods: Sequence[str], *, title: str, x: str, y: str, published: bool
) -> Spec:
    """Return accuracy against cost, one mark a row, each a link to its source.

    A method has one colour, and each of its rows another shape.

    Args:
        methods: of all charts of the page, so that a method has one colour in all of them.
        published: drawn hollow, to distinguish the marks from measured ones.
    """
    legend = sorted(points, key=lambda point: (point.method, point.name))
    names = [point.name for point in legend]
    colours = [_colour(methods.index(point.method)) for point in legend]
    shapes = [_SHAPES[colours[:place].count(colour) % len(_SHAPES)] for place, colour in enumerate(colours)]
    lowest, highest = min(point.low for point in points), max(point.high for point in points)
    ends = [max(0, 10 * math.floor(lowest / 10 - 0.1)), min(100, 10 * math.ceil(highest / 10 + 0.1))]
    return {
        "description": title,
        "height": 380,
        "data": {"values": [point._asdict() for point in points]},
        "encoding": {
            "x": {
                **{"field": "cost", "type": "quantitative", "title": x},
                **{"scale": {"type": "log", "nice": False, "padding": 44}},
                "axis": {
                    **{"labelExpr": "replace(format(datum.value, '.2~g'), 'e+', 'e')", "tickCount": 6},
                    "labelSeparation": 6,
                },
            },
            "color": {
                **{"field": "name", "type": "nominal", "title": None},
                "scale": {"domain": names, "range": colours},
            },
        },
        "layer": [
            {
                "name": "intervals",
                "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.45},
                "encoding": {
                    "y": {
                        **{"field": "low", "type": "quantitative", "title": y},
                        **{"scale": {"domain": ends}, "axis": {"tickCount": 6}},
                    },
                    "y2": {"field": "high"},
                },
            },
            {
                "name": "labelled",
                "params": [_ZOOM],
                "mark": {"type": "point", "filled": not published, "size": 90, "opacity": 1, "cursor": "pointer"},
                "encoding": {
                    "shape": {"field": "name", "title": None, "scale": {"domain": names, "range": shapes}},
                    "y": {"field": "accuracy", "type": "quantitative"},
                    "href": {"field": "href"},
                    "tooltip": [
                        {"field": "name", "title": "row"},
                        {"field": "text", "title": y},
                        {"field": "facts", "title": "cost"},
                    ],
                },
            },
        ],
    }


def sweep_chart(
    lines: Sequence[SweepLine], grid: Sequence[float], marks: Sequence[str], *, title: str, x: str, log: bool
) -> Spec:
    """Return accuracy along a grid, one line a row.

    Args:
        grid: ascending, and above 0 for a logarithmic axis.
        log: whether its axis is logarithmic.
    """
    names = [line.name for line in lines]
    values = [
        {"name": line.name, "x": at, "mark": mark, "y": accuracy, "text": text}
        for line in lines
        for at, mark, accuracy, text in zip(grid, marks, line.accuracies, line.texts, strict=True)
    ]
    ticks = {value: mark for value, mark in zip(grid, marks, strict=True)}
    text = " : ".join(f"datum.value === {value!r} ? '{mark}'" for value, mark in ticks.items()) + " : ''"
    return {
        "description": title,
        "height": 360,
        "data": {"values": values},
        "params": [_ZOOM],
        "mark": {"type": "line", "point": {"filled": True, "size": 50}},
        "encoding": {
            "x": {
                **{"field": "x", "type": "quantitative", "title": x},
                "scale": {"type": "log", "nice": False} if log else {"nice": False},
                "axis": {"values": list(grid), "labelExpr": text},
            },
            "y": {"field": "y", "type": "quantitative", "title": "RA, %", "scale": {"zero": True}},
            "color": {
                **{"field": "name", "type": "nominal", "title": None, "sort": names},
                "scale": {"domain": names, "range": [_colour(number) for number in range(len(names))]},
            },
            "shape": {"field": "name", "type": "nominal", "sort": names, "scale": {"domain": names}},
            "tooltip": [
                {"field": "name", "title": "row"},
                {"field": "mark", "title": x},
                {"field": "text", "title": "RA, %"},
            ],
        },
    }


def curve_chart(values: Sequence[float | None], *, name: str) -> Spec:
    """Return one quantity of a phase, one value an epoch; None, never for all of them: that epoch has no mark."""
    known = [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None]
    return {
        "description": f"{name} over {len(known)} epochs, from {known[0][1]:.4g} to {known[-1][1]:.4g}",
        "height": 120,
        "data": {"values": [{"epoch": epoch, "value": value} for epoch, value in known]},
        "params": [_ZOOM],
        "mark": {"type": "line", "color": _colour(0), "point": len(known) <= _MARKED, "tooltip": True},
        "encoding": {
            "x": {
                **{"field": "epoch", "type": "quantitative", "scale": {"nice": False, "zero": False}},
                "axis": {"tickMinStep": 1, "tickCount": 5, "format": "d"},
            },
            "y": {
                **{"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}},
                "axis": {"tickCount": 4, "format": ".3~g"},
            },
        },
    }


def _colour(number: int) -> str:
    return f"var(--series-{number % _COLOURS})"
