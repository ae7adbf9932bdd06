"""The program as a user calls it, but in the test's own process, which saves it the imports."""

import sys
from typing import Any, NamedTuple

import pytest

from bench.cli import main


class Said(NamedTuple):
    """Exit code and output."""

    code: int
    stdout: str
    stderr: str


def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, columns: int = 200
) -> Said:
    """Run ``bench`` with ``arguments`` on a screen of so many columns."""
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    return Said(code, *capsys.readouterr())
