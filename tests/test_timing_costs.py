"""``bench timing``: the command, and the costs that records tell of."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from board_records import fill, make_record
from typer.testing import CliRunner

from bench.cli import app
from bench.cost import StageProbe
from bench.errors import BenchError
from bench.record import LOCAL, PhaseCost
from bench.report.figures import Choice, draw_cost
from bench.results import LeftOut, MeasuredCost, build_leaderboard, measured_costs


def cost(seconds: float, **changes: Any) -> PhaseCost:
    values = {"images": 1000, "images_per_second": 1000 / seconds, "flops_per_image": 2e6, "energy_joules": 360.0}
    return PhaseCost(seconds=seconds, peak_memory_bytes=2**20, **{**values, "device": "CPU", **changes})


def single(seconds: float, **changes: Any) -> dict[str, Any]:
    """What a record of ACL says besides: one stage of so many seconds."""
    of_method = {"method": "acl", "title": "ACL", "pretraining_sha256": "a" * 64}
    return {**of_method, "cost": {"stage:pretrain": cost(seconds), "slf": cost(9999)}, **changes}


def only(results: Path, *names: str) -> list[MeasuredCost]:
    ((table,), left_out) = measured_costs(results, names or None)
    assert left_out == []
    return list(table.rows)


def test_a_run_counts_once_whatever_the_protocols_and_seeds_are_averaged(tmp_path: Path) -> None:
    records = [
        make_record(seed=seed, protocol=p, **single(s)) for seed, s in [(0, 10), (1, 30)] for p in ("slf", "aff")
    ]
    again = make_record(seed=7, encoder_seed=1, **single(30))
    (acl,) = only(fill(tmp_path, *records, again))
    assert (acl.label, acl.seeds, acl.total_seconds, acl.total_flops) == ("ACL", 2, 20, 2e9)
    (stage,) = acl.stages
    assert (stage.stage, stage.seconds, stage.flops_per_image) == ("pretrain", 20, 2e6)
    assert stage.images_per_second == pytest.approx((1000 / 10 + 1000 / 30) / 2)
    assert (stage.energy_joules, acl.energy_joules, stage.peak_memory_bytes) == (360, 360, 2**20)


def test_what_one_run_did_not_measure_is_absent(tmp_path: Path) -> None:
    silent = {"stage:pretrain": cost(30, energy_joules=None, images_per_second=None)}
    (acl,) = only(fill(tmp_path, make_record(**single(10)), make_record(seed=1, **single(10, cost=silent))))
    assert acl.energy_joules is acl.stages[0].energy_joules is acl.stages[0].images_per_second is None
    assert acl.stages[0].flops_per_image == 2e6


def test_faulty_records_of_other_datasets_are_not_told_where_one_is_named(tmp_path: Path) -> None:
    results = fill(tmp_path / "results", make_record())
    for file in ("cifar10/broken.json", "elsewhere/broken.json", "elsewhere/sweeps/x-eps.json"):
        (results / file).parent.mkdir(exist_ok=True, parents=True)
        (results / file).write_text("{")

    def files(left_out: Iterable[LeftOut]) -> set[str]:
        return {bad.file for bad in left_out}

    assert files(measured_costs(results)[1]) == {"cifar10/broken.json", "elsewhere/broken.json"}
    board = build_leaderboard(results)
    drawn = [draw_cost(results, tmp_path / "figures", Choice(dataset=name)).left_out for name in (None, "cifar10")]
    for whole in (board.left_out, board.only(tier="mini").left_out, drawn[0]):
        assert files(whole) == {"cifar10/broken.json", "elsewhere/broken.json", "elsewhere/sweeps/x-eps.json"}
    for one in (measured_costs(results, dataset="cifar10")[1], board.only(dataset="cifar10").left_out, drawn[1]):
        assert files(one) == {"cifar10/broken.json"}


def test_ratios_are_to_the_reference_as_it_stands(tmp_path: Path) -> None:
    dear = make_record(overrides={"stage2.steps": 50}, pretraining_sha256="b" * 64, cost={"stage:ssl": cost(8000)})
    evaluated = make_record(overrides={"evaluate.pgd_steps": 50}, protocol="alf")
    fill(tmp_path, make_record(), dear, evaluated, make_record(**single(7450)))
    rows = {row.label: row.to_reference for row in only(tmp_path)}
    assert rows == {"DeACL": 1, "ACL": 7450 / 3725, "DeACL (stage2.steps=50)": 8000 / 3725}
    assert [row.label for row in only(tmp_path)] == ["DeACL", "ACL", "DeACL (stage2.steps=50)"]
    (acl,) = only(tmp_path, "acl")
    assert acl.to_reference == 2, "compared with it even where it is not shown"
    ((table,), _) = measured_costs(tmp_path, reference="acl")
    assert (table.reference, {row.label: row.to_reference for row in table.rows}["DeACL"]) == ("ACL", 0.5)


def test_a_method_from_a_file_is_no_reference_for_the_title_that_it_kept(tmp_path: Path) -> None:
    mine: dict[str, Any] = {
        "method": "Mine+aabbccdd",
        "pretraining_sha256": "b" * 64,
        "cost": {"stage:ssl": cost(7450)},
    }
    fill(tmp_path, make_record(), make_record(**mine))
    assert {row.label: row.to_reference for row in only(tmp_path)} == {"DeACL": 1, "DeACL (Mine+aabbccdd)": 2}
    ((table,), _) = measured_costs(tmp_path, reference="Mine+aabbccdd")
    assert {row.label: row.to_reference for row in table.rows} == {"DeACL": 0.5, "DeACL (Mine+aabbccdd)": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"device": "GPU"},
        {"data": "e" * 64},
        {"tier": "tiny"},
        {"tier_sha256": "6" * 64},
        {"fidelity": "native"},
        {"dataset": "cifar100"},
    ],
)
def test_what_ran_on_other_terms_stands_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    device = other.get("device", "CPU")
    slow = single(100, cost={"stage:pretrain": cost(100, device=device)})
    tables, _ = measured_costs(fill(tmp_path, make_record(), make_record(**slow, **other)))
    assert [[row.label for row in table.rows] for table in tables] in ([["DeACL"], ["ACL"]], [["ACL"], ["DeACL"]])
    assert [row.to_reference for table in tables for row in table.rows if row.label == "ACL"] == [None]
    assert {table.tier_form for table in tables} == ({"5" * 8, "6" * 8} if "tier_sha256" in other else {""})


def test_other_numbers_of_threads_stand_apart(tmp_path: Path) -> None:
    record = make_record(**single(100))
    two = record.model_copy(update={"environment": record.environment.model_copy(update={"threads": 2})})
    tables, _ = measured_costs(fill(tmp_path, make_record(), two))
    assert [table.threads for table in tables] == [1, 2]


def test_a_budget_is_said_and_records_without_pre_training_are_passed_over(tmp_path: Path) -> None:
    plain = make_record(**single(10))
    equal = make_record(**single(10), protocol="aff").model_copy(update={"recipe": {**plain.recipe, "budget": 2e12}})
    none = make_record(method="supervised", title="Supervised", cost={"slf": cost(5)})
    fill(tmp_path, plain, equal, none)
    assert {row.label for row in only(tmp_path)} == {"ACL", "ACL (budget 2.00e12)"}


# The command


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["timing", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_the_command_tables_the_costs_of_records(tmp_path: Path) -> None:
    (fill(tmp_path, make_record(), make_record(**single(7450))) / "cifar10" / "broken.json").write_text("{")
    text = invoke("--from-results", "--results-dir", str(tmp_path))
    assert "Pre-training on cifar10 (dddddddd), tier mini, uniform fidelity" in text
    (acl,) = (line for line in text.splitlines() if "ACL" in line and "DeACL" not in line)
    cells = [cell.strip() for cell in acl.split("│")[1:-1]]
    assert cells == ["ACL", "1", "pretrain", "2:04:10", "0.134", "0.002", "1 MiB", "0.1 Wh", "2:04:10", "2.00"]
    assert "left out cifar10/broken.json: " in text
    values = json.loads(invoke("--from-results", "--results-dir", str(tmp_path), "--json"))
    assert [row["to_reference"] for row in values["tables"][0]["rows"]] == [1.0, 2.0]
    some = ("--from-results", "acl", "byol", "supervised", "--results-dir", str(tmp_path))
    assert f"no record under {tmp_path} has the pre-training cost of byol or supervised\n" in invoke(*some)
    assert json.loads(invoke(*some, "--json"))["absent"] == ["byol", "supervised"]
    fill(tmp_path, make_record(dataset="digits"), make_record(tier="tiny"))
    for chosen, headings in (((), 3), (("--tier", "tiny"), 1), (("--dataset", "cifar10"), 2)):
        shown = invoke("--from-results", "--results-dir", str(tmp_path), *chosen)
        assert shown.count("Pre-training on ") == headings
    for wrong, message in (
        (["--tier", "short"], "there are no pre-training costs of tier short; there are of: mini, tiny."),
        (["--tier", "tinny"], "unknown tier 'tinny'. Did you mean 'tiny'? Allowed: mini, tiny."),
        (
            ["--dataset", "cifar100"],
            "there are no pre-training costs of dataset cifar100; there are of: cifar10, digits.",
        ),
        (["--dataset", "digts"], "unknown dataset 'digts'. Did you mean 'digits'? Allowed: cifar10, digits."),
        (["--dataset", "digits", "--tier", "tiny"], "of a method at dataset digits at tier tiny. Make"),
    ):
        failed = CliRunner().invoke(app, ["timing", "--from-results", "--results-dir", str(tmp_path), *wrong])
        assert message in str(failed.exception)
    nothing = CliRunner().invoke(app, ["timing", "--from-results", "--results-dir", str(tmp_path / "cifar10")])
    assert "has the pre-training cost of a method. Make one with `bench run`" in str(nothing.exception)


def test_the_command_times_and_projects(tmp_path: Path) -> None:
    file = tmp_path / "timing.json"
    small = ["--dataset", "digits", "--tier", "tiny", "--width", "1", "--rounds", "2", "--batch", "8"]
    values = json.loads(invoke("simclr", "deacl", *small, "--output", str(file), "--json"))
    assert values == json.loads(file.read_text())
    simclr, deacl = values["methods"]
    assert (deacl["to_reference"], [stage["stage"] for stage in deacl["stages"]]) == (1.0, ["ssl", "pseudo_at"])
    assert simclr["flops_to_reference"] < 1
    for stage in (*simclr["stages"], *deacl["stages"]):
        assert (stage["batch"], stage["published_batch"], stage["images_per_epoch"]) == (8, 64, 22 * 64)
        assert {batch: len(times) for batch, times in stage["seconds"].items()} == {"2": 2, "8": 2}


def test_the_tables_say_how_much_was_timed_and_what_papers_say() -> None:
    results = str(Path(__file__).parents[1] / "results")
    small = ["--dataset", "digits", "--tier", "tiny", "--width", "1", "--rounds", "1", "--batch", "8"]
    text = invoke("deacl", *small, "--results-dir", results)
    assert "8 of 64" in text
    assert "7 fb + 1 f" in text
    assert "0.45" in text
    assert "DeACL uses its own stage-1 encoder as teacher" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deakl"], "Did you mean 'deacl'"),
        (["deacl", "--reference", "deakl"], "Did you mean 'deacl'"),
        (["--from-results", "--reference", "deakl"], "Did you mean 'deacl'"),
        (["--from-results", "deacl", "deakl"], "unknown method 'deakl'. Did you mean 'deacl'"),
        (["--from-results", "--rounds", "3", "--encoder", "resnet50"], "--encoder, --rounds: --from-results measures"),
        (["supervised"], "supervised has no pre-training to time"),
        (["deacl", "--dataset", "cifar11"], "unknown dataset"),
        (["deacl", "--tier", "huge"], "unknown tier"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["timing", *arguments])
    assert isinstance(done.exception, BenchError)
    assert message in str(done.exception)


def test_a_time_limit_binds_and_says_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--dataset", "digits", "--tier", "tiny", "--width", "1", "--rounds", "1", "--batch", "8"]
    now, clock = [0.0], time.perf_counter
    monkeypatch.setattr("bench.cost.side_by_side.time.perf_counter", lambda: clock() + now[0])
    counted = StageProbe.count

    def slow(probe: StageProbe, before_each: Callable[[], None] = lambda: None) -> None:
        counted(probe, before_each)
        now[0] += 40

    monkeypatch.setattr(StageProbe, "count", slow)
    text = invoke("simclr", "byol", *small, "--time-limit", "1")
    assert "left out byol: the time was up. Raise --time-limit" in text
    assert "SimCLR" in text
    assert "BYOL" not in text
    assert "resnet18 of width 1" in text
    done = CliRunner().invoke(app, ["timing", "byol", *small, "--time-limit", "0.5"])
    assert "no step of byol could be measured: the time was up. Raise --time-limit" in str(done.exception)


def test_the_reference_is_the_local_one_for_local_rows_and_none_where_two_have_its_name(tmp_path: Path) -> None:
    """As on the board, which compares costs by the same rule."""
    fill(tmp_path, make_record())
    fill(tmp_path / LOCAL, make_record(seed=5, cost={"stage:ssl": cost(7450)}), make_record(**single(14900)))
    rows = {row.label: row.to_reference for row in only(tmp_path)}
    assert rows == {"DeACL": 1, "DeACL (local)": 1, "ACL (local)": 2}
    fill(tmp_path / LOCAL, make_record(cost={"stage:ssl": cost(100)}, pretraining_sha256="b" * 64))
    assert {row.to_reference for row in only(tmp_path) if row.local} == {None}


def test_the_threads_are_those_of_the_training_and_not_of_the_process_that_wrote_the_record(tmp_path: Path) -> None:
    slf = make_record(**single(100))
    one, two = (slf.environment.model_copy(update={"threads": threads}) for threads in (1, 2))
    ran = {"stage:pretrain": (one,)}
    later = {"protocol": "aff", "protocol_sha256": "b" * 64, "environment": two}
    records = (each.model_copy(update={"environments": ran}) for each in (slf, slf.model_copy(update=later)))
    ((table,), _) = measured_costs(fill(tmp_path, *records))
    assert (table.threads, [row.seeds for row in table.rows]) == (1, [1])
