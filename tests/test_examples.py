"""The examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.record import load_record, record_files

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_train_and_evaluate_prints_what_its_records_say(tmp_path: Path) -> None:
    script = next(path for path in EXAMPLES if path.name == "train_and_evaluate.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert not done.returncode, done.stderr
    records = [load_record(path) for path in record_files(tmp_path / "results")]
    assert {record.title for record in records} == {"DeACL", "SimCLR"}
    for record in records:
        shown = re.search(rf"{record.title}: SA (\S+)% .* RA (\S+)% .* n = 360", done.stdout)
        assert shown is not None, done.stdout
        accuracies = record.sa.accuracy, record.ra.outcome.accuracy
        assert [float(value) for value in shown.groups()] == pytest.approx([100 * a for a in accuracies], abs=0.05)
    by_title = {record.title: record.ra.outcome.correct for record in records}
    gained, lost = map(int, re.findall(r"right on (\d+) .* loses (\d+) others", done.stdout)[0])
    assert gained - lost == by_title["DeACL"] - by_title["SimCLR"]


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: str(path.name))
def test_an_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 80
