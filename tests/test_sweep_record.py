"""Sweeps on disk: sealed like records, and refused where the outcomes contradict each other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from test_docs import ROOT, column

from bench.errors import BenchError
from bench.record import (
    LOCAL,
    Environment,
    Outcome,
    PhaseCost,
    Sweep,
    SweepSettings,
    load_sweep,
    record_files,
    save_sweep,
    sweep_files,
    sweep_path,
)

EPS = SweepSettings(kind="eps", eps=(0.0, 4 / 255, 8 / 255), steps=(20,))
STEPS = SweepSettings(kind="steps", eps=(8 / 255,), steps=(1, 5, 20))


def outcome(*correct: int) -> Outcome:
    """Return the outcome of 10 images of which these are right."""
    return Outcome.pack([image in correct for image in range(10)], test_images=10)


def make_sweep(**changes: Any) -> Sweep:
    return Sweep(
        **{
            "method": "deacl",
            "title": "DeACL",
            "year": 2022,
            "dataset": "digits",
            "dataset_sha256": "0" * 64,
            "tier": "tiny",
            "fidelity": "uniform",
            "seed": 0,
            "protocol": "slf",
            "overrides": {},
            "pretraining_sha256": "1" * 64,
            "protocol_sha256": "2" * 64,
            "classifier_sha256": "3" * 64,
            "record_sha256": "4" * 64,
            "settings": EPS,
            "outcomes": (outcome(0, 1, 2, 3), outcome(0, 1), outcome(0)),
            "cost": PhaseCost(seconds=1.5, images=30, device="CPU"),
            "environment": Environment(bench="0", packages={}, python="3", platform="test", device="CPU", threads=1),
            "finished": "2024-01-01T01:00:00+00:00",
            **changes,
        }
    )


# The last iterate may win an image back (the 7 at 20 steps); the worst so far may not.
LAST = (outcome(0, 1, 7), outcome(0, 1), outcome(0, 7))
WORST = (outcome(0, 1, 7), outcome(0, 1), outcome(0))


@pytest.mark.parametrize("sweep", [make_sweep(), make_sweep(settings=STEPS, outcomes=LAST, worst=WORST)])
def test_a_sweep_survives_the_disk_and_is_sealed(tmp_path: Path, sweep: Sweep) -> None:
    path = save_sweep(tmp_path, sweep)
    assert path == sweep_path(tmp_path, sweep)
    assert path.parent == tmp_path / "digits" / "sweeps"
    assert path.stem.endswith(f"-{sweep.settings.kind}")
    assert load_sweep(path) == sweep.sealed()
    assert list(sweep_files(tmp_path)) == [path]
    assert not list(record_files(tmp_path)), "a sweep is no record"


def test_an_edited_sweep_is_refused(tmp_path: Path) -> None:
    path = save_sweep(tmp_path, make_sweep())
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "seed": 1}))
    with pytest.raises(BenchError, match="checksum does not match"):
        load_sweep(path)
    path.write_text(json.dumps({**values, "schema_version": 9}))
    with pytest.raises(BenchError, match="schema version 9, this program reads 1 to 3"):
        load_sweep(path)


def test_the_identity_covers_all_that_decides_the_outcomes_and_nothing_else() -> None:
    sweep = make_sweep()
    changes: list[dict[str, Any]] = [
        {"classifier_sha256": "5" * 64},
        {"dataset_sha256": "5" * 64},
        {"seed": 1},
        *(
            {"settings": EPS.model_copy(update=change)}
            for change in ({"steps": (10,)}, {"step_size": 0.1}, {"start": "clean"}, {"norm": "l2"}, {"batch_size": 2})
        ),
    ]
    for change in changes:
        assert make_sweep(**change).identity != sweep.identity, change
    assert make_sweep(finished="2025-01-01T01:00:00+00:00", record_sha256="5" * 64).identity == sweep.identity


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"eps": (0.1, 0.0)}, "not in ascending order: 0 comes after 0.1"),
        ({"eps": (0.0, 0.1, 0.1)}, "has the value 0.1 twice"),
        ({"eps": (-0.1, 0.1)}, "negative value -0.1"),
        ({"eps": ()}, "is empty"),
        ({"eps": (0.0, 8.0)}, "eps 8 outside"),
        ({"steps": (10, 20)}, "a sweep of eps has one value of steps, not 2"),
        ({"steps": (0,)}, "0 steps are no attack"),
        ({"step_size": 0}, "step_size"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BenchError, match=complaint):
        SweepSettings.parse({**EPS.model_dump(), **change}, "sweep")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"outcomes": LAST[:2]}, "2 outcomes for 3 values"),
        ({"outcomes": (*LAST[:2], Outcome.pack([True], test_images=1))}, "not all of the same images"),
        ({"worst": None}, "worst belongs to a sweep of steps"),
        ({"worst": (*WORST[:2], outcome(7))}, "lost earlier"),  # right at the end, but lost before
        ({"worst": (*WORST[:2], outcome(0, 1))}, "lost earlier"),  # never lost before, but wrong at the end
        ({"settings": EPS}, "worst belongs to a sweep of steps"),
    ],
)
def test_outcomes_that_contradict_each_other_are_refused(change: dict[str, Any], complaint: str) -> None:
    values = make_sweep(settings=STEPS, outcomes=LAST, worst=WORST).model_dump()
    with pytest.raises(BenchError, match=complaint):
        Sweep.parse({**values, **change}, "sweep")


@pytest.mark.parametrize(("heading", "schema"), [("**Sweep**", Sweep), ("**Settings**", SweepSettings)])
def test_the_file_is_described_field_by_field(heading: str, schema: type[BaseModel]) -> None:
    assert sorted(column(ROOT / "docs" / "sweeps.md", heading)) == sorted(schema.model_fields)


def test_a_sweep_lies_where_the_page_says() -> None:
    sweep = make_sweep()
    pattern = re.findall(r"`(results/\S*<\S+)`", (ROOT / "docs" / "sweeps.md").read_text())[0]
    facts = sweep.model_dump() | {"digest": sweep.identity[:8], "kind": sweep.settings.kind}
    expected = re.sub(r"<(\w+)>", lambda field: str(facts[field[1]]), pattern)
    assert sweep_path(Path("results") / LOCAL, sweep).as_posix() == expected
