"""The comparisons with authors' code: their frame on a clone that this test makes, and what each script answers."""

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.errors import BenchError

FOLDER = Path(__file__).parents[1] / "perf" / "fidelity"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text())

LOSS = """
import absent_logger
from absent_logger.plots import draw
from helper import FACTOR

@absent_logger.registered
def loss(x):
    return FACTOR * x.cuda().square().sum()
"""


def part(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


def git(folder: Path, *command: str) -> str:
    author = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(["git", "-C", folder, *author, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit, with a package whose ``__init__`` cannot be imported."""
    folder = tmp_path / "Theirs"
    package = folder / "src" / "theirs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('far too much')\n")
    (package / "loss.py").write_text(LOSS)
    (folder / "src" / "helper.py").write_text("FACTOR = 3\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "The only one")
    return folder


def at(repository: Path, monkeypatch: pytest.MonkeyPatch, commit: str | None = None) -> Any:
    clone = part("clone", monkeypatch)
    commit = commit or git(repository, "rev-parse", "HEAD")
    return clone.Clone.at(repository, clone.Upstream("somebody/Theirs", commit))


def test_upstream_code_runs_from_the_clone_and_leaves_nothing_behind(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = at(repository, monkeypatch)
    absent = {"absent_logger": {"registered": lambda function: function}}
    before, path = set(sys.modules), list(sys.path)
    with opened.importing("src", bare=["theirs"], absent=absent), part("clone", monkeypatch).on_cpu():
        theirs = importlib.import_module("theirs.loss")
        assert theirs.loss(torch.tensor([1.0, 2.0])) == 15
        with pytest.raises(AssertionError, match="a stand-in replaces"):
            theirs.draw()
    assert {"theirs", "theirs.loss", "helper", "absent_logger"}.isdisjoint(sys.modules)
    assert set(sys.modules) >= before
    assert sys.path == path
    assert opened.doubt == ""
    assert git(repository, "status", "--porcelain") == ""


def test_a_function_of_a_script_runs_without_the_script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "train.py").write_text("raise SystemExit\n\ndef train(epoch):\n    return RATE * epoch\n")
    defined = at(repository, monkeypatch).definitions("train.py", "train", RATE=3)
    assert defined["train"](2) == 6


def test_another_commit_and_changed_files_are_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "src" / "helper.py").write_text("FACTOR = 4\n")
    assert at(repository, monkeypatch).doubt == "files in it were changed"
    assert at(repository, monkeypatch, "0" * 40).doubt == f"it stands at {head[:7]} and files in it were changed"


@pytest.mark.parametrize("missing", ["nowhere", "Theirs/src"])
def test_what_is_no_clone_is_refused_with_the_command_that_makes_one(
    repository: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        BenchError, match=r"Type: git clone \S+/somebody/Theirs \S+ && git -C \S+ checkout [0-9a-f]{40}"
    ):
        at(repository.parent / missing, monkeypatch, "0" * 40)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.stem))
def test_a_script_has_help_and_refuses_a_missing_clone(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*arguments: str) -> SystemExit:
        monkeypatch.syspath_prepend(str(FOLDER))
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        return ended.value

    assert answer("--help").code == 0
    shown = capsys.readouterr().out
    assert "docs/fidelity.md" in shown
    positional = shown.partition("positional arguments:")[2].partition("options:")[0]
    refused = answer(*[str(tmp_path)] * len(re.findall(r"^  \w", positional, re.M)))
    assert re.fullmatch(r"\S+ is not a clone of \S+\. Type: git clone .*", str(refused.code)), refused.code


# Tables and the page


def table(monkeypatch: pytest.MonkeyPatch, ours: float) -> Any:
    made = part("table", monkeypatch).Table("SimCLR", "somebody/Theirs at 0123456")
    made.number("loss", ours, 2.0, within=1e-6)
    made.equal("parameters", 11_168_832, 11_168_832)
    made.apart("weights", {"encoder": 1e-9, "projector": 3e-12}, within=1e-6)
    return made


def test_a_table_shows_both_values_and_finds_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = table(monkeypatch, 2.0)
    assert fine.faults == []
    assert "| loss | 2.000000000 | 2.000000000 | 0.0e+00 |" in str(fine)
    assert "| parameters | 11,168,832 | 11,168,832 | 0 |" in str(fine)
    assert "| weights | – | – | encoder 1.0e-09; projector 3.0e-12 |" in str(fine)
    assert table(monkeypatch, float("nan")).faults
    wrong = table(monkeypatch, 2.1)
    wrong.equal("batches", 1, 2)
    wrong.apart("gradient", {"relative": 1e-3}, within=1e-6)
    assert [fault.partition(":")[0] for fault in wrong.faults] == ["loss", "batches", "gradient"]


def test_relative_differences_are_those_of_the_worst_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    module = part("table", monkeypatch)
    ours, theirs = [torch.tensor([3.0, 4.0]), torch.zeros(2)], [torch.tensor([3.0, 4.5]), torch.zeros(2)]
    assert module.relative(ours, theirs) == pytest.approx(0.5 / 29.25**0.5)
    assert module.farthest(ours, theirs) == 0.5


def test_the_page_comes_from_every_script_and_no_section_is_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    page: ModuleType = part("page", monkeypatch)
    assert sorted([*page.SCRIPTS, "page"]) == [script.stem for script in SCRIPTS]
    text = page.PAGE.read_text()
    for script in page.SCRIPTS:
        for upstream in part(script, monkeypatch).UPSTREAMS:
            assert str(upstream) in text
    assert "not yet by a script" not in text


def test_the_page_is_written_and_checked_section_by_section(monkeypatch: pytest.MonkeyPatch) -> None:
    page: ModuleType = part("page", monkeypatch)
    fresh = page.sections(str(table(monkeypatch, 2.0)))
    fresh.pop("", None)
    text = page.merged("# Fidelity\n\nIntroduction.\n\n## By hand\n\nStays.\n\n## SimCLR\n\nOld.\n", fresh)
    assert text.startswith("# Fidelity\n\nIntroduction.\n\n## By hand\n\nStays.\n\n## SimCLR\n\nUpstream: somebody")
    assert "Old." not in text
    assert list(page.complaints(text, fresh)) == []
    nearly = page.sections(str(table(monkeypatch, 2.0 + 1e-8)))
    assert list(page.complaints(text, nearly)) == []
    (changed,) = page.complaints(text.replace("2.000000000 | 2", "2.100000000 | 2"), fresh)
    assert changed.startswith("SimCLR: loss: 2.100000000")
    (gone,) = page.complaints(text.replace("| parameters |", "| params |"), fresh)
    assert "parameters" in gone
