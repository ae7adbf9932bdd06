"""Published numbers stand beside the measured ones and are never taken for them; and how values read."""

from pathlib import Path
from typing import Any

import pytest
from board_records import RESULTS, SLF, fill, make_record, publish, rows_below, table_below, text_of

from bench.errors import BenchError
from bench.leaderboard import render_leaderboard
from bench.report.site import write_site
from bench.results import (
    build_leaderboard,
    eps_text,
    escape,
    headline,
    load_published,
    percent,
    settings_text,
    time_text,
)


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
    assert text[text.index(heading) :].startswith(f"{heading}\n\n*As published, not measured here")
    source = ["claimed", "resnet18", "A Paper, Table 1"]
    assert table_below(text, heading) == [
        ["high (lr=1e-5)", "46.14 ± 0.054", "50.00", "80.00", "0.45", "–", *source],
        ["moved (pre-trained on cifar100)", "20.50", "–", "80.00", "–", "–", *source],
        ["low", "0.00", "50.00", "80.00", "–", "–", *source],
        ["none †1", "–", "50.00", "80.00", "–", "–", *source],
    ]
    assert "\n†1 AA not given\n" in text
    assert [row[1] for row in table_below(text, SLF)] == ["DeACL 2022"]
    assert table_below(text, "### Published numbers: cifar100, SLF")[0][0] == "other (pre-trained on cifar10)"


def test_every_shipped_number_is_shown(tmp_path: Path) -> None:
    numbers = load_published(tmp_path)
    text = render_leaderboard(build_leaderboard(tmp_path), records_at="results")
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
    number = headline(load_published(RESULTS), title=title, dataset=dataset, protocol=protocol)
    assert number is not None
    assert (number.aa, number.variant) == (aa, {})
    assert number.source == f"DeACL, ECCV 2022, Table {7 if protocol.lower() == 'slf' else 8}"


def test_there_is_no_reference_where_nothing_was_published(tmp_path: Path) -> None:
    for title, dataset in [("DeACL", None), ("DeACL", "digits"), ("Nobody", "cifar10")]:
        assert headline(load_published(RESULTS), title=title, dataset=dataset, protocol="slf") is None
    publish(tmp_path)
    assert headline(load_published(tmp_path), title="DeACL", dataset="cifar10", protocol="slf") is None
    publish(tmp_path, {"variant": {"x": 1}}, {"encoder": "resnet50"}, {"pretrain_dataset": "cifar100"})
    assert headline(load_published(tmp_path), title="M", dataset="cifar10", protocol="slf") is None


def test_a_method_from_a_file_is_not_that_of_the_paper_whose_title_it_kept(tmp_path: Path) -> None:
    facts = {**make_record().recipe["dataset"], "published_as": "cifar10"}
    recipe = {**make_record().recipe, "dataset": facts}
    fill(tmp_path, make_record(aa=50, recipe=recipe), make_record(aa=20, recipe=recipe, method="Mine+aabbccdd"))
    text = render_leaderboard(build_leaderboard(tmp_path), records_at="results")
    published = {row["Method"]: row["*Published AA*"] for row in rows_below(text, SLF)}
    assert published == {"DeACL 2022": "*45.31*", "DeACL 2022 (Mine+aabbccdd)": "–"}


def test_the_site_keeps_papers_and_methods_from_files_with_their_titles_apart(tmp_path: Path) -> None:
    recipe = {**make_record().recipe, "dataset": {**make_record().recipe["dataset"], "published_as": "cifar10"}}
    own = {"zMine+aabbccdd": "DeACL", "Other+aabbccdd": "A-InfoNCE"}
    fill(tmp_path / "results", *(make_record(recipe=recipe, method=name, title=own[name]) for name in own))
    folder = write_site(tmp_path / "results", tmp_path / "out").folder
    index = (folder / "index.html").read_text()
    assert all(name in index for name in own)
    assert 'class="n published" data-sort' not in index.partition('<section class="published"')[0]
    listing = {path.name.partition("-")[0]: 'id="published"' in path.read_text() for path in folder.glob("methods/*")}
    assert [listing[name] for name in ("zMine", "Other", "deacl.html", "A")] == [False, False, True, True]
    assert all(f'href="methods/{name}.html#published"' in index for name in ("deacl", "A-InfoNCE"))


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
    assert time_text(seconds) == text


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
    assert escape("a|b\n<c> d` *e*") == r"a\|b \<c\> d\` \*e\*"
    assert escape("see `a|<b>` and `[c]`, not ``<d>`") == r"see `a\|<b>` and `[c]`, not \`\`\<d\>\`"
