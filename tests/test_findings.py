"""docs/findings*.md: every claim is a command, and the page shows what it prints from the published records."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("findings*.md"))
SHOWN = [
    shown
    for page in PAGES
    for shown in re.findall(r"^```bash\n([^\n]+)\n```\n\n```text\n(.*?)^```$", page.read_text(), re.M | re.S)
]
TOLD = [
    (command, p, measure or "AA")
    for page in PAGES
    for command, p, measure in re.findall(
        r"`(bench compare [^`]+)`, p = ([\d.e-]*\d)(?: in ([SRA]A))?", page.read_text()
    )
]
"""Commands within the text, with the p that the text gives: of AA, where it names no measure."""


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_page_shows_what_the_command_prints(command: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    program, *words = shlex.split(command)
    assert program == "bench"
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout) == (0, output)


def test_every_command_of_the_pages_is_shown_with_its_output() -> None:
    assert len(SHOWN) == sum(page.read_text().count("```bash") for page in PAGES) > 3
    assert len(TOLD) == sum(page.read_text().count("`, p = ") for page in PAGES) > 3


@pytest.mark.parametrize(("command", "p", "measure"), TOLD, ids=[command for command, *_ in TOLD])
def test_the_text_has_the_p_of_its_command(command: str, p: str, measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    shown = CliRunner().invoke(app, shlex.split(command)[1:]).stdout.splitlines()
    rows = {cells[1]: cells for cells in (re.split(r"\s*[┃│]\s*", line) for line in shown) if len(cells) > 1}
    assert rows[measure][rows["measure"].index("p")] == p
