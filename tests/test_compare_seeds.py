"""bench compare of two methods over their seeds: the spread, the images, and which recipe a method means."""

from pathlib import Path

import numpy as np
import pytest
from board_records import fill, make_record
from scipy.stats import ttest_ind
from test_compare import group

from bench.compare import compare_seeds, find_seeds
from bench.errors import BenchError
from bench.leaderboard import render_csv
from bench.recipe import load_tier
from bench.results import Group, build_leaderboard
from bench.results.ranks import separated


def test_methods_are_compared_by_the_spread_of_their_seeds(tmp_path: Path) -> None:
    hits = {"a": [60, 63, 61], "b": [50, 55, 51, 57]}
    a, b = (
        group(tmp_path, *(make_record(method=name, title=name, seed=seed, aa=aa) for seed, aa in enumerate(found)))
        for name, found in hits.items()
    )
    found = compare_seeds(a, b)
    expected = ttest_ind(np.array(hits["a"]) / 100, np.array(hits["b"]) / 100, equal_var=False)
    aa = found.measures["aa"]
    assert aa.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert aa.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-12)
    assert (aa.a.n, aa.b.n, found.seeds_a, found.seeds_b) == (3, 4, (0, 1, 2), (0, 1, 2, 3))
    assert (aa.b.mean, aa.b.std) == pytest.approx((np.mean(hits["b"]) / 100, np.std(hits["b"], ddof=1) / 100))
    assert found.differences == (("method", "a", "b"),)
    with pytest.raises(BenchError, match="a 2022 would be compared with itself"):
        compare_seeds(a, a)
    with pytest.raises(BenchError, match=r"a 2022 has only one seed there, 0.*--seed"):
        compare_seeds(Group(a.seeds[:1], ()), b)


def test_of_two_forms_of_a_tier_the_present_one_is_meant_and_the_older_one_has_a_name(tmp_path: Path) -> None:
    present = load_tier("mini").digest()
    fill(
        tmp_path,
        make_record(tier_sha256=present, protocol_sha256="7" * 64),
        *(make_record(seed=seed, tier_sha256="5" * 64) for seed in (1, 2)),
    )

    def seeds(tier: str | None) -> list[int]:
        return [one.record.seed for one in find_seeds("deacl", tmp_path, dataset="cifar10", tier=tier).seeds]

    assert (seeds(None), seeds("mini"), seeds("mini 55555555")) == ([0], [0], [1, 2])
    board = build_leaderboard(tmp_path)
    assert [row.seeds for row in board.only(tier="mini 55555555").rows] == [(1, 2)]
    assert len(board.only(tier="mini").rows) == 2
    tiers = [line.split(",")[2] for line in render_csv(board).splitlines()[1:]]
    assert set(tiers) == {"mini", "mini 55555555"}, "or a program would take two tables for one"
    with pytest.raises(BenchError, match=r"unknown tier 'zz'. Allowed: mini, mini 55555555."):
        find_seeds("deacl", tmp_path, dataset="cifar10", tier="zz")


def test_accuracies_on_different_images_are_not_compared_over_seeds(tmp_path: Path) -> None:
    """The same outcome for each image; AA of one on the first half, which is harder."""
    groups = []
    for method, n in (("a", 100), ("b", 200)):
        hits = [[place < 40 + seed or 100 <= place < 180 for place in range(200)] for seed in range(3)]
        records = (
            make_record(method=method, title=method, seed=seed, aa=right[:n], aa_n=n, ra=right, sa=180)
            for seed, right in enumerate(hits)
        )
        groups.append(group(tmp_path, *records))
    found = compare_seeds(*groups)
    assert found.missing == {"aa": "the two were measured on different images"}
    assert (found.measures["ra"].difference, found.measures["sa"].difference) == (0, 0)
    assert not separated(*groups)
    with pytest.raises(BenchError, match="nothing to compare: AA: the two were measured on different images"):
        compare_seeds(*groups, measures=("aa",))
