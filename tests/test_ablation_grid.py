"""Grids and tables: what they expand to, that every cell is a valid recipe, and the paper's numbers beside them."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.ablate import PaperColumn, choose_table, parse_grid, plan_ablation
from bench.cli import app
from bench.errors import BenchError
from bench.method import METHODS, AblationCell, AblationTable
from bench.recipe import DatasetFacts, Recipe, build_recipe, load_tier, parse_overrides
from bench.run import RunRequest, prepare
from methods.deacl import DeACL, DeACLConfig
from methods.deacl_losses import LOSS_FORMS
from methods.deacl_tables import TABLES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGE = (ROOT / "docs" / "ablations.md").read_text()
DEFAULT = (45.31, 53.95, 80.17)

PUBLISHED: Mapping[str, Mapping[Any, tuple[float, float, float] | None]] = {
    "1": {"teacher": DEFAULT, "scratch": (44.63, 54.06, 79.47)},
    "3": {
        1e-6: (34.77, 40.45, 81.88),
        1e-5: (36.33, 44.21, 80.29),
        1e-4: (43.26, 52.39, 80.21),
        5e-4: DEFAULT,
        1e-3: (43.07, 53.32, 78.24),
        5e-3: (24.80, 33.45, 55.76),
    },
    "4": {
        ("weak", "weak"): DEFAULT,
        ("strong", "strong"): (6.93, 17.43, 48.12),
        ("weak", "strong"): None,
        ("strong", "weak"): None,
    },
    "5": {"none": DEFAULT, "stage1": (42.48, 50.60, 78.80)},
    "6": {0.0: DEFAULT, 1.0: (34.18, 39.32, 72.19)},
    "9": {
        "simclr": DEFAULT,
        "mocov2": (46.29, 53.97, 80.56),
        "byol": (44.14, 52.42, 80.89),
        "barlow_twins": (41.31, 50.47, 80.88),
        "vicreg": (43.65, 50.56, 82.10),
    },
    "lambda": dict.fromkeys((0.0, 0.5, 1.0, 2.0, 3.0, 5.0)),
    "loss": dict.fromkeys(LOSS_FORMS),
}
"""AA, RA and SA in percent of each cell, by its settings: DeACL's tables, CIFAR-10, ResNet-18, SLF."""


def value(cell: AblationCell) -> Any:
    values = tuple(cell.settings.values())
    return values[0] if len(values) == 1 else values


def cifar10(tier: str, overrides: Mapping[str, Any]) -> Recipe:
    facts = DatasetFacts(
        **{"name": "cifar10", "sha256": "a" * 64, "image_shape": (3, 32, 32), "num_classes": 10},
        **{"train_images": 50000, "test_images": 10000, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    return build_recipe(
        method="deacl",
        config_type=DeACLConfig,
        native_encoder=DeACL.native_encoder,
        dataset=facts,
        tier=load_tier(tier),
        overrides=overrides,
    )


# Grids


def test_a_grid_is_every_combination_in_the_order_typed() -> None:
    table = parse_grid(["stage2.lam=3,1,2", "ssl=simclr,byol"])
    assert [dict(cell.settings) for cell in table.cells] == [
        {"stage2.lam": lam, "ssl": ssl} for lam in (3, 1, 2) for ssl in ("simclr", "byol")
    ]
    assert table.source is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=1e-6,1e-5", [1e-6, 1e-5]),
        ("k = 8/255 , 16/255", [8 / 255, 16 / 255]),
        ("k=[4,4],[8, [1,2]]", [[4, 4], [8, [1, 2]]]),
        ('k="a,b",none,null', ["a,b", "none", None]),
        ("k='x]',true", ["x]", True]),
        ("k=1", [1]),
    ],
)
def test_values_are_those_of_set(text: str, values: list[Any]) -> None:
    assert [cell.settings["k"] for cell in parse_grid([text]).cells] == values


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["stage2.lam"], "not of the form KEY=VALUE,VALUE"),
        (["a b=1"], "not of the form KEY=VALUE,VALUE"),
        (["k="], "a value is missing"),
        (["k=1,,2"], "a value is missing"),
        (["k=1,2,"], "a value is missing"),
        (["k=1", "k=2"], "k is given twice"),
        ([f"{key}={','.join(map(str, range(11)))}" for key in "abc"], "1331 cells, more than 1000"),
        (["k=8/0"], "not a number"),
    ],
)
def test_what_is_no_grid_is_refused(items: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse_grid(items)


@pytest.mark.parametrize(
    ("method", "table", "grid", "message"),
    [
        ("deacl", None, [], r"nothing to vary. Type --table 1\|3\|4\|5\|6\|9\|lambda\|loss, or your own grid"),
        ("simclr", None, [], "nothing to vary. Type your own grid"),
        ("deacl", "3", ["stage2.lam=1"], "exclude each other"),
        ("deacl", "2", [], r"unknown table of deacl '2'. Allowed: 1, 3, 4, 5, 6, 9, lambda, loss"),
        ("simclr", "3", [], "unknown table of simclr '3'. No table of simclr is available. Or type your own grid"),
        ("decal", "3", [], "unknown method 'decal'. Did you mean 'deacl'"),
    ],
)
def test_a_choice_that_is_none_is_refused(method: str, table: str | None, grid: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        choose_table(method, table, grid)


def test_any_method_may_be_varied_by_a_grid() -> None:
    assert all(choose_table(name, None, ["slf.lr=1,2"]).cells for name in METHODS)


# Tables


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_papers_cells(name: str) -> None:
    assert choose_table("deacl", name, []) is TABLES[name]
    assert [value(cell) for cell in TABLES[name].cells] == list(PUBLISHED[name])
    labels = [cell.label for cell in TABLES[name].cells]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_is_a_recipe_of_its_own_and_one_is_the_default(name: str) -> None:
    for tier in ("tiny", "short", "paper"):
        default = cifar10(tier, {}).pretraining_digest()
        digests = [cifar10(tier, cell.settings).pretraining_digest() for cell in TABLES[name].cells]
        assert len(set(digests)) == len(digests)
        assert digests.count(default) == 1


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_can_be_prepared_on_digits(name: str, tmp_path: Path) -> None:
    for cell in TABLES[name].cells:
        run = prepare(RunRequest("deacl", "digits", tier="tiny", overrides=cell.settings, runs_dir=tmp_path))
        stages = run.method(run.recipe.config).stages(run.context)
        assert [stage.name for stage in stages] == ["ssl", "pseudo_at"]


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_column_holds_the_papers_numbers(name: str) -> None:
    paper = PaperColumn(TABLES[name], "DeACL", RESULTS)
    found = {value(cell): paper.find(cell.published, "slf") for cell in TABLES[name].cells}
    assert {key: number and (number.aa, number.ra, number.sa) for key, number in found.items()} == PUBLISHED[name]
    assert all(number is None or number.dataset == "cifar10" for number in found.values())
    assert not any(paper.find(cell.published, "aff") for cell in TABLES[name].cells)


def test_the_mixed_lines_of_table_4_are_assigned_to_no_cell() -> None:
    paper = PaperColumn(TABLES["4"], "DeACL", RESULTS)
    lines = {label: paper.find(variant, "slf") for label, variant in TABLES["4"].unplaced.items()}
    assert {label: number and (number.aa, number.ra, number.sa) for label, number in lines.items()} == {
        "column 1 weak, column 2 strong": (34.47, 45.45, 74.85),
        "column 1 strong, column 2 weak": (7.62, 18.36, 79.93),
    }
    assert "not known to us" in TABLES["4"].notes[0]


def test_no_published_line_of_these_tables_is_left_out() -> None:
    for name in ("1", "3", "4", "5", "6", "9"):
        paper = PaperColumn(TABLES[name], "DeACL", RESULTS)
        variants = [cell.published for cell in TABLES[name].cells if cell.published]
        assert len(paper._numbers) == len([*variants, *TABLES[name].unplaced])


def test_without_the_published_numbers_the_column_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "others.json").write_text("[]")
    paper = PaperColumn(TABLES["3"], "DeACL", tmp_path)
    assert not paper.shown
    (note,) = paper.notes(cifar10("tiny", {}))
    assert f"they are not in {tmp_path / 'published'}" in note


def test_which_tables_have_a_papers_column() -> None:
    assert all(PaperColumn(table, "DeACL", RESULTS).shown for table in TABLES.values())
    assert not PaperColumn(parse_grid(["k=1"]), "DeACL", RESULTS).shown
    assert PaperColumn(AblationTable("t", (), "DeACL, ECCV 2022, Table 3"), "SimCLR", RESULTS).find({}, "slf") is None


def test_what_tells_our_numbers_from_the_papers_is_said() -> None:
    recipe = prepare(RunRequest("deacl", "digits")).recipe
    (note,) = PaperColumn(TABLES["3"], "DeACL", RESULTS).notes(recipe)
    assert "cifar10, resnet18, SLF" in note
    assert "other data (digits), tier tiny, uniform fidelity. Compare the order" in note
    paper = cifar10("paper", {})
    facts = paper.dataset.model_copy(update={"published_as": "cifar10"})
    (note,) = PaperColumn(TABLES["3"], "DeACL", RESULTS).notes(paper.model_copy(update={"dataset": facts}))
    assert note.endswith("Ours: the same data, tier paper, uniform fidelity.")


# The page


def test_the_page_lists_the_tables_and_what_they_vary() -> None:
    lines = re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.M)
    assert {name: re.findall(r"`(.*?)`", keys) for name, keys in lines} == {
        name: list(table.cells[0].settings) for name, table in TABLES.items()
    }


def test_the_commands_of_the_page_can_be_planned(tmp_path: Path) -> None:
    command: Any = typer.main.get_command(app).commands["ablate"]  # type: ignore[attr-defined]
    lines = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("bench ablate")]
    assert len(lines) == 6
    for _, _, *arguments in lines:
        options = command.make_context("ablate", arguments).params
        method = options["method"]
        base = RunRequest(method, "digits", overrides=parse_overrides(options["set_"] or []), runs_dir=tmp_path)
        plan_ablation(base, choose_table(method, options["table"], options["grid"] or []))
