"""Ablations carried out: planned as a whole, shared stages trained once, continued after anything, reported in rows."""

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from board_records import make_record
from programs import Program
from toy_runs import VARYING, Listener, toy_data

from bench.ablate import Ablation, CellResult, carry_out, parse_grid, plan_ablation, project_ablation, report_ablation
from bench.errors import BenchError, InterruptedRunError
from bench.record import Diagnosis, Record, load_record
from bench.run import RunRequest, execute, prepare

SMALL: dict[str, Any] = {
    "encoder.width": 1,
    "stage1.epochs": 2,
    "stage1.batch_size": 8,
    "stage1.warmup_epochs": 0,
    "stage1.projector": [4, 4],
    "stage2.epochs": 1,
    "stage2.batch_size": 8,
    "stage2.steps": 1,
    "stage2.warmup_epochs": 0,
    **{"slf.epochs": 1, "slf.batch_size": 8},
    **{"evaluate.pgd_steps": 1, "evaluate.autoattack": False},
}
GRID = parse_grid(["stage2.lam=1,2,3"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_data(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture
def base(data: str, tmp_path: Path) -> RunRequest:
    return RunRequest("deacl", data, tier="tiny", overrides=SMALL, runs_dir=tmp_path / "runs", device="cpu")


def options_in(folder: Path, data: str) -> list[str]:
    """Return the words that make the command run as ``base`` does, in ``folder``."""
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    places = ["--runs-dir", str(folder / "runs"), "--results-dir", str(folder / "results")]
    return ["--dataset", data, "--tier", "tiny", "--device", "cpu", *places, *settings]


def run_all(ablation: Ablation, results: Path, listener: Listener | None = None) -> list[CellResult]:
    listener = listener or Listener()
    return carry_out(ablation, results, listener)


def facts(results: Sequence[CellResult]) -> list[list[dict[str, Any]]]:
    """Return what two ablations of the same grid must agree on; in this process they run without the doctor."""
    return [[record.model_dump(exclude={*VARYING, "doctor"}) for record, _ in result.records] for result in results]


def started(listener: Listener) -> list[str]:
    """Return the runs that were begun, without what was noticed in them."""
    return [note for note in listener.notes if note.startswith("run ")]


def records(results: Sequence[CellResult]) -> list[Record]:
    return [record for result in results for record, _ in result.records]


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[CellResult]:
    """Return the results of the grid that nobody stopped."""
    place = tmp_path_factory.mktemp("whole")
    base = RunRequest("deacl", data, tier="tiny", overrides=SMALL, runs_dir=place / "runs", device="cpu")
    return run_all(plan_ablation(base, GRID), place / "results")


# The plan


def test_the_cell_that_is_the_recipe_itself_is_the_plain_run(base: RunRequest) -> None:
    cells = plan_ablation(base, GRID).cells
    departures = [cell.runs[0].recipe.overrides_of("slf").get("stage2.lam") for cell in cells]
    assert departures == [1, None, 3]
    assert cells[1].runs[0].folder.path == prepare(replace(base, protocols=("slf",))).folder.path
    assert [cell.label for cell in cells] == ["stage2.lam=1", "stage2.lam=2", "stage2.lam=3"]


def test_a_cell_may_be_valid_where_the_recipe_without_it_is_not(base: RunRequest) -> None:
    overrides = {**SMALL, "stage1.predictor": [4]}
    ablation = plan_ablation(replace(base, overrides=overrides), parse_grid(["ssl=byol"]))
    assert ablation.cells[0].runs[0].recipe.overrides == {**overrides, "ssl": "byol"}


def test_planning_and_projecting_write_nothing(base: RunRequest, tmp_path: Path) -> None:
    ablation = plan_ablation(base, GRID, (0, 1))
    project_ablation(ablation)
    assert not ablation.finished
    assert list(tmp_path.iterdir()) == []


def test_the_faults_of_all_cells_are_listed_together(base: RunRequest) -> None:
    with pytest.raises(BenchError) as raised:
        plan_ablation(base, parse_grid(["stage2.lr=-1,1,x", "stage2.lam=1,2"]))
    first, *lines = str(raised.value).split("\n- ")
    assert first == "4 of 6 cells cannot be run:"
    assert len(lines) == 2
    assert lines[0].startswith("stage2.lam=1, stage2.lr=-1; stage2.lam=2, stage2.lr=-1: recipe of tier tiny: stage2.lr")
    assert "(given: 'x')" in lines[1]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["stage2.lamb=1,2"], "^unknown setting 'stage2.lamb'. Did you mean 'stage2.lam'"),
        (["stage2.lam=1,2,1.0"], "the cells stage2.lam=1 and stage2.lam=1.0 are the same run"),
        (["aff.lr=1,2"], "the cells aff.lr=1 and aff.lr=2 are the same run under slf; keep one"),
        (["stage1.epochs=1,2"], "^--set stage1.epochs: the table varies this. Leave it out"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(base: RunRequest, grid: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        plan_ablation(base, parse_grid(grid))


def test_seeds_are_checked(base: RunRequest) -> None:
    with pytest.raises(BenchError, match=r"^seed 4294967296 is out of range"):
        plan_ablation(base, GRID, (0, 2**32))


def test_the_protocol_is_slf_where_that_applies(base: RunRequest) -> None:
    def protocols(request: RunRequest) -> object:
        return plan_ablation(request, parse_grid(["threat.eps=0.1"])).cells[0].runs[0].protocols

    assert protocols(base) == ("slf",)
    overrides = {"evaluate.autoattack": False, "aff.batch_size": 8}
    assert protocols(replace(base, method="supervised", overrides=overrides)) == ("aff",)


def test_a_plan_that_cannot_work_on_the_data_is_found_before_anything_starts(base: RunRequest) -> None:
    overrides = {key: value for key, value in SMALL.items() if key != "stage2.batch_size"}
    fault = r"1 of 2 cells cannot be run:\n- stage2.batch_size=25: stage2.batch_size is 25, but there are 24 images"
    with pytest.raises(BenchError, match=fault):
        plan_ablation(replace(base, overrides=overrides), parse_grid(["stage2.batch_size=8,25"]))


# The projection


def test_what_is_shared_is_counted_once_and_what_is_done_not_at_all(base: RunRequest, tmp_path: Path) -> None:
    projection = project_ablation(plan_ablation(base, GRID))
    ((what, seconds),) = projection.shared.items()
    assert what.startswith("stage ssl (toy-ssl-s0-")
    assert what.endswith(", for 3 runs")
    assert seconds > 0
    assert list(projection.cells) == ["stage2.lam=1", "stage2.lam=2", "stage2.lam=3"]
    assert projection.seconds == pytest.approx(seconds + sum(projection.cells.values()))
    execute(prepare(replace(base, protocols=("slf",))), tmp_path / "results")  # the second cell
    later = project_ablation(plan_ablation(base, GRID))
    assert list(later.shared.values()) == [0]
    assert [seconds > 0 for seconds in later.cells.values()] == [True, False, True]


def test_cells_that_share_all_of_pretraining_share_it_in_the_projection(base: RunRequest) -> None:
    projection = project_ablation(plan_ablation(base, parse_grid(["slf.lr=0.1,0.2"]), (0, 1)))
    assert [what.split(" (")[0] for what in projection.shared] == ["stage ssl", "stage pseudo_at"] * 2
    assert len(projection.cells) == 2


# The work


def test_stage_1_is_trained_once_for_all_cells(base: RunRequest, tmp_path: Path, whole: list[CellResult]) -> None:
    listener = Listener()
    results = run_all(plan_ablation(base, GRID), tmp_path / "results", listener)
    assert listener.phases.count("stage ssl") == 1
    assert listener.phases.count("stage pseudo_at") == 3
    assert started(listener) == [f"run {i} of 3: stage2.lam={i}, seed 0" for i in (1, 2, 3)]
    assert len({record.cost["stage:ssl"].seconds for record in records(results)}) == 1
    assert len({record.encoder_sha256 for record in records(results)}) == 3
    assert facts(results) == facts(whole)
    assert sorted((tmp_path / "results" / "toy").iterdir()) == sorted(path for r in results for _, path in r.records)


def test_a_finished_ablation_does_nothing_anew(base: RunRequest, tmp_path: Path) -> None:
    first = run_all(plan_ablation(base, GRID), tmp_path / "results")
    ablation, listener = plan_ablation(base, GRID), Listener()
    assert ablation.finished
    assert project_ablation(ablation).seconds == 0
    assert [result.records for result in run_all(ablation, tmp_path / "results", listener)] == [
        result.records for result in first
    ]
    assert (listener.phases, listener.notes) == ([], [])


@pytest.mark.parametrize("stop_at", [8, *(pytest.param(stop_at, marks=pytest.mark.slow) for stop_at in (2, 15))])
def test_an_ablation_stopped_anywhere_continues_to_the_same_end(
    base: RunRequest, tmp_path: Path, whole: list[CellResult], stop_at: int
) -> None:
    with pytest.raises(InterruptedRunError, match="The same command continues from there"):
        run_all(plan_ablation(base, GRID), tmp_path / "results", Listener(stop_at))
    finished = len(list(tmp_path.glob("results/toy/*")))
    listener = Listener()
    results = run_all(plan_ablation(base, GRID), tmp_path / "results", listener)
    assert len(started(listener)) == 3 - finished
    assert facts(results) == facts(whole)


def test_an_ablation_killed_after_its_first_cell_continues_to_the_same_end(
    base: RunRequest, tmp_path: Path, whole: list[CellResult]
) -> None:
    words = ["ablate", "deacl", "--grid", "stage2.lam=1,2,3", *options_in(tmp_path, base.dataset)]
    program = Program(tmp_path, *words)
    program.wait_for(lambda: any(tmp_path.glob("results/toy/*.json")))
    assert program.end(signal.SIGKILL).code == -signal.SIGKILL, "it ended before it could be killed"
    finished = len(list(tmp_path.glob("results/toy/*.json")))
    assert 1 <= finished < 3
    listener = Listener()
    results = run_all(plan_ablation(base, GRID), tmp_path / "results", listener)
    assert "stage ssl" not in listener.phases
    assert len(started(listener)) <= 3 - finished
    assert facts(results) == facts(whole)


def test_a_cell_that_another_process_works_on_is_left_for_the_end(
    base: RunRequest, tmp_path: Path, whole: list[CellResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("bench.ablate.execution"), "_POLL_SECONDS", 0.01)
    ablation, listener = plan_ablation(base, GRID), Listener()
    results: list[CellResult] = []
    with ablation.cells[0].runs[0].folder.claimed():
        work = Thread(target=lambda: results.extend(run_all(ablation, tmp_path / "results", listener)), daemon=True)
        work.start()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("results/toy/*.json"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        work.join(0.2)
        assert work.is_alive()
    work.join(60)
    assert listener.notes[1] == "stage2.lam=1, seed 0 is postponed to the end: another process is working on it"
    assert facts(results) == facts(whole)


def test_a_cell_that_diverges_leaves_the_others_alone(base: RunRequest, tmp_path: Path) -> None:
    table = parse_grid(["stage2.lr=1e30,0.5"])
    listener = Listener()
    results = run_all(plan_ablation(base, table), tmp_path / "results", listener)
    assert [len(result.records) for result in results] == [0, 1]
    (fault,) = results[0].faults
    assert fault.startswith("seed 0: the loss of stage 'pseudo_at' is not finite")
    found = report_ablation(plan_ablation(base, table), results, tmp_path / "results")
    assert found.faults == [f"stage2.lr=1e+30, {fault}"]
    assert found.rows[0].ra is None


def test_a_protocol_that_diverges_leaves_those_before_it(base: RunRequest, tmp_path: Path) -> None:
    asked = replace(base, protocols=("slf", "aff"), overrides={**SMALL, "aff.batch_size": 8, "aff.lr": 1e30})
    (result,) = run_all(plan_ablation(asked, parse_grid(["stage2.lam=1"])), tmp_path / "results")
    assert ([record.protocol for record, _ in result.records], len(result.faults)) == (["slf"], 1)


def test_a_cell_whose_evaluation_fails_a_check_has_no_result(
    base: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = (Diagnosis(check="logits", verdict="fail", found="none"),)
    record = make_record(doctor=failed)
    monkeypatch.setattr("bench.ablate.execution.execute", lambda *_: [(record, tmp_path)])
    (result,) = run_all(plan_ablation(base, parse_grid(["stage2.lr=0.5"])), tmp_path / "results")
    assert (result.records, result.faults) == ([], ["seed 0, slf: failed 'logits': none"])


# The report


def test_seeds_are_averaged_and_protocols_stand_apart(base: RunRequest, tmp_path: Path) -> None:
    overrides = {**SMALL, "aff.epochs": 1, "aff.batch_size": 8, "aff.steps": 1}
    asked = replace(base, protocols=("slf", "aff"), overrides=overrides)
    ablation = plan_ablation(asked, parse_grid(["stage2.lam=1,3"]), (0, 2))
    results = run_all(ablation, tmp_path / "results")
    found = report_ablation(ablation, results, tmp_path / "results")
    assert [(row.label, row.protocol) for row in found.rows] == [
        (f"stage2.lam={lam}", protocol) for protocol in ("slf", "aff") for lam in (1, 3)
    ]
    for row in found.rows:
        own = [load_record(Path(path)) for path in row.records]
        assert {record.recipe["config"]["stage2"]["lam"] for record in own} == {row.settings["stage2.lam"]}
        assert [record.protocol for record in own] == [row.protocol] * 2
        assert row.seeds == (0, 2)
        assert row.aa is None
        assert row.sa is not None
        assert row.sa.accuracy == pytest.approx(sum(record.sa.accuracy for record in own) / 2)
        assert row.sa.std == pytest.approx(abs(own[0].sa.accuracy - own[1].sa.accuracy) / 2**0.5)
    assert not found.paper
