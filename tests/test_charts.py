"""Charts and pictures: what is drawn where the numbers say, and nothing over something else."""

import io
import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bench.record import Outcome
from bench.report.charts import Line, Point, curve, lines, scatter, standalone
from bench.report.charts.axis import Axis, linear_ticks
from bench.report.fates import Fate, count_fates, fates
from bench.report.pictures import FATE_COLOURS, fate_grid, picture

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<a onload=x> & \"b\" 'c'"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def points(path: str) -> list[tuple[float, float]]:
    """The places of a path of straight lines."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([\d.-]+)", path)]


def line_of(svg: str) -> list[tuple[float, float]]:
    (path,) = (path for path in parsed(svg).iter(f"{SVG}path") if path.get("class") == "line")
    return points(path.get("d", ""))


# Axes


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3.52, 4.85), (-2, 1e5), (0.0001, 0.00011), (0, 100)])
def test_ticks_are_round_even_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-9 <= ticks[0] <= ticks[-1] <= high + 1e-9
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in {1, 2, 5}


def test_a_logarithmic_axis_draws_equal_ratios_equally_far_apart() -> None:
    axis = Axis(1, 1000, 0, 300, log=True)
    assert [axis.place(value) for value in (1, 10, 100, 1000)] == [0, 100, 200, 300]
    assert Axis(5, 5, 0, 10).place(5) == 5  # nothing to span: the middle


# Charts


def test_a_curve_rises_where_its_values_do() -> None:
    values = [4.0, 3.0, 3.5, 1.0]
    places = line_of(curve(values, name="loss"))
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    slopes = [(places[i + 1][1] - places[i][1]) / (values[i] - values[i + 1]) for i in range(3)]
    assert slopes == pytest.approx([slopes[0]] * 3, abs=0.3)  # one scale for all
    assert slopes[0] > 10  # down is down: y grows downwards
    assert "loss over 4 epochs, from 4 to 1" in parsed(curve(values, name="loss")).get("aria-label", "")


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [2.0, 2.0, 2.0], [1e-9, 1e9], [-1.0, 5.0]])
def test_a_curve_of_any_values_is_drawn_inside_its_frame(values: list[float]) -> None:
    svg = parsed(curve(values, name=EVIL))
    width, height = map(float, svg.get("viewBox", "").split()[2:])
    places = [place for path in svg.iter(f"{SVG}path") for place in points(path.get("d", ""))]
    places += [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in svg.iter(f"{SVG}circle")]
    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def mark(name: str, cost: float, accuracy: float, **changes: Any) -> Point:
    return Point(
        **{"details": "", "interval": None, "href": "x.html", **changes}, name=name, cost=cost, accuracy=accuracy
    )


def drawn(*marks: Point) -> ElementTree.Element:
    return parsed(scatter(marks, title=EVIL, x=EVIL, y="AA", marks={1.0: "1 s", 60.0: "1 min"}))


def test_the_better_stands_higher_and_the_dearer_further_right() -> None:
    svg = drawn(mark("a", 1, 10), mark("b", 10, 50), mark("c", 100, 90))
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in svg.iter(f"{SVG}circle")]
    (cx, cy), (bx, by), (ax, ay) = dots  # best first
    assert ax < bx < cx
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)
    assert cy < by < ay


def test_each_mark_is_a_link_that_says_what_it_is() -> None:
    svg = drawn(
        mark(EVIL, 2, 40, details="lam=3", interval=(30.0, 50.0), href="records/a%20b.html"),
        mark("p", 3, 4, published=True),
    )
    links = list(svg.iter(f"{SVG}a"))
    assert [link.get("href") for link in links] == ["records/a%20b.html", "x.html"]
    assert [link.findtext(f"{SVG}title") for link in links] == [
        f"{EVIL} (lam=3): 40.0 % [30.0, 50.0]",
        "p: 4.0 %, as published",
    ]
    assert [link.get("class") for link in links] == ["measured", "published"]
    assert list(links[1].iter(f"{SVG}circle")) == []  # published marks have a shape of their own


def test_labels_never_cover_each_other() -> None:
    crowd = [mark(f"method {i}", 10 + i % 7, 40 + i % 5) for i in range(60)]
    boxes = []
    for text in (text for link in drawn(*crowd).iter(f"{SVG}a") for text in link.iter(f"{SVG}text")):
        x, y, width = float(text.get("x", "")), float(text.get("y", "")), 6.8 * len(text.text or "")
        left = x - width if text.get("text-anchor") == "end" else x
        boxes.append((left, y - 11, left + width, y + 3))
    assert 3 < len(boxes) < 60  # where there is no room, the name is in the title alone
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_sweep_names_each_line_at_its_end_without_overlap() -> None:
    found = [Line(f"m{i}", [90.0, 50.0 + i / 10]) for i in range(6)]
    svg = parsed(lines(found, [1, 100], ["1", "100"], title=EVIL, x="steps", log=True))
    names = [text for group in svg.iter(f"{SVG}g") for text in group.iter(f"{SVG}text")]
    assert [name.text for name in names] == [f"m{i}" for i in range(6)]
    heights = sorted(float(name.get("y", "")) for name in names)
    assert all(b - a >= 15 for a, b in pairwise(heights))
    assert len({group.get("class") for group in svg.iter(f"{SVG}g")}) == 6


def test_a_chart_on_its_own_brings_its_style() -> None:
    svg = parsed(standalone(curve([1.0, 2.0], name="loss")))
    assert ".line{" in (svg.findtext(f"{SVG}style") or "")


# Fates


def outcome(bits: str, images: list[int] | None = None, of: int = 0) -> Outcome:
    return Outcome.pack([bit == "1" for bit in bits], images=images, test_images=of or len(bits))


def test_fates_follow_from_both_outcomes() -> None:
    found = fates(outcome("1100"), outcome("1010"))
    # An image that only the perturbation makes right counts as right under the attack, as RA counts it.
    assert found == [Fate.ROBUST, Fate.BROKEN, Fate.ROBUST, Fate.WRONG]
    assert count_fates(found) == {Fate.ROBUST: 2, Fate.BROKEN: 1, Fate.WRONG: 1, Fate.ABSENT: 0}


def test_images_that_were_not_attacked_have_no_fate() -> None:
    found = fates(outcome("11110"), outcome("01", images=[1, 4], of=5))
    assert found == [Fate.ABSENT, Fate.BROKEN, Fate.ABSENT, Fate.ABSENT, Fate.ROBUST]


# Pictures


def test_a_grid_has_one_pixel_an_image_in_order() -> None:
    found = [Fate.ROBUST, Fate.BROKEN, Fate.WRONG, Fate.ABSENT, Fate.BROKEN]
    image = Image.open(io.BytesIO(fate_grid(found))).convert("RGBA")
    assert image.size == (3, 2)
    pixels = np.asarray(image).reshape(-1, 4).tolist()
    assert pixels[:5] == [list(FATE_COLOURS[fate]) for fate in found]
    assert pixels[5][3] == 0  # no sixth image


@pytest.mark.parametrize("channels", [1, 3])
def test_an_enlarged_picture_keeps_every_pixel(channels: int) -> None:
    small = np.arange(channels * 20, dtype=np.uint8).reshape(channels, 4, 5)
    image = np.asarray(Image.open(io.BytesIO(picture(small, side=10))))
    assert image.shape[:2] == (12, 15)
    assert (image.reshape(12, 15, channels)[1::3, 1::3].transpose(2, 0, 1) == small).all()
    assert (image[::3] == image[2::3]).all()
