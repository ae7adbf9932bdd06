"""What the documents say is true: their code runs, their commands parse, their links lead somewhere.

A ```` ```python ```` block is run, page by page and in order, in a folder that holds ``record.json`` and
``results/``. A block that names a file (```` ```python rotnet.py ````) is that file.
"""

import re
import shlex
import sys
import tomllib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from attacked_linear import Linear, data
from pydantic import BaseModel
from typer.testing import CliRunner

from bench.attack import ATTACKS, NamedAttack
from bench.cli import app
from bench.cli._options import overrides
from bench.data import DATASETS, OWN_FORMS
from bench.errors import BenchError
from bench.method import METHODS
from bench.recipe import EvaluationSettings, Fidelity, Threat, load_tier, parse_overrides, tier_names
from bench.record import (
    AttackList,
    AutoAttackEvaluation,
    CorruptionEvaluation,
    Environment,
    Inventory,
    ListedAttack,
    MinimalPerturbations,
    Outcome,
    PGDEvaluation,
    PhaseCost,
    Record,
    load_record,
    record_path,
    save_record,
)
from bench.run import RunRequest, prepare
from bench.template import write_method

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
SMALL = {"encoder.width": 2, "slf.epochs": 1, "evaluate.autoattack": False, "evaluate.pgd_steps": 2}


class Block(NamedTuple):
    language: str
    file: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", page.read_text(), re.M | re.S)]


def python(page: Path) -> list[str]:
    return [block.text for block in blocks(page) if (block.language, block.file) == ("python", "")]


def prose(page: Path) -> str:
    """A page without its blocks, and without the table that `bench leaderboard --check` answers for."""
    text = re.sub(r"<!-- leaderboard:begin.*?<!-- leaderboard:end -->", "", page.read_text(), flags=re.S)
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Every command that a page shows, in a shell block or as code in a sentence, split into words."""
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.text.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose(page))
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(bench|make|python) ", line)]


def column(page: Path, heading: str) -> list[str]:
    """The names in the first column of the table below the line that starts with ``heading``."""
    table = page.read_text().split(f"\n{heading}", 1)[1].split("\n|", 1)[1].split("\n\n")[0]
    return [name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


# The walk of docs/methods.md

WALK = ROOT / "docs" / "methods.md"


class Walk(NamedTuple):
    folder: Path
    record: Record
    path: Path
    board: str


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """The folder after the commands of the page's first block, with the settings of a run of seconds."""
    folder = tmp_path_factory.mktemp("walk")
    stage = {"stage1.epochs": 1, "stage1.warmup_epochs": 0, "stage1.batch_size": 256, "stage1.steps": 1}
    small = [f"--set={key}={value}" for key, value in {**SMALL, **stage}.items()]
    published = next((ROOT / "results" / "digits").glob("deacl-tiny-uniform-s1-slf-*.json"))
    save_record(folder / "results", load_record(published))
    list(METHODS)  # finds those that are installed; one from a file is forgotten after the test
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "path", [*sys.path])  # the inner pytest adds to it
        patch.setattr(METHODS, "_entries", dict(METHODS._entries))
        shell = next(block for block in blocks(WALK) if block.language == "bash").text
        for program, *arguments in map(shlex.split, shell.splitlines()):
            if program == "python":
                assert arguments[:2] == ["-m", "pytest"]
                assert pytest.main([*arguments[2:], "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]) == 0
                continue
            done = CliRunner().invoke(app, [*arguments, *(small if arguments[0] == "run" else [])])
            assert not done.exception, (arguments, done.exception)
        (path,) = (folder / "results" / "local" / "digits").glob("*.json")
    forget()
    return Walk(folder, load_record(path), path, done.stdout)


def forget() -> None:
    """Let the modules of the walk be unknown to Python again, as they are to a user who begins."""
    for name in ("my_method", "test_my_method"):
        sys.modules.pop(name, None)


def test_the_walk_ends_with_a_row_beside_deacl(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    name = METHODS.name_of(f"{walk.folder}/my_method.py:MyMethod")
    assert (walk.record.method, walk.record.title, walk.record.protocol) == (name, "MyMethod", "slf")
    assert walk.record.ra.outcome.n == walk.record.sa.n == 360
    assert f"MyMethod {datetime.now(UTC).year} (local, {name}" in " ".join(walk.board.split())
    assert "DeACL 2022" in walk.board


def test_the_package_of_the_page_gives_the_method_a_name(
    walk: Walk, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(forget)
    project = next(block for block in blocks(WALK) if block.file == "pyproject.toml").text
    ((name, entry),) = tomllib.loads(project)["project"]["entry-points"]["bench.methods"].items()
    monkeypatch.syspath_prepend(walk.folder)
    monkeypatch.setitem(METHODS._entries, name, entry)
    assert METHODS.get(name).info.title == walk.record.title


def test_the_attack_of_the_page_joins_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(block for block in blocks(ROOT / "docs" / "attack_suite.md") if block.file == "my_attack.py")
    (tmp_path / block.file).write_text(block.text)
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    (name, other) = overrides(None, None, None, attacks=f"{tmp_path / block.file}:noise,pgd-cw")["evaluate.attacks"]
    assert (name.partition("+")[0], other) == ("noise", "pgd-cw")
    settings = EvaluationSettings(attacks=(name, other))
    images, labels = data()
    attack = NamedAttack(name, settings)
    x_adv = attack(Linear(), images, labels, threat=Threat(eps=0.1), seed=0, positions=range(len(images)))
    assert attack.settings == {"tries": 10}
    before, after = ((Linear()(x).argmax(1) == labels).sum() for x in (images, x_adv))
    assert after < before
    with pytest.raises(BenchError, match=r"a file is loaded where it is typed alone: bench run METHOD --attacks"):
        EvaluationSettings.parse({"attacks": [f"{tmp_path / block.file}:noise"]}, "recipe")


# Code


@pytest.fixture
def record_folder(tmp_path: Path, walk: Walk, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A working folder with ``record.json`` and ``results/``: the walk's record, with an AA on 40 images."""
    ra = walk.record.ra
    chosen = range(0, 360, 9)
    alive = [i % 3 == 0 for i in range(40)]
    aa = AutoAttackEvaluation(
        outcome=Outcome.pack(alive, images=chosen, test_images=360),
        eps=ra.eps,
        version="standard",
        package="pyautoattack",
        package_version="0",
        targets=9,
        survivors={"square": sum(alive)},
        warnings=[],
    )
    record = walk.record.model_copy(update={"aa": aa}).sealed()
    saved = save_record(tmp_path / "results", record)
    (tmp_path / "record.json").write_bytes(saved.read_bytes())
    monkeypatch.chdir(tmp_path)
    return record


@pytest.mark.parametrize("name", [name for page, name in zip(PAGES, NAMES, strict=True) if python(page)])
def test_the_python_of_a_page_runs(name: str, record_folder: Record) -> None:
    namespace: dict[str, Any] = {}
    for code in python(ROOT / name):
        exec(compile(code, name, "exec"), namespace)


def test_a_bitmap_is_decoded_without_the_bench(record_folder: Record) -> None:
    namespace: dict[str, Any] = {}
    exec(python(ROOT / "docs" / "records.md")[0], namespace)
    assert namespace["correct"].tolist() == record_folder.ra.outcome.unpack()
    assert 0 < namespace["correct"].sum() == record_folder.ra.outcome.correct


def test_ra_and_aa_are_compared_on_the_same_images(record_folder: Record, capsys: pytest.CaptureFixture[str]) -> None:
    exec(python(ROOT / "docs" / "protocols.md")[0], {})
    robust = sum(record_folder.ra.outcome.unpack()[::9])
    assert capsys.readouterr().out == f"AA 14, RA {robust} of 40 images\n"


# Commands


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse_and_their_settings_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_tier = next(block.text for block in blocks(ROOT / "docs" / "recipes.md") if block.language == "toml")
    (tmp_path / "my-tier.toml").write_text(own_tier)
    write_method("my-method", tmp_path)
    labels: dict[str, Any] = {f"k{k}": np.arange(1437) % k for k in (2, 10, 50, 100, 500)}
    np.savez(tmp_path / "advcl-labels.npz", **labels)
    list(METHODS)  # finds those that are installed; one from a file is forgotten after the test
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.chdir(tmp_path)
    cli: Any = typer.main.get_command(app)
    for program, command, *arguments in commands(ROOT / name):
        if program == "bench" and not command.startswith("-"):
            known = cli.commands[command]
            context = known.make_context(command, arguments) if arguments else None
            if context and command == "run":  # without an argument a sentence only names the command
                given = context.params
                named = (given[name] for name in ("method", "tier", "fidelity", "protocols", "encoder", "attacks"))
                prepare_on_digits(tuple(given["set_"] or ()), *named)
                assert given["dataset"] in DATASETS


@pytest.mark.parametrize("name", ["docs/leaderboard.md", "docs/statistics.md"])
def test_commands_that_read_the_published_records_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    writes = {"--write", "--output", "--bibtex"}
    answered = 0
    for program, command, *arguments in commands(ROOT / name):
        own = any(argument.startswith("local/") for argument in arguments)
        reads = program == "bench" and command in {"compare", "leaderboard"} and not writes & set(arguments)
        if reads and arguments and not own:
            done = CliRunner().invoke(app, [command, *arguments])
            assert not done.exception, (arguments, done.exception)
            answered += 1
    assert answered >= 3


@cache  # pages repeat commands
def prepare_on_digits(
    settings: tuple[str, ...], method: str, tier: str, fidelity: Fidelity, protocols: str, encoder: str, attacks: str
) -> None:
    """Let ``bench run`` check all that it checks before it trains, without a download."""
    own: dict[str, Any] = {"encoder.arch": encoder} if encoder else {}
    own |= {"evaluate.attacks": attacks.split(",")} if attacks else {}
    run = prepare(
        RunRequest(
            method=method,
            dataset="digits",
            tier=tier,
            fidelity=fidelity,
            protocols=(protocols or "slf").split(","),
            overrides={**own, **parse_overrides(settings)},
            device="cpu",
        )
    )
    assert run.recipe.overrides.keys() == {*own, *(item.split("=")[0] for item in settings)}


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {words[1] for words in commands(ROOT / name) if words[0] == "make"} <= targets


def test_every_command_has_a_page_that_shows_it() -> None:
    cli: Any = typer.main.get_command(app)
    assert set(cli.commands) <= {words[1] for page in PAGES for words in commands(page) if words[0] == "bench"}


# Links and tables


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_resolve(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs/")])
def test_a_page_is_one_idea(name: str) -> None:
    text = (ROOT / name).read_text()
    # Not a list of sections that a script wrote, nor what commands print.
    own = re.sub(r"<!-- checks: .*?<!-- end -->|^```text\n.*?^```$", "", text, flags=re.S | re.M)
    lines = [line for line in own.splitlines() if line and not line.startswith("|")]  # tables may be long
    assert len(lines) < 90
    assert len(re.findall(r"^# ", prose(ROOT / name), re.M)) == 1
    assert name == "docs/index.md" or f"]({Path(name).name})" in (ROOT / "docs" / "index.md").read_text()


def test_the_readme_opens_with_one_sentence_and_the_results() -> None:
    opening = (ROOT / "README.md").read_text().split("<!-- leaderboard:begin")[0].split("\n\n")
    assert [len(re.findall(r"\.(?:\s|$)", part)) for part in opening] == [0, 1, 0]


def test_the_readme_lists_every_method_dataset_and_tier() -> None:
    readme = ROOT / "README.md"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(column(readme, "## Methods")) == set(project["entry-points"]["bench.methods"])
    assert set(column(readme, "## Datasets")) == {*DATASETS, *(f"{form}:PATH" for form in OWN_FORMS)}
    assert column(readme, "## Tiers") == tier_names()


def test_a_method_is_listed_as_it_describes_itself() -> None:
    text = (ROOT / "README.md").read_text()
    for name in METHODS:
        info = METHODS.get(name).info
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` | {info.title}"))
        assert f"| {info.year} |" in row
        assert f"[{info.paper.rpartition(', ')[2]}]({info.url})" in row


def test_the_tiers_are_described_as_they_are() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    for tier in map(load_tier, tier_names()):
        images = tier.evaluate.get("autoattack_images", "all")
        numbers = f"x {tier.epochs:g} | x {tier.batch_size:g} | width {tier.encoder.get('width', 64)} | {images} images"
        assert f"| `{tier.name}` | {numbers} |" in text


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("## Schema, version 4", Record),
        ("**Inventory**", Inventory),
        ("**Outcome**", Outcome),
        ("**PGD evaluation**", PGDEvaluation),
        ("**AutoAttack evaluation**", AutoAttackEvaluation),
        ("**Attack list**", AttackList),
        ("**Listed attack**", ListedAttack),
        ("**Minimal perturbations**", MinimalPerturbations),
        ("**Corruption evaluation**", CorruptionEvaluation),
        ("**Cost**", PhaseCost),
    ],
)
def test_the_schema_is_described_field_by_field(heading: str, schema: type[BaseModel]) -> None:
    assert sorted(column(ROOT / "docs" / "records.md", heading)) == sorted(schema.model_fields)


def test_the_environment_is_described_field_by_field() -> None:
    line = next(x for x in (ROOT / "docs" / "records.md").read_text().splitlines() if x.startswith("**Environment**"))
    assert re.findall(r"`(\w+)`", line) == list(Environment.model_fields)


def test_a_record_lies_where_the_page_says(record_folder: Record) -> None:
    pattern = re.findall(r"`(results/local/<\S+)`", (ROOT / "docs" / "records.md").read_text())[0]
    facts = record_folder.model_dump() | {"digest": record_folder.protocol_sha256[:8]}
    expected = re.sub(r"<(\w+)>", lambda field: str(facts[field[1]]), pattern)
    assert record_path(Path("results/local"), record_folder).as_posix() == expected
