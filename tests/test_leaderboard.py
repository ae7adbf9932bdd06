"""The leaderboard: which records count, which rows share a table, and what the text says about them."""

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bench.cli.leaderboard import leaderboard
from bench.errors import BenchError, CheckFailedError
from bench.leaderboard import (
    build_leaderboard,
    check_leaderboard,
    load_published,
    published_reference,
    render_leaderboard,
    render_readme_block,
    write_leaderboard,
)
from bench.leaderboard.wording import duration, eps_text, escape, percent, settings_text
from bench.record import (
    AutoAttackEvaluation,
    Environment,
    Outcome,
    PGDEvaluation,
    PhaseCost,
    Record,
    save_record,
)

TEST_IMAGES = 200
PUBLISHED = Path(__file__).parents[1] / "results"
README = "# Title\n\nbefore <!-- leaderboard:begin -->old<!-- leaderboard:end --> after\n"


def outcome(correct: int, n: int) -> Outcome:
    images = None if n == TEST_IMAGES else range(n)
    return Outcome.pack([i < correct for i in range(n)], images=images, test_images=TEST_IMAGES)


def make_record(
    *,
    sa: int = 160,
    ra: int = 100,
    aa: int | None = 40,
    aa_n: int = 100,
    eps: float = 8 / 255,
    warnings: Iterable[str] = (),
    data: str = "d" * 64,
    device: str = "CPU",
    **changes: Any,
) -> Record:
    """A record whose accuracies are ``sa`` and ``ra`` of 200 images, and ``aa`` of ``aa_n``."""
    dataset = changes.get("dataset", "cifar10")
    facts = {
        **{
            "name": dataset,
            "sha256": data,
            "image_shape": (3, 32, 32),
            "num_classes": 10,
            "train_images": 5000,
        },
        **{"test_images": TEST_IMAGES, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    }
    attacked = None if aa is None else outcome(aa, aa_n)
    return Record(
        **{
            **{
                "method": "deacl",
                "title": "DeACL",
                "year": 2022,
                "dataset": dataset,
                "tier": "mini",
                "tier_sha256": "5" * 64,
                "fidelity": "uniform",
            },
            **{"seed": 0, "protocol": "slf", "overrides": {}},
            "recipe": {"dataset": facts, "threat": {"norm": "linf", "eps": eps}},
            **{"pretraining_sha256": "1" * 64, "protocol_sha256": "2" * 64},
            **{"encoder_sha256": "3" * 64, "classifier_sha256": "4" * 64},
            "sa": outcome(sa, TEST_IMAGES),
            "ra": PGDEvaluation(
                **{"outcome": outcome(ra, TEST_IMAGES), "eps": eps, "steps": 20, "step_size": eps / 4},
                **{"start": "uniform", "restarts": 1},
            ),
            "aa": attacked
            and AutoAttackEvaluation(
                **{
                    "outcome": attacked,
                    "eps": eps,
                    "version": "standard",
                    "package": "p",
                    "package_version": "1",
                },
                **{"targets": 9, "survivors": {}, "warnings": list(warnings)},
            ),
            "cost": {
                "stage:ssl": PhaseCost(seconds=3600, device=device),
                "stage:pseudo_at": PhaseCost(seconds=125, device=device),
                "slf": PhaseCost(seconds=9999, device=device),
            },
            "history": {},
            "environment": Environment(bench="0", packages={}, python="3", platform="test", device=device, threads=1),
            **{"started": "2024-01-01T00:00:00+00:00", "finished": "2024-01-01T02:00:00+00:00"},
            **changes,
        }
    )


def text_of(results: Path) -> str:
    return render_leaderboard(build_leaderboard(results), records_at="results")


def fill(results: Path, *records: Record) -> Path:
    results.mkdir(exist_ok=True)
    for record in records:
        save_record(results, record)
    return results


def table_below(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below the line ``heading``, without its two header lines."""
    lines = text[text.index(f"\n{heading}\n") :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    body = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return body


SLF = "### cifar10: SLF, tier mini, fidelity uniform"

# Rows


def test_a_row_says_all_of_its_record(tmp_path: Path) -> None:
    text = text_of(fill(tmp_path, make_record(sa=160, ra=100, aa=71, device="Some CPU, 2 threads")))
    assert table_below(text, SLF) == [
        [
            "DeACL 2022",
            "71.0 [61.5, 79.0] n=100",
            "50.0 [43.1, 56.9] n=200",
            "80.0 [73.9, 85.0] n=200",
            "1:02:05",
            "Some CPU, 2 threads",
            "1",
            "[seed 0](results/cifar10/deacl-mini-uniform-s0-slf-22222222.json)",
        ]
    ]
    assert "5,000 training and 200 test images of 10 classes, default eps 8/255, data `dddddddd`." in text


def test_rows_are_sorted_by_aa_and_those_without_come_last_by_ra(tmp_path: Path) -> None:
    scores = {"a": (20, 120), "b": (None, 150), "c": (60, 90), "d": (None, 180), "e": (20, 130), "f": (0, 10)}
    results = fill(tmp_path, *(make_record(title=m, method=m, aa=aa, ra=ra) for m, (aa, ra) in scores.items()))
    rows = table_below(text_of(results), SLF)
    assert [row[0] for row in rows] == [f"{title} 2022" for title in ("c", "e", "a", "f", "d", "b")]
    assert [row[1] for row in rows[-3:]] == ["0.0 [0.0, 3.7] n=100", "–", "–"]


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
    board = build_leaderboard(tmp_path)
    text = render_leaderboard(board, records_at="results")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == len(grid) == len({row.table for row in board.rows})
    assert all(table.count("\n") == 3 for table in tables)
    headings = [line for line in text.splitlines() if line.startswith("### cifar10: SLF")]
    order = [f"{tier}, fidelity {f}" for tier in ("paper", "mini", "tiny", "own") for f in ("uniform", "native")]
    assert headings == [f"### cifar10: SLF, tier {one}" for one in order] * 2  # once for each of two data sets
    protocols = re.findall(r"### cifar10: (\w+), tier paper, fidelity uniform", text)
    assert protocols == ["SLF", "ALF", "AFF"] * 2


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
        make_record(aa=30, eps=4 / 255, protocol_sha256="6" * 64),
        make_record(aa=20, overrides={"threat.eps": 16 / 255}, protocol_sha256="7" * 64),
        # What the recipe had anyway: the same hash, yet not a seed, nor a repetition, of the plain run.
        make_record(aa=10, overrides={"stage2.lam": 2.0}),
    )
    assert [row[0] for row in table_below(text_of(results), SLF)] == [
        "DeACL 2022",
        "DeACL 2022 (stage1.nesterov=true, stage2.weight_decay=1e-5)",
        "DeACL 2022 (eps 4/255)",
        "DeACL 2022 (threat.eps=16/255)",
        "DeACL 2022 (stage2.lam=2.0)",
    ]


def test_two_recipes_of_one_name_show_their_hashes(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(aa=50), make_record(aa=40, protocol_sha256="5" * 64))
    names = [row[0] for row in table_below(text_of(results), SLF)]
    assert names == ["DeACL 2022, recipe 22222222", "DeACL 2022, recipe 55555555"]


def test_another_pgd_or_norm_is_said(tmp_path: Path) -> None:
    plain = make_record()
    weaker = plain.ra.model_copy(update={"steps": 10, "restarts": 3})
    recipe = {**plain.recipe, "threat": {"norm": "l2", "eps": 0.5}}
    fill(tmp_path, plain.model_copy(update={"ra": weaker, "recipe": recipe}))
    assert build_leaderboard(tmp_path).rows[0].label == "DeACL 2022 (L2 eps 8/255, PGD-10 x 3)"


def test_a_method_without_stages_has_no_pretraining_time(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(cost={"slf": PhaseCost(seconds=7, device="CPU")}))
    assert table_below(text_of(results), SLF)[0][4] == "–"


def test_autoattack_warnings_are_flagged_below_the_table(tmp_path: Path) -> None:
    shared, own = "zero gradients\n for 3 points", "a|b is randomized"
    results = fill(
        tmp_path,
        make_record(method="a", aa=50, warnings=[shared]),
        make_record(method="b", aa=40, warnings=[own, shared]),
        make_record(method="c", aa=30),
    )
    text = text_of(results)
    cells = [row[1] for row in table_below(text, SLF)]
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
    cells = table_below(text_of(results), SLF)[0]
    assert cells[1] == f"{100 * shares.mean():.1f} ± {100 * shares.std(ddof=1):.1f} n=100"
    assert cells[3] == "80.0 ± 0.0 n=200"
    assert cells[6] == "3"
    assert re.findall(r"\[seed (\d)\]\([^)]*-s(\d)-", cells[7]) == [("0", "0"), ("3", "3"), ("7", "7")]


def test_seeds_measured_on_different_images_have_no_common_mean(tmp_path: Path) -> None:
    results = fill(
        tmp_path,
        make_record(seed=0, aa=50),
        make_record(seed=1, aa=20, aa_n=50),
        make_record(seed=2, aa=None),
    )
    cells = [(row[1].split()[0], row[1].split()[-1], row[6]) for row in table_below(text_of(results), SLF)]
    assert cells == [("50.0", "n=100", "1"), ("40.0", "n=50", "1"), ("–", "–", "1")]


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
    assert [(row.aa and row.aa.accuracy, row.superseded, row.seeds) for row in board.rows] == [(0.4, 2, (0, 1))]
    assert board.records == 2
    notes = [line for line in text_of(results).splitlines() if "left out" in line]
    assert notes == ["Superseded by newer records of the same runs, and left out: 2 records."]


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


# Records that cannot be trusted


def break_some(results: Path) -> dict[str, str]:
    """Damage files below ``results`` in every way; returns their names, each with what must be said of it."""
    good = json.loads(next(results.glob("cifar10/*.json")).read_text())
    no_facts = make_record(seed=9, recipe={"threat": {"eps": 0.1}})
    texts = {
        "truncated": (json.dumps(good)[:500], "cannot read"),
        "future": (json.dumps({**good, "schema_version": 3}), "schema version 3"),
        "edited": (json.dumps({**good, "seed": 5}), "checksum"),
        "disagrees": (json.dumps({**good, "sa": {**good["sa"], "accuracy": 0.99}}), "disagrees"),
        "nan": (json.dumps({**good, "recipe": {"x": float("nan")}}), "checksum"),
        "nested": ("[" * 100_000, "recursion"),
        "time": (json.dumps({**good, "finished": "yesterday"}), "finished: Input should be a valid datetime"),
        "zone": (json.dumps({**good, "started": "2024-01-01T00:00:00"}), "started: Input should have timezone info"),
        "facts": (no_facts.sealed().model_dump_json(), "recipe.dataset"),
    }
    for name, (text, _) in texts.items():
        (results / "cifar10" / f"{name}.json").write_text(text)
    return {f"cifar10/{name}.json": complaint for name, (_, complaint) in texts.items()}


def test_bad_records_are_left_out_and_named(tmp_path: Path) -> None:
    results = fill(tmp_path / "results", make_record())
    before = text_of(results)
    expected = break_some(results)
    board = build_leaderboard(results)
    assert text_of(results) == before
    assert {bad.file for bad in board.left_out} == set(expected)
    for bad in board.left_out:
        assert expected[bad.file] in bad.reason
        assert not bad.reason.startswith(str(results))


def test_the_check_names_every_bad_record(tmp_path: Path) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "LEADERBOARD.md"
    write_leaderboard(results, path)
    names = break_some(results)
    with pytest.raises(CheckFailedError) as caught:
        check_leaderboard(results, path)
    assert all(name in str(caught.value) for name in names)
    assert "stale" not in str(caught.value)


# Files


def test_a_stale_or_missing_board_fails_the_check(tmp_path: Path) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "LEADERBOARD.md"
    command = f"Type: bench leaderboard --results-dir {results} --output {path}"
    with pytest.raises(CheckFailedError, match=re.escape(command)):
        check_leaderboard(results, path)
    board = write_leaderboard(results, path)
    assert check_leaderboard(results, path) == board
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check_leaderboard(results, path) == board
    fill(results, make_record(seed=1, aa=99))
    with pytest.raises(CheckFailedError, match="stale or missing"):
        check_leaderboard(results, path)


def test_links_lead_from_the_board_to_the_records(tmp_path: Path) -> None:
    results = fill(tmp_path / "my results", make_record(), make_record(seed=1))
    for path in (tmp_path / "LEADERBOARD.md", tmp_path / "deep" / "er" / "board.md"):
        write_leaderboard(results, path)
        links = re.findall(r"\]\(([^)]*\.json)\)", path.read_text())
        assert len(links) == 2
        assert all((path.parent / link.replace("%20", " ")).is_file() for link in links)


def test_the_readme_gets_short_slf_tables_between_its_markers(tmp_path: Path) -> None:
    results, path, readme = tmp_path / "results", tmp_path / "LEADERBOARD.md", tmp_path / "README.md"
    fill(results, make_record(aa=71), make_record(protocol="aff"), make_record(tier="tiny", aa=11))
    (results / "published").mkdir()
    (results / "published" / "p.json").write_text((PUBLISHED / "published" / "published.json").read_text())
    readme.write_text(README)
    board = write_leaderboard(results, path)
    text = readme.read_text()
    block = render_readme_block(board, details_at="LEADERBOARD.md")
    assert text == README.replace("old", f"\n{block}\n")
    assert block.count("| --- |") == 2
    assert (
        "| DeACL 2022 | 71.0 [61.5, 79.0] n=100 | 50.0 [43.1, 56.9] n=200 | 80.0 [73.9, 85.0] n=200 | 1:02:05 |" in text
    )
    assert "ECCV" not in block
    assert "AFF" not in block
    assert check_leaderboard(results, path) == board
    readme.write_text(text.replace("71.0", "99.0"))
    with pytest.raises(CheckFailedError, match=r"stale or missing: [^ ]*README.md\."):
        check_leaderboard(results, path)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- leaderboard:begin -->",
        "<!-- leaderboard:end -->",
        "<!-- leaderboard:end --><!-- leaderboard:begin -->",
        "<!-- leaderboard:end -->" + README,
        README + "<!-- leaderboard:begin -->",
        README + README,
    ],
)
def test_broken_markers_change_no_file(tmp_path: Path, text: str) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "LEADERBOARD.md"
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(BenchError, match="each exactly once"):
        write_leaderboard(results, path)
    assert (tmp_path / "README.md").read_text() == text
    assert not path.exists()


def test_a_file_that_is_no_leaderboard_stays(tmp_path: Path) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "README.md"
    path.write_text("my own words")
    with pytest.raises(BenchError, match="not a generated leaderboard"):
        write_leaderboard(results, path)
    assert path.read_text() == "my own words"


def test_a_missing_results_folder_is_an_error_not_an_empty_board(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no results folder .*nowhere.*--results-dir"):
        write_leaderboard(tmp_path / "nowhere", tmp_path / "LEADERBOARD.md")
    assert not (tmp_path / "LEADERBOARD.md").exists()


# Published numbers


def publish(results: Path, *entries: dict[str, Any]) -> Path:
    defaults = {"source": "A Paper, Table 1", "method": "M", "variant": {}, "pretrain_dataset": "cifar10"}
    more = {
        "dataset": "cifar10",
        "encoder": "resnet18",
        "protocol": "SLF",
        "aa": 40.0,
        "ra": 50.0,
        "sa": 80.0,
    }
    (results / "published").mkdir(parents=True, exist_ok=True)
    values = [{**defaults, **more, **entry} for entry in entries]
    (results / "published" / "numbers.json").write_text(json.dumps(values))
    return results


def test_published_numbers_stand_apart_marked_and_sorted(tmp_path: Path) -> None:
    publish(
        tmp_path,
        {"method": "low", "aa": 0.0},
        {"method": "none", "aa": None, "note": "AA not given"},
        {"method": "high", "aa": 46.14, "aa_std": 0.054, "total_gpu_days": 0.45, "variant": {"lr": 1e-5}},
        {"method": "moved", "aa": 20.5, "ra": None, "pretrain_dataset": "cifar100"},
        {"method": "other", "dataset": "cifar100"},
    )
    text = text_of(fill(tmp_path, make_record(aa=20)))
    heading = "### Published numbers: cifar10, SLF"
    assert text.index(SLF) < text.index(heading) < text.index("## cifar100")
    assert text[text.index(heading) :].startswith(f"{heading}\n\nAs published, not measured here")
    source = ["resnet18", "A Paper, Table 1"]
    assert table_below(text, heading) == [
        ["high (lr=1e-5)", "46.14 ± 0.054", "50.00", "80.00", "0.45", *source],
        ["moved (pre-trained on cifar100)", "20.50", "–", "80.00", "–", *source],
        ["low", "0.00", "50.00", "80.00", "–", *source],
        ["none †1", "–", "50.00", "80.00", "–", *source],
    ]
    assert "\n†1 AA not given\n" in text
    assert [row[0] for row in table_below(text, SLF)] == ["DeACL 2022"]
    assert table_below(text, "### Published numbers: cifar100, SLF")[0][0] == "other (pre-trained on cifar10)"


def test_every_shipped_number_is_shown(tmp_path: Path) -> None:
    numbers = load_published(PUBLISHED)
    publish(tmp_path)
    (tmp_path / "published" / "numbers.json").write_text((PUBLISHED / "published" / "published.json").read_text())
    text = text_of(tmp_path)
    assert len(numbers) == 95
    assert sum(len(table_below(text, line)) for line in text.splitlines() if line.startswith("### ")) == 95
    assert "No measured results yet" in text


@pytest.mark.parametrize(
    ("title", "dataset", "protocol", "aa"),
    [
        ("DeACL", "cifar10", "slf", 45.31),
        ("DeACL", "cifar100", "SLF", 20.34),
        ("deacl", "cifar10", "aff", 50.39),
        ("AdvCL", "cifar10", "slf", 42.57),
        ("Supervised", "cifar100", "aff", 21.61),
    ],
)
def test_the_reference_is_the_papers_headline_number(title: str, dataset: str, protocol: str, aa: float) -> None:
    number = published_reference(PUBLISHED, title=title, dataset=dataset, protocol=protocol)
    assert number is not None
    assert (number.aa, number.variant) == (aa, {})
    assert number.source == f"DeACL, ECCV 2022, Table {7 if protocol.lower() == 'slf' else 8}"


def test_there_is_no_reference_where_nothing_was_published(tmp_path: Path) -> None:
    for title, dataset in [("DeACL", None), ("DeACL", "digits"), ("Nobody", "cifar10")]:
        assert published_reference(PUBLISHED, title=title, dataset=dataset, protocol="slf") is None
    assert published_reference(tmp_path, title="DeACL", dataset="cifar10", protocol="slf") is None
    publish(tmp_path, {"variant": {"x": 1}}, {"encoder": "resnet50"}, {"pretrain_dataset": "cifar100"})
    assert published_reference(tmp_path, title="M", dataset="cifar10", protocol="slf") is None


@pytest.mark.parametrize(
    ("entry", "complaint"), [({"aa": "45%"}, "entry 2: aa"), ({"sa": 101.0}, "sa"), ({"colour": 1}, "colour")]
)
def test_faulty_published_numbers_are_refused(tmp_path: Path, entry: dict[str, Any], complaint: str) -> None:
    publish(tmp_path, {}, entry)
    with pytest.raises(BenchError, match=complaint):
        load_published(tmp_path)
    (tmp_path / "published" / "numbers.json").write_text('{"aa": 1}')
    with pytest.raises(BenchError, match="expected a list"):
        load_published(tmp_path)


# Words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (12, "0:00:12"), (59.6, "0:01:00"), (3725, "1:02:05"), (2 * 86400 + 61, "2 d 0:01:01")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_values_are_written_as_papers_and_users_write_them() -> None:
    assert [eps_text(eps) for eps in (8 / 255, 16 / 255, 0.031, 0.0, 1.0)] == [
        "8/255",
        "16/255",
        "0.031",
        "0",
        "1",
    ]
    settings = {
        "b.lr": 1e-05,
        "a": True,
        "c.eps": 4 / 255,
        "d": [1, 2],
        "e": "byol",
        "f": None,
        "g": 0.30000001,
    }
    written = ["a=true", "b.lr=1e-5", "c.eps=4/255", "d=[1, 2]", "e=byol", "f=null", "g=0.30000001"]
    assert settings_text(settings) == written
    assert (percent(0.71, 100), percent(0.45314, 10_000)) == ("71.0", "45.31")
    assert escape("a|b\n<c> `d` *e*") == r"a\|b \<c\> \`d\` \*e\*"


def test_a_title_cannot_break_out_of_its_cell(tmp_path: Path) -> None:
    title = "Evil | x |\n<!-- leaderboard:end -->"
    results, readme = fill(tmp_path / "results", make_record(title=title)), tmp_path / "README.md"
    readme.write_text(README)
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    assert len(table_below(text_of(results), SLF)[0]) == 8
    assert readme.read_text().endswith("<!-- leaderboard:end --> after\n")


# The command


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(leaderboard)
    return app


def test_the_command_writes_checks_and_names_what_it_left_out(tmp_path: Path, app: typer.Typer) -> None:
    results, path = (
        fill(tmp_path / "results", make_record(), make_record(seed=1)),
        tmp_path / "LEADERBOARD.md",
    )
    arguments = ["--results-dir", str(results), "--output", str(path)]
    stale = CliRunner().invoke(app, [*arguments, "--check"])
    assert isinstance(stale.exception, CheckFailedError)
    assert stale.exception.exit_code == 3
    done = CliRunner().invoke(app, arguments)
    assert done.stdout == f"{path} written (records: 2, rows: 1)\n"
    checked = CliRunner().invoke(app, [*arguments, "--check"])
    assert (checked.exit_code, checked.stdout) == (0, f"{path} is up to date (records: 2, rows: 1)\n")
    (results / "cifar10" / "bad.json").write_text("{}")
    assert "\nleft out cifar10/bad.json: schema version None" in CliRunner().invoke(app, arguments).stdout


def test_the_command_prints_rows_as_json(tmp_path: Path, app: typer.Typer) -> None:
    results = fill(tmp_path / "results", make_record(aa=71))
    arguments = ["--results-dir", str(results), "--output", str(tmp_path / "LEADERBOARD.md"), "--json"]
    printed = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert printed["left_out"] == []
    assert [row["aa"]["accuracy"] for row in printed["rows"]] == [0.71]
    assert printed["rows"][0]["records"] == ["cifar10/deacl-mini-uniform-s0-slf-22222222.json"]
    assert (tmp_path / "LEADERBOARD.md").exists()


def test_a_thousand_records_take_seconds_at_most(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    template = make_record()
    for i in range(1000):
        record = template.model_copy(update={"seed": i % 5, "protocol_sha256": f"{i // 5:064}"}).sealed()
        (tmp_path / "cifar10" / f"{i}.json").write_text(record.model_dump_json())
    start = time.perf_counter()
    text = text_of(tmp_path)
    seconds = time.perf_counter() - start
    assert len(table_below(text, SLF)) == 200
    assert seconds < 10, f"{seconds:.1f} s"  # 1 s on two slow cores; a quadratic step would take minutes
