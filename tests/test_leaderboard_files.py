"""The board on disk: LEADERBOARD.md, the README's block, and the command that writes or checks them."""

import json
import re
from pathlib import Path

import pytest
import typer
from board_records import SLF, fill, make_record, table_below, text_of
from typer.testing import CliRunner

from bench.cli.leaderboard import leaderboard
from bench.errors import BenchError, CheckFailedError
from bench.leaderboard import check_leaderboard, default_board, render_readme_block, write_leaderboard

README = "# Title\n\nbefore <!-- leaderboard:begin -->old<!-- leaderboard:end --> after\n"


def test_a_stale_or_missing_board_fails_the_check(tmp_path: Path) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "LEADERBOARD.md"
    command = f"Type: bench leaderboard --write --results-dir {results} --output {path}"
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


def test_links_lead_from_tables_in_a_file_to_the_records(
    tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "results", make_record())
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (Path("here.md"), Path("sub/below.md"), tmp_path / "sub" / "absolute.md"):
        CliRunner().invoke(app, ["--format", "markdown", "--output", str(path)])
        (link,) = re.findall(r"\]\(([^)]*\.json)\)", path.read_text())
        assert (path.parent / link).is_file()


@pytest.mark.parametrize(("where", "given"), [("results", "."), ("results/local", ".."), ("docs", "../results")])
def test_the_board_is_beside_the_results_wherever_the_command_is_typed(
    where: str, given: str, tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = fill(tmp_path / "results", make_record())
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    (tmp_path / where).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / where)
    done = CliRunner().invoke(app, ["--check", "--results-dir", given])
    assert (done.exit_code, done.exception) == (0, None)
    assert default_board(Path(given)).resolve() == tmp_path / "LEADERBOARD.md"


def test_the_readme_gets_short_slf_tables_between_its_markers(tmp_path: Path) -> None:
    results, path, readme = tmp_path / "results", tmp_path / "LEADERBOARD.md", tmp_path / "README.md"
    fill(results, make_record(aa=71), make_record(protocol="aff", aa=66), make_record(tier="tiny", aa=11))
    readme.write_text(README)
    board = write_leaderboard(results, path)
    text = readme.read_text()
    block = render_readme_block(board, details_at="LEADERBOARD.md")
    assert text == README.replace("old", f"\n{block}\n")
    assert block.count("| --- |") == 2
    linear = "| 1 | DeACL 2022 | 71.0 [61.5, 79.0] | 76.0 [66.8, 83.3] | 50.0 [43.1, 56.9] | 80.0 [73.9, 85.0] |"
    assert f"{linear} 66.0 [56.3, 74.5] | 1:02:05 | 1.00 | 1.00 |" in text
    assert "ECCV" not in block
    assert check_leaderboard(results, path) == board
    readme.write_text(text.replace("71.0", "99.0"))
    with pytest.raises(CheckFailedError, match=r"stale or missing: [^ ]*README.md\."):
        check_leaderboard(results, path)


def test_a_readme_may_have_a_block_for_each_dataset(tmp_path: Path) -> None:
    results, path, readme = tmp_path / "results", tmp_path / "LEADERBOARD.md", tmp_path / "README.md"
    fill(results, make_record(), make_record(dataset="digits"))
    text = "".join(README.replace("begin", f"begin {name}") for name in ("digits", "cifar10", "absent"))
    readme.write_text(text)
    board = write_leaderboard(results, path)
    for name in ("digits", "cifar10", "absent"):
        block = render_readme_block(board, details_at="LEADERBOARD.md", dataset=name)
        assert block.count("| --- |") == block.count(f"**{name}**") == (name != "absent")
        text = text.replace("old", f"\n{block}\n", 1)
    assert readme.read_text() == text
    assert check_leaderboard(results, path) == board


@pytest.mark.parametrize(
    "text",
    [
        README.replace("begin", "begin digits") * 2,
        README.replace("begin", "begin digits") + "<!-- leaderboard:begin -->",
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
    with pytest.raises(BenchError, match="not written by `bench leaderboard`"):
        write_leaderboard(results, path)
    assert path.read_text() == "my own words"


def test_a_missing_results_folder_is_an_error_not_an_empty_board(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no results folder .*nowhere.*--results-dir"):
        write_leaderboard(tmp_path / "nowhere", tmp_path / "LEADERBOARD.md")
    assert not (tmp_path / "LEADERBOARD.md").exists()


def test_a_title_cannot_break_out_of_its_cell(tmp_path: Path) -> None:
    title = "Evil | x |\n<!-- leaderboard:end -->"
    results, readme = fill(tmp_path / "results", make_record(title=title)), tmp_path / "README.md"
    readme.write_text(README)
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    assert len(table_below(text_of(results), SLF)[0]) == 13
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
    done = CliRunner().invoke(app, [*arguments, "--write"])
    files = f"{path}, {results / 'CORRECTIONS.md'}"
    assert done.stdout == f"written: {files} (records: 2, rows: 1)\n"
    checked = CliRunner().invoke(app, [*arguments, "--check"])
    assert (checked.exit_code, checked.stdout) == (0, f"up to date: {files} (records: 2, rows: 1)\n")
    (results / "cifar10" / "bad.json").write_text("{}")
    written = CliRunner().invoke(app, [*arguments, "--write"])
    assert "\nleft out cifar10/bad.json: this is no record of the bench" in written.stdout


@pytest.mark.parametrize("folder", ["myres", "results/local"])
def test_another_folder_has_its_own_board_and_the_published_files_stay(
    folder: str, tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(Path("results"), make_record())
    fill(Path(folder), make_record(seed=1))
    Path("README.md").write_text(README)
    done = CliRunner().invoke(app, ["--write"])
    assert done.stdout == "written: LEADERBOARD.md, results/CORRECTIONS.md, README.md (records: 1, rows: 1)\n"
    published = [(path, path.read_text()) for path in (Path("LEADERBOARD.md"), Path("README.md"))]
    done = CliRunner().invoke(app, ["--write", "--results-dir", folder])
    assert done.stdout == f"written: {folder}/LEADERBOARD.md, {folder}/CORRECTIONS.md (records: 1, rows: 1)\n"
    CliRunner().invoke(app, ["--write", "--results-dir", folder, "--output", "other.md"])
    assert Path("other.md").exists()
    assert [(path, path.read_text()) for path, _ in published] == published
    assert CliRunner().invoke(app, ["--check", "--results-dir", folder]).exit_code == 0


def test_the_command_prints_rows_as_json(tmp_path: Path, app: typer.Typer) -> None:
    results = fill(tmp_path / "results", make_record(aa=71))
    arguments = ["--results-dir", str(results), "--json"]
    printed = json.loads(CliRunner().invoke(app, arguments).stdout)
    written = [*arguments, "--write", "--output", str(tmp_path / "LEADERBOARD.md")]
    assert json.loads(CliRunner().invoke(app, written).stdout) == printed
    assert printed["left_out"] == []
    assert [row["aa"]["accuracy"] for row in printed["rows"]] == [0.71]
    assert printed["rows"][0]["records"] == ["cifar10/deacl-mini-uniform-s0-slf-22222222.json"]
    assert (tmp_path / "LEADERBOARD.md").exists()
