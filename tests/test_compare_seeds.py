"""bench compare of two methods over their seeds: the spread, the images, and which recipe a method means."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_records import fill, make_record
from scipy.stats import ttest_ind
from test_compare import group
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import compare_seeds, find_seeds, split_name
from bench.errors import BenchError
from bench.leaderboard import render_csv
from bench.recipe import load_tier
from bench.recipe.overrides import insert
from bench.record import LOCAL, Diagnosis, Record, correct, load_record, save_record
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


# Variants of a method


CONFIG = {"ssl": "simclr", "stage2": {"lam": 2.0, "loss": "cosine"}}


def variant(seed: int, sign: str, **changes: Any) -> Record:
    """A record of DeACL with settings, the recipe of which says them, too."""
    record = make_record(seed=seed, protocol_sha256=sign * 64, **changes)
    config: dict[str, Any] = deepcopy(CONFIG)
    for key, value in record.overrides.items():
        insert(config, key, value)
    return record.model_copy(update={"recipe": {**record.recipe, "config": config}})


@pytest.fixture
def variants(tmp_path: Path) -> Path:
    infonce = {"stage2.loss": "infonce"}
    fill(tmp_path, *(variant(seed, "2") for seed in (0, 1)))
    fill(tmp_path, *(variant(seed, "6", overrides=infonce) for seed in (2, 3)))
    fill(tmp_path, variant(4, "7", overrides={**infonce, "stage2.lam": 3.0}))
    fill(tmp_path, variant(5, "8", overrides={"ssl": "byol", "stage2.loss": "kl", "stage2.lam": 3.0}))
    return fill(tmp_path / LOCAL, variant(6, "6", overrides=infonce)).parent


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("deacl", [0, 1]),
        ("deacl stage2.loss=infonce", [2, 3]),
        ("deacl stage2.lam=3 stage2.loss=infonce", [4]),
        ("deacl stage2.lam=3.0, stage2.loss=infonce", [4]),
        ("deacl ssl=byol", [5]),
        ("deacl stage2.lam=2", [0, 1]),
        ("deacl stage2.loss=infonce stage2.lam=2", [2, 3]),
        ("local/deacl stage2.loss=infonce", [6]),
    ],
)
def test_a_method_with_settings_is_that_variant_and_the_tiers_own_values_are_settings_too(
    variants: Path, name: str, seeds: list[int]
) -> None:
    assert [one.record.seed for one in find_seeds(name, variants, dataset="cifar10").seeds] == seeds


def test_a_precision_may_be_the_tiers_own(tmp_path: Path) -> None:
    """A tier gives all stages fp32, so a run that asks for it has no such change."""
    for seed, precision in ((0, "fp32"), (1, "bf16")):
        chosen = {} if precision == "fp32" else {"precision": precision}
        record = variant(seed, str(seed), overrides=chosen)
        stage = {**CONFIG["stage2"], "precision": precision}  # type: ignore[dict-item]
        recipe = {**record.recipe, "config": {"stage2": stage}, "slf": {"precision": precision}}
        fill(tmp_path, record.model_copy(update={"recipe": recipe}))
        found = find_seeds("deacl", tmp_path, dataset="cifar10", precision=precision)
        assert [one.record.seed for one in found.seeds] == [seed]
    with pytest.raises(BenchError, match="cifar10 --protocols slf --tier mini --precision fp16` makes one"):
        find_seeds("deacl", tmp_path, dataset="cifar10", tier="mini", precision="fp16")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deacl stage2.los=kl", r"unknown setting 'stage2.los'. Did you mean 'stage2.loss'"),
        (
            "deacl stage2.loss=mse",
            r"no records of deacl stage2.loss=mse on cifar10, slf, uniform; there are of: stage2.loss=cosine, "
            r"stage2.loss=infonce, stage2.loss=kl. `bench run deacl --dataset cifar10 --protocols slf --set stage2.lo",
        ),
        (
            "deacl stage2.lam=abc",
            r"^stage2.lam=abc is of another type than in the records: stage2.lam=2.0, stage2.lam=3",
        ),
        ("deacl stage2.loss=3", r"^stage2.loss=3 is of another type than in the records: stage2.loss=cosine, "),
        ("deacl ssl=byol stage2.lam=2", r"no records of deacl ssl=byol stage2.lam=2 on cifar10, slf, uniform. `"),
        (
            "deacl stage2.lam=3",
            r"deacl stage2.lam=3 has records of 2 recipes.*settings, as in 'deacl stage2.lam=3.0 s",
        ),
        ("decal stage2.lam=3", r"unknown method 'decal'. Did you mean 'deacl'"),
        ("deacl stage2.lam", r"'deacl stage2.lam' is not a method with settings. Type, for example"),
    ],
)
def test_a_variant_without_records_is_told_what_there_is(variants: Path, name: str, said: str) -> None:
    with pytest.raises(BenchError, match=f"(?s){said}"):
        find_seeds(name, variants, dataset="cifar10")


def test_only_a_record_of_that_variant_is_a_reason_that_it_has_none(tmp_path: Path) -> None:
    failing = Diagnosis(check="deterministic", verdict="fail", found="it is not")
    fill(tmp_path, variant(0, "6", overrides={"stage2.loss": "kl"}, doctor=(failing,)), variant(1, "2"))
    path = save_record(tmp_path, variant(2, "7", overrides={"stage2.loss": "mse"}))
    correct(path, load_record(path), tmp_path, reason="data", note="Wrong labels.")
    for loss, said in [
        ("kl", "failed 'deterministic'"),
        ("mse", "withdrawn: the data"),
        ("l1", "there are of: stage2"),
    ]:
        with pytest.raises(BenchError, match=f"(?s)deacl stage2.loss={loss} .*{said}"):
            find_seeds(f"deacl stage2.loss={loss}", tmp_path, dataset="cifar10")


def test_the_name_of_a_variant_may_hold_a_path_and_lists() -> None:
    assert split_name("my methods/own.py:Own a.b=[1, 2] c='x y'") == ["my methods/own.py:Own", "a.b=[1, 2]", "c='x y'"]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, ["on cifar10, SLF, tier mini, fidelity uniform, Linf 8/255"]),
        (
            {"eps": 4 / 255, "protocol": "alf"},
            [
                "on cifar10",
                "A under SLF, tier mini, fidelity uniform, Linf 8/255",
                "B under ALF, tier mini, fidelity uniform, Linf 4/255",
            ],
        ),
    ],
)
def test_the_conditions_of_both_are_said_once_and_different_ones_apart(
    tmp_path: Path, changes: dict[str, Any], lines: list[str]
) -> None:
    two = (make_record(), make_record(method="acl", title="ACL", **changes))
    paths = [str(save_record(tmp_path, record)) for record in two]
    done = CliRunner().invoke(app, ["compare", *paths, "--measures", "sa", "--across-protocols"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[2 : 2 + len(lines)] == lines
