"""One quantity over the epochs of a phase, as a small line chart."""

from collections.abc import Sequence
from html import escape

from bench.report.charts.axis import Axis, linear_ticks

_WIDTH, _HEIGHT = 300, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 24


def curve(values: Sequence[float], *, name: str) -> str:
    """Return the chart of ``values``, one an epoch, as an SVG element.

    Args:
        values: at least one.
        name: what they are, for those who listen to the page.
    """
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    x = Axis(1, len(values), _LEFT, _WIDTH - _RIGHT)
    y = Axis(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP)
    label = f"{name} over {len(values)} epochs, from {values[0]:.4g} to {values[-1]:.4g}"
    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for tick in linear_ticks(y.low, y.high, 3):
        at = y.place(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {at}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:g}" text-anchor="end">{tick:g}</text>')
    for epoch, anchor in ((1, "start"), (len(values), "end")):
        if epoch == 1 or len(values) > 1:
            at = x.place(epoch) if len(values) > 1 else _LEFT
            parts.append(f'<text x="{at:g}" y="{_HEIGHT - 7}" text-anchor="{anchor}">{epoch}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 7}" text-anchor="middle">epoch</text>')
    places = [f"{x.place(epoch):g} {y.place(value):g}" for epoch, value in enumerate(values, 1)]
    if len(places) == 1:
        at_x, at_y = places[0].split()
        parts.append(f'<circle class="dot" cx="{at_x}" cy="{at_y}" r="3"/>')
    else:
        parts.append(f'<path class="line" d="M{"L".join(places)}"/>')
    return "".join([*parts, "</svg>"])
