"""The published figures are those that the published records give."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from in_process import say

ROOT = Path(__file__).parents[1]
FIGURES = sorted(ROOT.glob("results/*/sweeps/*.svg"))
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.mark.skipif(version("matplotlib") != PINNED["matplotlib"], reason="each matplotlib draws its own way")
@pytest.mark.parametrize(("dataset", "kind"), sorted({(one.parts[-3], one.name.partition("-")[0]) for one in FIGURES}))
def test_published_figures_are_what_the_command_draws_from_the_published_records(
    dataset: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("local"))
    words = ("--dataset", dataset, "--results-dir", str(results), "--output", str(tmp_path))
    for more in ([], ["--short"]) if kind == "cost" else ([],):
        done = say(monkeypatch, capsys, "plot", kind, *words, *more)
        assert done.code == 0, done.stderr
    for path in results.glob(f"{dataset}/sweeps/{kind}-*.svg"):
        drawn = tmp_path / path.name
        assert drawn.read_text() == path.read_text(), f"copy what `bench plot {kind}` draws over {path.name}"
