"""The board says where the phases of a row come from different code, where that is unknown, and what collapsed."""

from pathlib import Path
from typing import Any

import pytest
from board_records import fill, make_record

from bench.files import json_bytes
from bench.record import Environment, PhaseCost, Record
from bench.results import build_leaderboard
from bench.run.listing import _commits

NOW, OTHER = "a" * 64, "b" * 64


def environment(code: str | None = NOW, **changes: Any) -> Environment:
    values = {"bench": "0", "packages": {}, "python": "3", "platform": "test", "device": "CPU", "threads": 1}
    return Environment(**{**values, "modules": ("bench.train.engine",), "code": code, **changes})


def with_phases(seed: int = 0, **ran: tuple[Environment | None, ...]) -> Record:
    phases: dict[str, tuple[Environment | None, ...]]
    phases = {"stage:ssl": (environment(),), "protocol:slf": (environment(),)}
    phases |= {name.replace("_", ":"): value for name, value in ran.items()}
    return make_record(seed=seed, environments=phases, code=dict.fromkeys(phases, NOW))


def flags(tmp_path: Path, *records: Record) -> tuple[str, ...]:
    (row,) = build_leaderboard(fill(tmp_path / "results", *records)).rows
    return row.flags


def test_one_code_for_all_phases_is_no_flag(tmp_path: Path) -> None:
    moved = (environment(commit="1" * 40), environment(commit="2" * 40))
    assert flags(tmp_path, with_phases(0), with_phases(1, stage_ssl=moved)) == ()


@pytest.mark.parametrize(
    "ran", [(environment(OTHER),), (environment(OTHER), environment()), (environment(), environment(OTHER))]
)
def test_a_phase_of_other_code_is_flagged(tmp_path: Path, ran: tuple[Environment, ...]) -> None:
    assert flags(tmp_path, with_phases(3, stage_ssl=ran)) == ("stage ssl ran with other code than the rest (seed 3)",)


def test_the_list_of_runs_has_the_commits_of_all_protocols(tmp_path: Path) -> None:
    for name, number in (("slf", "1"), ("slf-again", "2")):
        ran = (environment(commit=number * 40), environment("c" * 64, commit=number * 40))
        record = with_phases(evaluate_ra=ran, protocol_slf=(environment(commit="3" * 40),))
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_bytes(json_bytes(record.sealed().content()))
    found = _commits(tmp_path)
    assert (found["evaluate:ra"], found["protocol:slf"]) == (["1" * 40, "2" * 40], ["3" * 40])


def test_a_phase_of_unknown_code_is_flagged(tmp_path: Path) -> None:
    found = flags(tmp_path, with_phases(3, stage_ssl=(None, environment())))
    assert found == ("it is not known with which code stage ssl ran (seed 3)",)


def test_seeds_of_different_code_are_flagged(tmp_path: Path) -> None:
    second = with_phases(1).model_copy(
        update={
            "environments": {"stage:ssl": (environment(OTHER),), "protocol:slf": (environment(),)},
            "code": {"stage:ssl": OTHER, "protocol:slf": NOW},
        }
    )
    assert flags(tmp_path, with_phases(0), second) == ("the seeds ran with different code (stage ssl)",)


def test_seeds_may_differ_in_the_code_of_the_doctor_who_measures_no_number(tmp_path: Path) -> None:
    second = with_phases(1, evaluate_doctor=(environment(OTHER),))
    second = second.model_copy(update={"code": {**second.code, "evaluate:doctor": OTHER}})
    assert flags(tmp_path, with_phases(0, evaluate_doctor=(environment(),)), second) == ()


def test_a_dirty_phase_counts_as_changed_code(tmp_path: Path) -> None:
    (flag,) = flags(tmp_path, with_phases(stage_ssl=(environment(dirty=True),)))
    assert flag.startswith("the code had uncommitted changes (seed 0)")


def old(commit: str, seconds: float, **changes: Any) -> Record:
    record = make_record(cost={"stage:ssl": PhaseCost(seconds=seconds, images=5, device="CPU")}, **changes)
    return record.model_copy(
        update={"environment": record.environment.model_copy(update={"commit": commit}), "schema_version": 2}
    )


def test_one_training_under_two_commits_is_flagged_in_old_records(tmp_path: Path) -> None:
    first, second = "1" * 40, "2" * 40
    records = [old(first, 7.25), old(second, 7.25, protocol="aff"), old(first, 9.5, protocol="alf")]
    rows = build_leaderboard(fill(tmp_path, *records)).rows
    said = {row.protocol: row.flags for row in rows}
    expected = (
        "records of several commits hold the training of stage ssl, so it is not known which code that ran with "
        "(seed 0)",
    )
    assert said == {"slf": expected, "aff": expected, "alf": ()}


def test_several_stages_are_named_as_a_list(tmp_path: Path) -> None:
    found = flags(tmp_path, with_phases(3, stage_ssl=(environment(OTHER),), protocol_slf=(environment(OTHER),)))
    assert found == ("stage ssl and SLF ran with other code than the rest (seed 3)",)


@pytest.mark.parametrize(
    ("doubt", "said"),
    [
        ("constant features", "the encoder gives all training images the same features (seed 2)"),
        ("constant classifier", "the classifier gives all clean test images the same answer (seed 2)"),
        ("one test class", "all test images are of one class (seed 2)"),
    ],
)
def test_what_a_run_noticed_against_itself_is_flagged(tmp_path: Path, doubt: str, said: str) -> None:
    (flag,) = flags(tmp_path, make_record(seed=1), make_record(seed=2, doubts=(doubt,)))
    assert flag.startswith(said)


def test_seeds_whose_starts_were_drawn_in_two_ways_are_flagged(tmp_path: Path) -> None:
    newer = make_record(seed=2)
    newer = newer.model_copy(update={"ra": newer.ra.model_copy(update={"start_drawn": "per image"})})
    (flag,) = flags(tmp_path, make_record(seed=1), newer)
    assert flag == (
        "the random starts of RA were drawn per batch (seed 1) and per image (seed 2): the same attack, with other "
        "noise"
    )
