"""The leaderboard: which rows share a table, what a row says, and how seeds make one."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_records import SLF, TEST_IMAGES, fill, headings_below, make_record, rows_below, table_below, text_of

from bench.leaderboard import render_readme_block
from bench.recipe import load_tier
from bench.record import PhaseCost
from bench.results import build_leaderboard

# Rows


def test_a_row_says_all_of_its_record(tmp_path: Path) -> None:
    text = text_of(fill(tmp_path, make_record(sa=160, ra=100, aa=71, device="Some CPU, 2 threads")))
    columns = ["#", "Method", "AA, n=100", "RA, images of AA", "RA, n=200", "SA, n=200"]
    costs = ["Known", "Time", "Time x DeACL", "FLOPs", "FLOPs x DeACL"]
    assert headings_below(text, SLF) == [*columns, *costs, "Seeds", "Records"]
    assert table_below(text, SLF) == [
        [
            *("1", "DeACL 2022", "71.0 [61.5, 79.0]", "76.0 [66.8, 83.3]", "50.0 [43.1, 56.9]", "80.0 [73.9, 85.0]"),
            *("retrained", "1:02:05", "1.00", "1.00e10", "1.00", "1"),
            "[seed 0](results/cifar10/deacl-mini-uniform-s0-slf-22222222.json)",
        ]
    ]
    assert "\nTimes: Some CPU, 2 threads.\n" in text
    assert "5,000 training and 200 test images of 10 classes, default radius Linf 8/255, data `dddddddd`." in text


def test_rows_are_sorted_by_aa_and_those_without_come_last_by_ra(tmp_path: Path) -> None:
    scores = {"a": (20, 120), "b": (None, 150), "c": (60, 90), "d": (None, 180), "e": (20, 130), "f": (0, 10)}
    results = fill(tmp_path, *(make_record(title=m, method=m, aa=aa, ra=ra) for m, (aa, ra) in scores.items()))
    rows = rows_below(text_of(results), SLF)
    assert [row["Method"] for row in rows] == [f"{title} 2022" for title in ("c", "e", "a", "f", "d", "b")]
    assert [row["AA"] for row in rows[-3:]] == ["0.0 [0.0, 3.7]", "–", "–"]


def test_rows_that_differ_in_conditions_never_share_a_table(tmp_path: Path) -> None:
    conditions: dict[str, list[Any]] = {
        "dataset": ["cifar10", "digits"],
        "tier": ["tiny", "own", "mini", "paper"],
        "fidelity": ["native", "uniform"],
        "protocol": ["aff", "slf", "alf"],
        "data": ["d" * 64, "e" * 64],
    }
    grid = [dict(zip(conditions, values, strict=True)) for values in _product(*conditions.values())]
    fill(tmp_path, *(make_record(**condition) for condition in grid))
    board, text = build_leaderboard(tmp_path), text_of(tmp_path)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == len(grid) == len({row.table for row in board.rows})
    assert all(table.count("\n") == 3 for table in tables)
    headings = [line for line in text.splitlines() if line.startswith("### cifar10: SLF")]
    order = [f"{tier}, fidelity {f}" for tier in ("paper", "tiny", "mini", "own") for f in ("uniform", "native")]
    assert headings == [f"### cifar10: SLF, tier {one}" for one in order] * 2  # once for each of two data sets
    protocols = re.findall(r"### cifar10: (\w+), tier paper, fidelity uniform", text)
    assert protocols == ["SLF", "ALF", "AFF"] * 2


def test_two_forms_of_one_tier_never_share_a_table(tmp_path: Path) -> None:
    now = load_tier("mini").digest()
    older: dict[str, Any] = {"tier_sha256": "a" * 64, "protocol_sha256": "8" * 64}
    for results, records in {
        "one": [make_record(**older)],
        "two": [make_record(**older), make_record(method="acl", title="ACL", tier_sha256=now)],
        "own": [make_record(tier="own", **older), make_record(method="acl", title="ACL", tier="own")],
    }.items():
        fill(tmp_path / results, *records)
    headings = {
        name: [line for line in text_of(tmp_path / name).splitlines() if line.startswith("### cifar10: SLF")]
        for name in ("one", "two", "own")
    }
    of = "### cifar10: SLF, tier {}, fidelity uniform".format
    assert headings == {
        "one": [of("mini")],
        "two": [of("mini"), of("mini aaaaaaaa")],
        "own": [of("own 55555555"), of("own aaaaaaaa")],
    }
    shown = {name: render_readme_block(build_leaderboard(tmp_path / name), details_at="L.md") for name in headings}
    assert {name: re.findall(r"SLF, tier ([^,]+),", block) for name, block in shown.items()} == {
        "one": ["mini"],
        "two": ["mini"],
        "own": ["own 55555555", "own aaaaaaaa"],
    }


def _product(*axes: list[Any]) -> list[tuple[Any, ...]]:
    grid: list[tuple[Any, ...]] = [()]
    for axis in axes:
        grid = [(*point, value) for point in grid for value in axis]
    return grid


def test_departures_stand_behind_the_name(tmp_path: Path) -> None:
    overrides = {"stage2.weight_decay": 1e-05, "stage1.nesterov": True}
    results = fill(
        tmp_path,
        make_record(aa=50),
        make_record(aa=40, overrides=overrides, protocol_sha256="5" * 64),
        make_record(aa=20, overrides={"stage2.eps": 16 / 255}, protocol_sha256="7" * 64),
        # What the recipe had anyway: the same hash, yet not a seed, nor a repetition, of the plain run.
        make_record(aa=10, overrides={"stage2.lam": 2.0}),
    )
    assert [row["Method"] for row in rows_below(text_of(results), SLF)] == [
        "DeACL 2022",
        "DeACL 2022 (stage1.nesterov=true, stage2.weight_decay=1e-5)",
        "DeACL 2022 (stage2.eps=16/255)",
        "DeACL 2022 (stage2.lam=2.0)",
    ]


def test_two_recipes_of_one_name_show_their_hashes(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(aa=50), make_record(aa=40, protocol_sha256="5" * 64))
    names = [row["Method"] for row in rows_below(text_of(results), SLF)]
    assert names == ["DeACL 2022, recipe 22222222", "DeACL 2022, recipe 55555555"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 10, "restarts": 3}, "RA under PGD-10 x 3"),
        ({"attack": "pgd-cw"}, "RA under pgd-cw-20"),
        ({"attack": "mine+12345678", "steps": None, "step_size": None, "start": None}, "RA under mine+12345678"),
        ({"step_size": 1 / 255}, "RA's step size 0.125 eps"),
        ({"start": "zero"}, "RA's start zero"),
    ],
)
def test_ra_under_another_attack_stands_in_a_table_of_its_own(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """What `bench compare` refuses shares no table."""
    plain = make_record()
    other = plain.model_copy(update={"ra": plain.ra.model_copy(update=changes), "protocol_sha256": "5" * 64})
    board = build_leaderboard(fill(tmp_path, plain, other))
    assert {row.attack for row in board.rows} == {"", said}
    assert len({row.table for row in board.rows}) == 2
    assert {row.label for row in board.rows} == {"DeACL 2022"}
    assert len(board.short().rows) == 1


def test_a_row_without_autoattack_says_so_by_its_dash_alone(tmp_path: Path) -> None:
    fill(tmp_path, make_record(aa=None, overrides={"evaluate.autoattack": False, "slf.lr": 0.3}))
    (row,) = rows_below(text_of(tmp_path), SLF)
    assert (row["Method"], row["AA"]) == ("DeACL 2022 (slf.lr=0.3)", "–")


def test_rows_under_another_adversary_never_share_a_table(tmp_path: Path) -> None:
    l2 = make_record(aa=60, protocol_sha256="6" * 64)
    fill(
        tmp_path,
        make_record(aa=40),
        make_record(aa=50, eps=4 / 255, protocol_sha256="5" * 64, overrides={"evaluate.eps": 4 / 255}),
        l2.model_copy(update={"recipe": {**l2.recipe, "threat": {"norm": "l2", "eps": 8 / 255}}}),
        l2.model_copy(update={"protocol_sha256": "7" * 64, "ra": l2.ra.model_copy(update={"precision": "bf16"})}),
    )
    text = text_of(tmp_path)
    headings = [line for line in text.splitlines() if line.startswith(SLF)]
    assert headings == [SLF, *(f"{SLF}, {one}" for one in ("L2 0.0313725", "Linf 4/255", "gradients in bf16"))]
    assert [rows_below(text, heading)[0]["AA"].split()[0] for heading in headings] == ["40.0", "60.0", "50.0", "60.0"]
    assert {rows_below(text, heading)[0]["Method"] for heading in headings} == {"DeACL 2022"}


def test_a_method_without_stages_has_no_pretraining_time(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(cost={"slf": PhaseCost(seconds=7, device="CPU")}))
    (row,) = rows_below(text_of(results), SLF)
    assert (row["Time"], row["FLOPs"], row["FLOPs x DeACL"]) == ("–", "–", "–")


def test_autoattack_warnings_are_flagged_below_the_table(tmp_path: Path) -> None:
    shared, own = "zero gradients\n for 3 points", "a|b is randomized"
    results = fill(
        tmp_path,
        make_record(method="a", aa=50, warnings=[shared]),
        make_record(method="b", aa=40, warnings=[own, shared]),
        make_record(method="c", aa=30),
    )
    text = text_of(results)
    cells = [row["Method"] for row in rows_below(text, SLF)]
    assert [re.findall("⚑[0-9]", cell) for cell in cells] == [["⚑1"], ["⚑2", "⚑1"], []]
    assert "\n⚑1 AutoAttack warned: zero gradients for 3 points\n" in text
    assert "\n⚑2 AutoAttack warned: a\\|b is randomized\n" in text


# Several records of one recipe


def test_seeds_share_a_row_with_mean_and_standard_deviation(tmp_path: Path) -> None:
    hits = [40, 43, 51]
    results = fill(
        tmp_path,
        *(make_record(seed=s, aa=aa, ra=2 * aa, device=f"d{s}") for s, aa in zip([7, 0, 3], hits, strict=True)),
    )
    (row,) = build_leaderboard(results).rows
    shares = np.array(hits) / 100
    assert row.aa is not None
    assert row.aa.accuracy == pytest.approx(np.mean(shares), abs=1e-12)
    assert row.aa.std == pytest.approx(np.std(shares, ddof=1), abs=1e-12)
    assert row.aa.interval is None
    assert (row.seeds, row.devices) == ((0, 3, 7), ("d0", "d3", "d7"))
    cells = rows_below(text_of(results), SLF)[0]
    assert cells["AA"] == f"{100 * shares.mean():.1f} ± {100 * shares.std(ddof=1):.1f}"
    assert cells["SA"] == "80.0 ± 0.0"
    assert cells["Seeds"] == "3"
    assert re.findall(r"\[seed (\d)\]\([^)]*-s(\d)-", cells["Records"]) == [("0", "0"), ("3", "3"), ("7", "7")]


def test_seeds_measured_on_different_images_have_no_common_mean(tmp_path: Path) -> None:
    results = fill(
        tmp_path,
        make_record(seed=0, aa=50),
        make_record(seed=1, aa=20, aa_n=50),
        make_record(seed=2, aa=None),
    )
    rows = rows_below(text_of(results), SLF)
    cells = [(row["AA"].split()[0], row["AA"].split()[-1], row["Seeds"]) for row in rows]
    assert cells == [("50.0", "n=100", "1"), ("40.0", "n=50", "1"), ("–", "–", "1")]


def test_seeds_of_the_protocol_alone_are_no_seeds_of_pretraining(tmp_path: Path) -> None:
    lent = [make_record(seed=seed, encoder_seed=0, aa=20 + seed) for seed in (1, 2)]
    fill(tmp_path, *(make_record(seed=seed, aa=50 + seed) for seed in (0, 1)), *lent)
    rows = rows_below(text_of(tmp_path), SLF)
    assert [(row["Method"], row["AA"].split()[0]) for row in rows] == [
        ("DeACL 2022", "50.5"),
        ("DeACL 2022 (encoder of seed 0)", "21.5"),
    ]


def test_of_the_same_run_the_newest_record_counts(tmp_path: Path) -> None:
    times = [
        "2024-01-01T12:00:00+00:00",
        "2024-01-01T11:00:00-05:00",
        "2024-01-01T13:00:00Z",
    ]  # UTC 12, 16, 13
    results = fill(
        tmp_path,
        *(make_record(aa=aa, finished=at) for aa, at in zip([90, 30, 80], times, strict=True)),
        make_record(aa=50, seed=1),
    )
    board = build_leaderboard(results)
    older = tuple(f"cifar10/deacl-mini-uniform-s0-slf-22222222{number}.json" for number in ("", ".3"))
    assert [(row.aa and row.aa.accuracy, row.superseded, row.seeds) for row in board.rows] == [(0.4, older, (0, 1))]
    assert board.records == 2
    assert board.left_out == ()
    (note,) = [line for line in text_of(results).splitlines() if line.startswith("Superseded")]
    assert re.findall(r"\(results/([^)]*)\)", note) == list(older)


def test_the_text_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    records = [
        make_record(dataset=d, seed=s, tier=t, aa=aa, finished=f"2024-01-01T0{aa % 7}:00:00+00:00", device=f"d{s}")
        for d in ("cifar10", "digits")
        for t in ("mini", "tiny")
        for s in (0, 1)
        for aa in (30, 40)
    ]
    texts = set()
    for trial in range(4):
        shuffled = np.random.default_rng(trial).permutation(len(records))
        results = fill(tmp_path / str(trial), *(records[i] for i in shuffled))
        # Which of two records of a run got the number behind its name is history, not content.
        texts.add(text_of(results).replace(".2.json", ".json").encode())
    assert len(texts) == 1
    assert text_of(results) == text_of(results)
    assert str(tmp_path) not in text_of(results)


def test_a_thousand_records_take_seconds_at_most(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    template = make_record()
    for i in range(1000):
        own = {"seed": i % 5, "protocol_sha256": f"{i // 5:064}", "classifier_sha256": f"{i:064}"}
        record = template.model_copy(update=own).sealed()
        (tmp_path / "cifar10" / f"{i}.json").write_text(record.model_dump_json())
    start = time.perf_counter()
    text = text_of(tmp_path)
    seconds = time.perf_counter() - start
    assert len(table_below(text, SLF)) == 200
    assert seconds < 10, f"{seconds:.1f} s"  # 1 s on two slow cores; a quadratic step would take minutes


# Guessing, images and machines


def test_rows_that_guess_stand_last_without_a_rank(tmp_path: Path) -> None:
    scores = {"guesses": (22, 20, 20), "weak": (160, 90, 10), "unattacked": (160, 90, None)}
    fill(tmp_path, *(make_record(method=m, title=m, sa=sa, ra=ra, aa=aa) for m, (sa, ra, aa) in scores.items()))
    text = text_of(tmp_path)
    rows = rows_below(text, SLF)
    assert [(row["Method"], row["#"]) for row in rows] == [
        ("weak 2022", "1"),
        ("unattacked 2022", "–"),
        ("guesses 2022 ⚑1", "–"),
    ]
    assert "\n⚑1 SA is no better than guessing (seed 0)" in text


def test_ra_stands_beside_aa_on_the_same_images(tmp_path: Path) -> None:
    survivors = [i < 10 for i in range(50)]
    withstood = [i < 12 or i >= 100 for i in range(TEST_IMAGES)]
    fill(tmp_path, make_record(ra=withstood, aa=survivors, aa_n=50))
    (row,) = rows_below(text_of(tmp_path), SLF)
    assert [row[name].split()[0] for name in ("AA", "RA", "SA")] == ["20.0", "56.0", "80.0"]
    headings = headings_below(text_of(tmp_path), SLF)
    cells = dict(zip(headings, table_below(text_of(tmp_path), SLF)[0], strict=True))
    assert cells["RA, images of AA"].startswith("24.0 [")
    assert "RA, images of AA" not in headings_below(
        text_of(fill(tmp_path / "all", make_record(aa=40, aa_n=TEST_IMAGES))), SLF
    )


def test_costs_are_multiples_of_deacls_whatever_its_evaluation(tmp_path: Path) -> None:
    wide: dict[str, Any] = {"eps": 4 / 255, "protocol_sha256": "5" * 64, "overrides": {"evaluate.eps": 4 / 255}}
    longer = {**wide, "protocol_sha256": "6" * 64, "overrides": {**wide["overrides"], "stage2.epochs": 10}}
    fewer = {**wide, "protocol_sha256": "7" * 64, "overrides": {**wide["overrides"], "evaluate.autoattack_images": 50}}
    fill(
        tmp_path,
        make_record(**wide, flops=2e6),
        make_record(**fewer, flops=2e6),
        make_record(**longer, flops=3e6),
        make_record(**wide, method="other", title="other", flops=5e6),
    )
    rows = rows_below(text_of(tmp_path), f"{SLF}, Linf 4/255")
    assert {row["Method"]: row["FLOPs x DeACL"] for row in rows} == {
        "DeACL 2022": "1.00",
        "DeACL 2022 (evaluate.autoattack_images=50)": "1.00",
        "DeACL 2022 (stage2.epochs=10)": "1.50",
        "other 2022": "2.50",
    }


def test_time_is_a_multiple_of_deacls_on_the_same_machine_only(tmp_path: Path) -> None:
    costs = {"deacl": ("A", 100), "other": ("A", 250), "elsewhere": ("B | x", 50)}
    for method, (device, seconds) in costs.items():
        cost = {"stage:ssl": PhaseCost(seconds=seconds, images=10, flops_per_image=1, device=device)}
        fill(tmp_path, make_record(method=method, title=method, cost=cost, device="evaluated elsewhere"))
    for seed, (device, seconds) in enumerate((("A", 100), ("B | x", 50))):
        cost = {"stage:ssl": PhaseCost(seconds=seconds, images=10, flops_per_image=1, device=device)}
        fill(tmp_path, make_record(method="both", title="both", cost=cost, seed=seed, protocol_sha256="b" * 64))
    text = text_of(tmp_path)
    assert {
        row["Method"]: (row["Time"], row["Time x DeACL"], row["FLOPs x DeACL"]) for row in rows_below(text, SLF)
    } == {
        "deacl 2022": ("0:01:40 (a)", "1.00", "1.00"),
        "other 2022": ("0:04:10 (a)", "2.50", "1.00"),
        "elsewhere 2022": ("0:00:50 (b)", "–", "1.00"),
        "both 2022": ("– (a) (b)", "–", "1.00"),
    }
    assert "\n(a) A\n\n(b) B \\| x\n" in text


def test_the_readme_shows_aa_under_aff_of_the_row_that_has_it(tmp_path: Path) -> None:
    aff: dict[str, Any] = {"protocol": "aff", "sa": 150}
    without = make_record(aa=None, overrides={"evaluate.autoattack": False}, protocol_sha256="9" * 64, **aff)
    fill(tmp_path, make_record(), make_record(aa=70, protocol_sha256="8" * 64, **aff), without)
    block = render_readme_block(build_leaderboard(tmp_path), details_at="L.md")
    heading, _, row = ([cell.strip() for cell in line.split("|")] for line in block.splitlines() if line[:1] == "|")
    assert row[heading.index("AA under AFF, n=100")].startswith("70.0 ")


def test_aff_recipes_of_one_name_give_the_readme_no_number(tmp_path: Path) -> None:
    aff: dict[str, Any] = {"protocol": "aff", "sa": 150}
    other: dict[str, Any] = {"method": "acl", "title": "ACL"}
    fill(tmp_path, make_record(), *(make_record(aa=aa, protocol_sha256=f"{aa}" * 32, **aff) for aa in (70, 50)))
    fill(tmp_path, make_record(aa=20, **other), make_record(aa=60, **other, **aff))
    block = render_readme_block(build_leaderboard(tmp_path), details_at="L.md")
    heading, _, *rows = ([cell.strip() for cell in line.split("|")] for line in block.splitlines() if line[:1] == "|")
    shown = {row[2]: row[heading.index("AA under AFF, n=100")].split()[0] for row in rows}
    assert shown == {"DeACL 2022": "–", "ACL 2022": "60.0"}


@pytest.mark.parametrize("protocol", ["slf", "aff"])
def test_the_readme_explains_shared_ranks_where_it_shows_one(tmp_path: Path, protocol: str) -> None:
    alike = (make_record(method=name, title=name, protocol=protocol, aa=aa) for name, aa in (("a", 51), ("b", 50)))
    fill(tmp_path, make_record(aa=90), *alike)
    assert any(row.tied for row in build_leaderboard(tmp_path).rows)
    block = render_readme_block(build_leaderboard(tmp_path), details_at="L.md")
    assert ("share a rank (=)" in block) == (protocol == "slf")
