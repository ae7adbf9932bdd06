"""The page on the doctor has a section for each check, with what is said beside the check and its picture."""

import importlib
from pathlib import Path

import pytest

from bench.doctor import CHECKS

ROOT = Path(__file__).parents[1]


def test_the_page_agrees_with_the_checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "perf"))
    script = importlib.import_module("doctor_page")
    page = script.PAGE.read_text()
    assert script.filled(page, ROOT / "docs" / "doctor") == page, "type: python perf/doctor_page.py"
    (tmp_path / "batch-independence.svg").touch()
    shown = script.filled(f"before\n{script.BEGIN}OUTDATED\n{script.END}\nafter\n", tmp_path)
    assert shown.startswith("before\n")
    assert shown.endswith(f"{script.END}\nafter\n")
    assert "OUTDATED" not in shown
    assert shown.count("](") == shown.count("batch-independence.svg)") == 1
    for check in (check for family in CHECKS.values() for check in family):
        assert f"### {check.name[0].upper()}{check.name[1:]}\n\n{check.question}" in shown
        assert check.meaning in shown
        assert check.remedy in shown
        assert f"![{check.name}: a sound case and a broken one](" in page
