"""Charts and pictures: they hold the numbers that they are given, and each row is told from the others."""

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from site_records import template

from bench.record import Outcome
from bench.report.pictures import VERDICT_COLOURS, picture, verdict_grid
from bench.report.site.charts import CostPoint, SweepLine, cost_chart, curve_chart, sweep_chart
from bench.report.site.record_page import trainings
from bench.report.verdict import Verdict, count_verdicts, verdicts

EVIL = "<a onload=x> & \"b\" 'c'"


def point(name: str, cost: float, accuracy: float, **changes: Any) -> CostPoint:
    given = {"method": name, "low": accuracy - 5, "high": accuracy + 5, "text": f"{accuracy}", "facts": "", "href": "x"}
    return CostPoint(**{**given, **changes}, name=name, cost=cost, accuracy=accuracy)


def cost(*points: CostPoint, published: bool = False) -> dict[str, Any]:
    methods = sorted({point.method for point in points})
    return cost_chart(points, methods, title="AA against cost", x="FLOPs", y="AA, %", published=published)


# Charts


def test_a_cost_chart_holds_the_numbers_and_links_of_its_rows() -> None:
    spec = cost(point("a", 1e12, 60, href="records/a.html"), point("b", 3e12, 20))
    assert [(row["name"], row["cost"], row["accuracy"]) for row in spec["data"]["values"]] == [
        ("a", 1e12, 60),
        ("b", 3e12, 20),
    ]
    assert spec["data"]["values"][0]["href"] == "records/a.html"
    assert spec["encoding"]["x"]["scale"]["type"] == "log"
    intervals, marks = spec["layer"]
    assert intervals["encoding"]["y"]["scale"]["domain"] == [10, 70]
    assert {tip["field"] for tip in marks["encoding"]["tooltip"]} == {"name", "text", "facts"}


def test_every_row_of_a_cost_chart_has_a_mark_of_its_own_and_a_method_one_colour() -> None:
    variants = [point(f"DeACL, ssl={name}", 1e12, 50, method="DeACL") for name in "abc"]
    others = [point(f"method {number}", 2e12, 40) for number in range(14)]
    spec = cost(*variants, *others)
    colour, shape = spec["encoding"]["color"]["scale"], spec["layer"][1]["encoding"]["shape"]["scale"]
    assert colour["domain"] == shape["domain"] == sorted(row.name for row in (*variants, *others))
    marks = dict(zip(colour["domain"], zip(colour["range"], shape["range"], strict=True), strict=True))
    assert len(set(marks.values())) == 17
    assert len({marks[row.name][0] for row in variants}) == 1


def test_published_marks_are_hollow() -> None:
    filled = [cost(point("a", 1, 2), published=published)["layer"][1]["mark"]["filled"] for published in (False, True)]
    assert filled == [True, False]


def test_a_sweep_chart_is_marked_where_it_was_measured() -> None:
    lines = [SweepLine("a", [90.0, 50.0], ["90.0", "50.0"]), SweepLine("b", [80.0, 5.0], ["80.0", "5.0"])]
    spec = sweep_chart(lines, [1, 100], ["1", "100"], title="t", x="steps", log=True)
    assert [(row["name"], row["x"], row["y"]) for row in spec["data"]["values"]] == [
        *(("a", 1, 90.0), ("a", 100, 50.0)),
        *(("b", 1, 80.0), ("b", 100, 5.0)),
    ]
    assert spec["encoding"]["x"]["axis"]["values"] == [1, 100]
    assert spec["encoding"]["color"]["scale"]["domain"] == ["a", "b"]
    assert len(set(spec["encoding"]["color"]["scale"]["range"])) == 2


def test_a_curve_says_in_words_what_it_shows() -> None:
    spec = curve_chart([4.0, 3.0, 3.5, 1.0], name="loss")
    assert spec["description"] == "loss over 4 epochs, from 4 to 1"
    assert [(row["epoch"], row["value"]) for row in spec["data"]["values"]] == [(1, 4.0), (2, 3.0), (3, 3.5), (4, 1.0)]


def test_a_quantity_stands_at_the_epochs_that_logged_it() -> None:
    history = [{"loss": 3.0}, {"loss": 2.0, "probe": 0.5}, {"loss": 1.0}, {"probe": 0.25}]
    (training,) = trainings(template().model_copy(update={"history": {"stage:ssl": history}}))
    assert training.epochs == 4
    assert training.rows == ((1, (3.0, None)), (2, (2.0, 0.5)), (3, (1.0, None)), (4, (None, 0.25)))
    spec = dict(training.charts)["probe"]
    assert spec["data"]["values"] == [{"epoch": 2, "value": 0.5}, {"epoch": 4, "value": 0.25}]
    assert spec["description"] == "Stage ssl: probe over 2 epochs, from 0.5 to 0.25"


def test_what_a_record_says_is_data_of_a_chart_never_an_expression() -> None:
    spec = cost(point(EVIL, 1e12, 50), point("b", 2e12, 50))
    parts = json.dumps({key: value for key, value in spec.items() if key != "data"})
    for word in re.findall(r'"(?:labelExpr|expr|signal|calculate)": "[^"]*"', parts):
        assert "onload" not in word


# Verdicts


def outcome(bits: str, images: list[int] | None = None, of: int = 0) -> Outcome:
    return Outcome.pack([bit == "1" for bit in bits], images=images, test_images=of or len(bits))


def test_verdicts_follow_from_both_outcomes() -> None:
    found = verdicts(outcome("1100"), outcome("1010"))
    # An image that only the perturbation makes right counts as right under the attack, as RA counts it.
    assert found == [Verdict.ROBUST, Verdict.BROKEN, Verdict.ROBUST, Verdict.WRONG]
    assert count_verdicts(found) == {Verdict.ROBUST: 2, Verdict.BROKEN: 1, Verdict.WRONG: 1, Verdict.ABSENT: 0}


def test_images_that_were_not_attacked_have_no_verdict() -> None:
    found = verdicts(outcome("11110"), outcome("01", images=[1, 4], of=5))
    assert found == [Verdict.ABSENT, Verdict.BROKEN, Verdict.ABSENT, Verdict.ABSENT, Verdict.ROBUST]


# Pictures


def test_a_grid_has_one_pixel_an_image_in_order() -> None:
    found = [Verdict.ROBUST, Verdict.BROKEN, Verdict.WRONG, Verdict.ABSENT, Verdict.BROKEN]
    image = Image.open(io.BytesIO(verdict_grid(found))).convert("RGBA")
    assert image.size == (3, 2)
    pixels = np.asarray(image).reshape(-1, 4).tolist()
    assert pixels[:5] == [list(VERDICT_COLOURS[verdict]) for verdict in found]
    assert pixels[5][3] == 0  # no sixth image


@pytest.mark.parametrize("channels", [1, 3])
def test_an_enlarged_picture_keeps_every_pixel(channels: int) -> None:
    small = np.arange(channels * 20, dtype=np.uint8).reshape(channels, 4, 5)
    image = np.asarray(Image.open(io.BytesIO(picture(small, side=10))))
    assert image.shape[:2] == (12, 15)
    assert (image.reshape(12, 15, channels)[1::3, 1::3].transpose(2, 0, 1) == small).all()
    assert (image[::3] == image[2::3]).all()
