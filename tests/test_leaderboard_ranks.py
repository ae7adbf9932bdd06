"""Ranks: what no test tells apart shares a place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from board_records import SLF, fill, make_record, rows_below, text_of
from scipy.stats import binomtest, ttest_ind

from bench.leaderboard import render_readme_block
from bench.record import Record
from bench.results import build_leaderboard


def hits(first: int, last: int, n: int = 100) -> list[bool]:
    """Images ``first`` to ``last`` come out right."""
    return [first <= i < last for i in range(n)]


def robust(name: str, survivors: Sequence[bool], seed: int = 0) -> Record:
    return make_record(method=name, title=name, seed=seed, aa=survivors, ra=list(survivors) + [True] * 100)


def ranks(results: Path) -> dict[str, str]:
    return {row["Method"].split(" 2022")[0]: row["#"] for row in rows_below(text_of(results), SLF)}


def test_a_difference_of_many_images_one_way_separates_and_the_same_both_ways_does_not(tmp_path: Path) -> None:
    # b loses to a on ten images and wins on none; c's accuracy is b's, but on other images than a's.
    fill(tmp_path, robust("a", hits(0, 50)), robust("b", hits(0, 40)), robust("c", hits(40, 80)))
    assert binomtest(0, 10).pvalue < 0.05 < binomtest(40, 70).pvalue
    assert ranks(tmp_path) == {"a": "1", "b": "2=", "c": "2="}
    fill(tmp_path / "alone", robust("a", hits(0, 50)), robust("c", hits(40, 80)))
    assert ranks(tmp_path / "alone") == {"a": "1=", "c": "1="}


def test_rows_are_compared_with_the_best_of_their_group(tmp_path: Path) -> None:
    # Each is three images behind the one before. McNemar needs six: so c is behind a, and e is behind c.
    assert binomtest(0, 5).pvalue > 0.05 > binomtest(0, 6).pvalue
    fill(tmp_path, *(robust(name, hits(0, 50 - 3 * i)) for i, name in enumerate("abcdef")))
    assert ranks(tmp_path) == {"a": "1=", "b": "1=", "c": "3=", "d": "3=", "e": "5=", "f": "5="}


def test_over_seeds_the_spread_of_the_seeds_decides(tmp_path: Path) -> None:
    scores = {"steady": [60, 61, 62], "below": [50, 51, 52], "loose": [40, 59, 70]}
    records = [robust(name, hits(0, score), seed) for name, found in scores.items() for seed, score in enumerate(found)]
    assert ttest_ind(scores["steady"], scores["below"], equal_var=False).pvalue < 0.05
    assert ttest_ind(scores["steady"], scores["loose"], equal_var=False).pvalue > 0.05
    fill(tmp_path, *records)
    assert ranks(tmp_path) == {"steady": "1=", "loose": "1=", "below": "3"}


@pytest.mark.parametrize(("behind", "rank"), [(50, "1="), (49, "1="), (40, "2")])
def test_seeds_without_a_spread_are_compared_image_by_image(tmp_path: Path, behind: int, rank: str) -> None:
    fill(tmp_path, *(robust("a", hits(0, 50), seed) for seed in range(3)))
    fill(tmp_path, *(robust("b", hits(0, behind), seed) for seed in range(2)))
    assert ranks(tmp_path)["b"] == rank


@pytest.mark.parametrize(("lucky", "rank"), [(62, "1="), (80, "2")])
def test_one_seed_is_behind_only_if_it_is_behind_every_seed(tmp_path: Path, lucky: int, rank: str) -> None:
    several = [robust("several", hits(0, score), seed) for seed, score in enumerate([lucky, 80])]
    fill(tmp_path, *several, robust("one", hits(0, 60)))
    assert ranks(tmp_path)["one"] == rank


def test_without_aa_there_is_no_rank_and_without_shared_images_no_difference(tmp_path: Path) -> None:
    other = robust("b", hits(0, 10))
    assert other.aa
    elsewhere = other.aa.outcome.pack(hits(0, 10), images=range(100, 200), test_images=200)
    moved = other.aa.model_copy(update={"outcome": elsewhere})
    fill(
        tmp_path,
        robust("a", hits(0, 90)),
        other.model_copy(update={"aa": moved}),
        make_record(method="c", title="c", aa=None),
    )
    assert ranks(tmp_path) == {"a": "1=", "b": "1=", "c": "–"}


def test_ranks_start_again_in_every_table(tmp_path: Path) -> None:
    fill(tmp_path, *(make_record(tier=tier, aa=aa) for tier, aa in [("mini", 70), ("tiny", 20)]))
    assert [(row.rank, row.tied) for row in build_leaderboard(tmp_path).rows] == [(1, False), (1, False)]


def test_a_readme_ranks_the_own_recipes_of_methods_that_have_one(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"overrides": {"stage2.lam": 3.0}, "protocol_sha256": "9" * 64}
    fill(
        *(tmp_path, make_record(aa=50), make_record(aa=90, **changed)),
        make_record(method="b", title="b", aa=70, **changed),
    )
    assert [row["#"] for row in rows_below(text_of(tmp_path), SLF)] == ["1", "2", "3"]
    block = render_readme_block(build_leaderboard(tmp_path), details_at="L.md")
    _, _, *rows = ([cell.strip() for cell in line.split("|")] for line in block.splitlines() if line[:1] == "|")
    assert [(row[1], row[2]) for row in rows] == [("1", "b 2022 (stage2.lam=3.0)"), ("2", "DeACL 2022")]
    assert [(row.rank, row.label) for row in build_leaderboard(tmp_path).short().rows] == [
        *((1, "b 2022 (stage2.lam=3.0)"), (2, "DeACL 2022"))
    ]
    assert "short" not in build_leaderboard(tmp_path).rows[0].model_dump(), "JSON has the whole board"
