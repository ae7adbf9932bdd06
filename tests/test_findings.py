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
