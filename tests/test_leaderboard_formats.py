"""Tables for papers and programs; transfer, equal compute, corruptions and sweeps in tables of their own."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from board_records import SLF, TEST_IMAGES, fill, headings_below, make_record, outcome, rows_below, text_of
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from bench.leaderboard import bibtex_entries, render_csv, render_latex
from bench.leaderboard.latex import citation_key, escape_latex
from bench.method import METHODS
from bench.recipe import CORRUPTIONS
from bench.record import (
    CorruptionEvaluation,
    PhaseCost,
    Record,
    Sweep,
    SweepSettings,
    load_record,
    save_record,
    save_sweep,
)
from bench.report.site import write_site
from bench.results import build_leaderboard, flops_text


def invoke(results: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(results), *arguments])
    assert done.exit_code == 0, done.exception
    return done.stdout


def with_recipe(record: Record, **changes: Any) -> Record:
    return record.model_copy(update={"recipe": {**record.recipe, **changes}})


def transferred(record: Record) -> Record:
    """The record of an encoder from CIFAR-100: its recipe has two datasets, and the classifier met the second."""
    facts = {**record.recipe["dataset"], "name": "cifar100", "sha256": "9" * 64, "test_images": 10_000}
    finetune = {"dataset": record.recipe["dataset"], "threat": record.recipe["threat"]}
    return with_recipe(record, dataset=facts, finetune=finetune)


# Tables of their own


def test_transfer_and_equal_compute_never_share_a_table_with_the_rest(tmp_path: Path) -> None:
    fill(
        tmp_path,
        make_record(aa=10),
        transferred(make_record(aa=20, pretrained_on="cifar100", protocol_sha256="6" * 64)),
        with_recipe(make_record(aa=30, protocol_sha256="7" * 64), budget=2e12),
        with_recipe(make_record(aa=40, protocol_sha256="8" * 64), budget=1.5e12),
    )
    text = text_of(tmp_path)
    found = {line: rows_below(text, line) for line in text.splitlines() if line.startswith("### cifar10")}
    assert {line: [row["AA"].split()[0] for row in rows] for line, rows in found.items()} == {
        SLF: ["10.0"],
        f"{SLF}, at equal compute (1.50e12)": ["40.0"],
        f"{SLF}, at equal compute (2.00e12)": ["30.0"],
        f"{SLF}, transfer from cifar100": ["20.0"],
    }


def test_cost_is_a_multiple_of_what_deacl_took_in_the_same_table(tmp_path: Path) -> None:
    fill(
        tmp_path,
        make_record(aa=50, flops=2e6),
        make_record(aa=40, flops=3e6, overrides={"stage1.epochs": 9}, protocol_sha256="6" * 64),
        make_record(aa=30, flops=1e6, method="b"),
        make_record(aa=20, flops=None, method="c"),
        make_record(aa=10, tier="tiny", method="b"),
    )
    rows = rows_below(text_of(tmp_path), SLF)
    # 5000 images of the first stage, 1000 of the second at five times as much each.
    assert [(row["FLOPs"], row["FLOPs x DeACL"]) for row in rows] == [
        ("2.00e10", "1.00"),
        ("3.00e10", "1.50"),
        ("1.00e10", "0.50"),
        ("–", "–"),
    ]
    assert rows_below(text_of(tmp_path), SLF.replace("mini", "tiny"))[0]["FLOPs x DeACL"] == "–"
    assert flops_text(1.96e12) == "1.96e12"


def corrupted(severity_one: int, sha256: str = "c" * 64) -> CorruptionEvaluation:
    counts = {name: (severity_one, *[100] * 4) for name in CORRUPTIONS}
    return CorruptionEvaluation(
        source="files", parametrisation="CIFAR-10-C", sha256=sha256, n=TEST_IMAGES, correct=counts
    )


def test_corruptions_have_a_table_for_each_set_of_images(tmp_path: Path) -> None:
    fill(
        tmp_path,
        make_record(method="a", title="A", corruptions=corrupted(50)),
        make_record(method="b", title="B", corruptions=corrupted(150)),
        make_record(method="c", title="C", corruptions=corrupted(100, "e" * 64)),
        make_record(method="d", title="D"),
    )
    text = text_of(tmp_path)
    heading = "### Common corruptions: cifar10, SLF, tier mini, fidelity uniform"
    assert text.count(f"{heading}\n") == 2
    first, second = (text[text.index(f"`{sha}`") :] for sha in ("c" * 8, "e" * 8))
    assert headings_below(text, heading)[:3] == ["Method", "Mean, n=200", "SA, n=200"]
    # (150 + 4 x 100) / 1000 and (50 + 4 x 100) / 1000, with Wilson's interval of 200 images.
    cells = [line.split(" | ")[:2] for line in first.splitlines() if line.startswith("| ")]
    assert cells[2:4] == [["| B 2022", "55.0 [48.1, 61.7]"], ["| A 2022", "45.0 [38.3, 51.9]"]]
    assert "C 2022" in second
    assert "C 2022" not in first.removesuffix(second)
    assert "D 2022" not in first
    on_screen = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(tmp_path)]).stdout
    assert "tables of common corruptions (3 rows): --format markdown" in on_screen
    write_site(tmp_path, tmp_path / "site")
    index = (tmp_path / "site" / "index.html").read_text()
    assert [index.count(f"<small>of 15, {sha}</small>") for sha in ("c" * 8, "e" * 8)] == [2, 1]
    assert "only means over the same images compare" in index


def swept(tmp_path: Path, method: str, *correct: int, seed: int = 0, **changes: Any) -> Path:
    record = make_record(method=method, title=method, seed=seed)
    shared = set(Sweep.model_fields) & set(Record.model_fields) - {"schema_version", "cost", "environments"}
    sweep = Sweep(
        **{
            **record.model_dump(include=shared),
            "dataset_sha256": "d" * 64,
            "record_sha256": "0" * 64,
            "settings": SweepSettings(kind="eps", eps=(0.0, 8 / 255), steps=(20,)),
            "outcomes": tuple(outcome(hits, TEST_IMAGES) for hits in correct),
            "cost": PhaseCost(seconds=1, device="CPU"),
            **changes,
        }
    )
    return save_sweep(tmp_path, sweep)


def test_sweeps_are_tabled_with_their_figures(tmp_path: Path) -> None:
    swept(tmp_path, "low", 150, 20)
    swept(tmp_path, "high", 160, 100)
    path = swept(tmp_path, "high", 140, 80, seed=1, classifier_sha256="5" * 64)
    for name in ("eps.svg", "eps.png", "steps.png"):
        (path.parent / name).touch()
    text = text_of(tmp_path)
    heading = "### Sweep of eps: cifar10, SLF, tier mini, fidelity uniform"
    assert headings_below(text, heading) == ["Method", "0", "8/255", "Sweeps"]
    rows = rows_below(text, heading)
    assert [(row["Method"], row["0"], row["8/255"]) for row in rows] == [
        ("high 2022", "75.0", "45.0"),
        ("low 2022", "75.0", "10.0"),
    ]
    assert re.findall(r"\[seed (\d)\]\((\S+)\)", rows[0]["Sweeps"])[1] == (
        "1",
        f"results/{path.relative_to(tmp_path)}",
    )
    assert re.findall(r"!\[.*\]\((.*)\)", text) == [
        f"results/cifar10/sweeps/{name}" for name in ("eps.svg", "steps.png")
    ]


def test_the_screen_names_the_sweeps_of_what_was_asked_for_and_markdown_has_them(tmp_path: Path) -> None:
    fill(tmp_path, make_record(), make_record(protocol="alf"))
    swept(tmp_path, "deacl", 80, 30)

    def shown(*words: str) -> str:
        return CliRunner().invoke(app, ["leaderboard", "--results-dir", str(tmp_path), *words]).stdout

    assert "tables of sweeps (1 row): --format markdown" in shown("--protocol", "slf")
    assert "### Sweep of eps: cifar10, SLF" in shown("--protocol", "slf", "--format", "markdown")
    for other in (("--protocol", "alf"), ("--short",)):
        assert "weep" not in shown(*other) + shown(*other, "--format", "markdown")


def test_sweeps_of_two_forms_of_one_tier_never_share_a_table(tmp_path: Path) -> None:
    for digit, method in (("5", "old"), ("6", "new")):
        record = make_record(method=method, title=method, tier_sha256=digit * 64, protocol_sha256=digit * 64)
        path = save_record(tmp_path / "results", record)
        swept(tmp_path / "results", method, 150, 20, record_sha256=load_record(path).sha256)
    found = [(row.key.tier, row.method) for row in build_leaderboard(tmp_path / "results").sweeps]
    assert found == [("mini 55555555", "old"), ("mini 66666666", "new")]


def test_a_damaged_or_copied_sweep_is_left_out_and_named(tmp_path: Path) -> None:
    path = swept(tmp_path, "a", 150, 20)
    before = text_of(tmp_path)
    path.with_name("edited.json").write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    path.with_name("zz-copy.json").write_bytes(path.read_bytes())
    assert text_of(tmp_path) == before
    reasons = [bad.reason for bad in build_leaderboard(tmp_path).left_out]
    assert ["checksum" in reasons[0], "the same sweep" in reasons[1]] == [True, True]


# LaTeX and BibTeX


def results_of_two(tmp_path: Path) -> Path:
    return fill(
        tmp_path / "results",
        make_record(aa=71, warnings=["50% & more"]),
        make_record(method="simclr", title="SimCLR", year=2020, aa=11),
        make_record(method="nobodys", title="A_b #1", aa=66),
        make_record(protocol="aff", aa=66),
    )


def test_a_paper_gets_its_table_with_citations(tmp_path: Path) -> None:
    results, bib = results_of_two(tmp_path), tmp_path / "methods.bib"
    text = invoke(results, "--format", "latex", "--protocol", "slf", "--bibtex", str(bib))
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    # Five images more are not enough to set the first apart from the second.
    assert [line.split(" & ")[:2] for line in lines[1:]] == [
        [r"DeACL 2022~\cite{zhang2022deacl}\textsuperscript{1}", r"\textbf{71.0}$^{79.0}_{61.5}$"],
        [r"A\_b \#1 2022", r"\textbf{66.0}$^{74.5}_{56.3}$"],
        [r"SimCLR 2020~\cite{chen2020simclr}", r"11.0$^{18.6}_{6.3}$"],
    ]
    assert r"\textsuperscript{1}AutoAttack warned: 50\% \& more" in text
    assert text.count(r"\begin{table}") == 1
    keys = re.findall(r"^@\w+\{(\S+),", bib.read_text(), re.M)
    assert keys == sorted(set(re.findall(r"\\cite\{(\w+)\}", text)))


def test_every_table_has_a_label_of_its_own_and_the_head_names_the_command(tmp_path: Path) -> None:
    plain = make_record()
    recipes: tuple[dict[str, Any], ...] = ({}, {"budget": "2e12"}, {"threat": {"norm": "l2", "eps": 0.5}})
    for number, recipe in enumerate(recipes):
        eps = recipe.get("threat", plain.recipe["threat"])["eps"]
        fill(tmp_path, make_record(eps=eps, recipe={**plain.recipe, **recipe}, protocol_sha256=f"{number}" * 64))
    fill(tmp_path, make_record(data="e" * 64, protocol_sha256="e" * 64))
    fill(tmp_path, make_record(overrides={"precision": "bf16"}, protocol_sha256="f" * 64))
    text = render_latex(build_leaderboard(tmp_path), {})
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert len(set(labels)) == len(labels) == 5
    assert {"tab:cifar10-mini-uniform-slf", "tab:cifar10-mini-uniform-2e12-slf"} <= set(labels)
    assert text.startswith("% Generated by `bench leaderboard --format latex`")


def test_every_method_of_the_bench_can_be_cited() -> None:
    entries = bibtex_entries(METHODS)
    assert entries.keys() == set(METHODS)
    assert len({citation_key(entry) for entry in entries.values()}) > len(entries) / 2
    with pytest.raises(BenchError, match="not a BibTeX entry"):
        citation_key("DeACL, 2022")


def test_latex_braces_are_balanced_and_text_is_literal(tmp_path: Path) -> None:
    text = render_latex(build_leaderboard(results_of_two(tmp_path)), {})
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert escape_latex("a_b 50% {x} \\ #1 & ~^") == (
        r"a\_b 50\% \{x\} \textbackslash{} \#1 \& \textasciitilde{}\textasciicircum{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    tables = render_latex(build_leaderboard(results_of_two(tmp_path)), bibtex_entries(["deacl"]))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{tables}\\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True)


# CSV, JSON, Markdown


def test_a_line_of_csv_is_one_measure_of_one_row(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(aa=71), make_record(aa=60, seed=1), make_record(method="b", aa=None))
    lines = list(csv.DictReader(io.StringIO(render_csv(build_leaderboard(results)))))
    assert [(line["method"], line["measure"]) for line in lines] == [
        *(("deacl", measure) for measure in ("aa", "ra_on_aa", "ra", "sa")),
        *(("b", measure) for measure in ("ra", "sa")),
    ]
    deacl, b = lines[0], lines[4]
    assert (float(deacl["accuracy"]), deacl["n"], deacl["seeds"], deacl["low"]) == (0.655, "100", "0;1", "")
    assert (b["rank"], b["std"]) == ("", "")
    assert float(b["low"]) == pytest.approx(0.4313, abs=1e-4)
    assert all((results / file).is_file() for file in deacl["records"].split(";"))


def test_formats_show_the_rows_that_were_asked_for_and_write_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = fill(tmp_path / "results", make_record(), make_record(tier="tiny"), make_record(dataset="digits"))
    monkeypatch.chdir(tmp_path)
    rows = json.loads(invoke(results, "--format", "json", "--dataset", "cifar10", "--tier", "tiny"))["rows"]
    assert [(row["dataset"], row["tier"]) for row in rows] == [("cifar10", "tiny")]
    assert "### digits: SLF" in invoke(results, "--format", "markdown")
    assert invoke(results, "--format", "csv", "--output", "x.csv") == ""
    assert (tmp_path / "x.csv").read_text().count("\n") == 13
    assert {path.name for path in tmp_path.iterdir()} == {"results", "x.csv"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--format", "csv", "--dataset", "digit"], "unknown dataset 'digit'"),
        (["--format", "csv", "--protocol", "alf"], "there are no records of protocol alf; there are of: slf."),
        (
            ["--dataset", "digits", "--tier", "short"],
            "there are no records of tier short on digits; there are of: mini.",
        ),
        (["--tier", "shrt"], "unknown tier 'shrt'."),
        (["--write", "--tier", "mini"], "the whole board"),
        (["--output", "x.csv"], "need --write, --check or --format"),
        (["--format", "csv", "--check"], "different things to do"),
    ],
)
def test_a_choice_that_fits_nothing_is_refused(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    fill(tmp_path, make_record(dataset="digits"))
    done = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(tmp_path), *arguments])
    assert isinstance(done.exception, BenchError)
    assert complaint in str(done.exception)


def test_json_is_a_format_of_a_file_too(tmp_path: Path) -> None:
    fill(tmp_path, make_record(dataset="digits"))
    file = tmp_path / "board.json"
    done = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(tmp_path), "--json", "--output", str(file)])
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert json.loads(file.read_text())["rows"][0]["dataset"] == "digits"
