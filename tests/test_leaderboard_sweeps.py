"""Sweeps on the board follow the records of their classifiers: which seeds, which table, and whether they count."""

from pathlib import Path
from typing import Any, cast

import pytest
from board_records import make_record
from site_records import add_sweep
from test_verify import verification

from bench.cli.sweep import _tables
from bench.record import (
    AttackList,
    Diagnosis,
    ListedAttack,
    MinimalPerturbations,
    Outcome,
    Record,
    SweepSettings,
    correct,
    load_record,
    load_sweep,
    save_record,
    save_verification,
)
from bench.report.figures import draw_minimal, draw_sweeps, tsne
from bench.results import build_leaderboard, tier_forms
from bench.run import Finished

FAILED = (Diagnosis(check="features vary", verdict="fail", found="constant"),)
LATER = "2024-01-02T00:00:00+00:00"


def saved(results: Path, **changes: Any) -> tuple[Path, Record]:
    path = save_record(results, make_record(**changes))
    return path, load_record(path)


def swept(results: Path, *correct: int, **changes: Any) -> tuple[Path, Record]:
    """Write a record and a sweep of its classifier that leaves the first so many images right."""
    path, record = saved(results, **changes)
    add_sweep(results, record, list(correct))
    return path, record


def test_seeds_on_a_shared_encoder_have_a_row_of_their_own(tmp_path: Path) -> None:
    swept(tmp_path, 80, 50)
    swept(tmp_path, 60, 10, seed=1, classifier_sha256="6" * 64)
    swept(tmp_path, 79, 49, seed=1, encoder_seed=0, classifier_sha256="7" * 64, finished=LATER)
    board = build_leaderboard(tmp_path)
    found = {row.label: (row.seeds, row.scores[0].accuracy) for row in board.sweeps}
    assert found == {"DeACL 2022": ((0, 1), 0.7), "DeACL 2022 (encoder of seed 0)": ((1,), 0.79)}
    assert found.keys() == {row.label for row in board.rows}


def test_equal_compute_has_a_table_and_a_figure_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.figures.style.encoded", lambda figure, kind: b"")
    recipe = {**make_record().recipe, "budget": 1e12}
    swept(tmp_path, 80, 50)
    swept(tmp_path, 75, 10, recipe=recipe, protocol_sha256="e" * 64, classifier_sha256="8" * 64)
    board = build_leaderboard(tmp_path)
    plain = "SLF, tier mini, fidelity uniform"
    conditions = [row.key.conditions for row in board.sweeps]
    assert conditions == [row.table.conditions for row in board.rows] == [plain, f"{plain}, at equal compute (1.00e12)"]
    names = {path.stem for path in draw_sweeps(tmp_path, tmp_path / "out", "eps").files}
    assert names == {f"eps-cifar10-mini-uniform-slf{more}" for more in ("", "-budget-1.00e12")}


@pytest.mark.parametrize("failed", [False, True], ids=["withdrawn", "failed"])
def test_a_sweep_of_a_record_that_is_no_result_is_not_shown(tmp_path: Path, failed: bool) -> None:
    path, record = swept(tmp_path, 80, 50, doctor=FAILED if failed else None)
    if not failed:
        correct(path, record, tmp_path, reason="training", note="trained on the test split")
    board = build_leaderboard(tmp_path)
    assert (board.rows, board.sweeps, board.left_out) == ((), (), ())
    path.unlink()
    assert len(build_leaderboard(tmp_path).sweeps) == failed, "a sweep without its record keeps what it has"


def test_a_sweep_of_a_superseded_record_keeps_the_form_of_its_tier(tmp_path: Path) -> None:
    swept(tmp_path, 80, 50)
    saved(tmp_path, finished=LATER, sa=150)
    saved(tmp_path, tier_sha256="6" * 64, protocol_sha256="f" * 64)
    board = build_leaderboard(tmp_path)
    assert [row.table.tier for row in board.rows] == ["mini 55555555", "mini 66666666"]
    assert [row.key.tier for row in board.sweeps] == ["mini 55555555"]


def test_on_the_screen_each_attack_and_each_recipe_has_its_own_name(tmp_path: Path) -> None:
    record = saved(tmp_path)[1]
    l2 = SweepSettings(kind="eps", norm="l2", eps=(0.0, 0.5, 1.0), steps=(20,))
    given: list[tuple[dict[str, Any], Record]] = [
        ({"settings": l2}, record),
        ({}, record),
        ({"overrides": {"stage2.lam": 0}}, record),
        ({}, saved(tmp_path, seed=1, encoder_seed=0)[1]),
    ]
    correct = [80, 50, 10]
    found = [(load_sweep(add_sweep(tmp_path, of, correct, **changes)), of) for changes, of in given]
    tables = _tables(found)
    plain = "cifar10, SLF, tier mini, fidelity uniform: accuracy under"
    assert [table.title for table in tables] == [
        f"{plain} L2 PGD-20, step size 0.25 eps",
        f"{plain} Linf PGD-20, step size 0.25 eps",
    ]
    assert [[column.heading for column in table.columns] for table in tables] == [
        ["L2 eps", "DeACL 2022, seed 0"],
        [
            *("Linf eps x 255", "DeACL 2022, seed 0", "DeACL 2022 (stage2.lam=0), seed 0"),
            "DeACL 2022 (encoder of seed 0), seed 1",
        ],
    ]
    assert [[cells[0] for cells in table._rows] for table in tables] == [["0", "0.5", "1"], ["0", "4", "8"]]


def test_minimal_perturbations_and_features_share_a_figure_where_rows_share_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.report.figures.style.encoded", lambda figure, kind: b"")
    outcome = Outcome.pack([place < 40 for place in range(200)], test_images=200)
    sizes = MinimalPerturbations.pack([place / 2000 for place in range(200)])
    minimal = ListedAttack(attack="min-norm", outcome=outcome, tried=200, perturbations=sizes)
    recipe = make_record().recipe
    differ: list[dict[str, Any]] = [
        {},
        {"recipe": {**recipe, "budget": 1e12}},
        {"overrides": {"precision": "bf16"}},
        {"tier_sha256": "6" * 64},
        {"eps": 4 / 255, "overrides": {"evaluate.eps": 4 / 255}},
    ]
    attacks = AttackList(eps=8 / 255, attacks=(minimal,))
    records = [
        saved(tmp_path, protocol_sha256=str(digit) * 64, attacks=attacks, **changes)[1]
        for digit, changes in enumerate(differ)
    ]
    names = {path.stem for path in draw_minimal(tmp_path, tmp_path / "out").files}
    assert names == {
        f"minimal-cifar10-mini-{more}-linf"
        for more in (
            *("55555555-uniform-slf", "55555555-uniform-slf-budget-1.00e12", "55555555-uniform-slf-precision-bf16"),
            *("66666666-uniform-slf", "55555555-uniform-slf-Linf-4-255"),
        )
    }
    tables = {row.table for row in build_leaderboard(tmp_path).rows}
    assert len(names) == len(tables)
    runs = [Finished(cast(Any, None), "slf", tmp_path, record, "toy") for record in records]
    assert {tsne._table(run, tier_forms(records)) for run in runs} == tables


def test_a_correction_of_a_record_that_has_changed_is_a_fault_and_nothing_else(tmp_path: Path) -> None:
    path, record = saved(tmp_path)
    correct(path, record, tmp_path, reason="evaluation", note="wrong")
    path.unlink()
    saved(tmp_path, sa=170)
    board = build_leaderboard(tmp_path)
    assert (len(board.rows), len(board.corrections), len(board.left_out)) == (1, 0, 1)


def test_a_verification_of_an_older_record_of_a_failed_seed_is_no_fault(tmp_path: Path) -> None:
    path, record = saved(tmp_path)
    save_verification(path, verification(record))
    saved(tmp_path, finished=LATER, doctor=FAILED)
    board = build_leaderboard(tmp_path)
    assert (len(board.rows), len(board.failed), len(board.left_out)) == (0, 1, 0)
