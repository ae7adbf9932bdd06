"""Output that goes nowhere, or to a screen that is not UTF-8."""

import io
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from empty_folder import save, small

from bench.cli import main

PROGRAM = [sys.executable, "-c", "from bench.cli import main; main()"]


def test_a_full_disk_loses_the_answer_and_says_so() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "tiers"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "bench: cannot print to standard output: No space left on device. "
        "The output is lost; the same command prints it again.\n"
    )


def test_a_reader_that_has_enough_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*PROGRAM, "tiers"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_ends_well_where_nothing_can_be_shown(tmp_path: Path) -> None:
    environment = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    save(tmp_path / "toy.npz")
    command = [*PROGRAM, "run", "simclr", "--dataset", "npz:toy.npz", *small()]
    known = {**os.environ, **environment, "COLUMNS": "100"}
    with open("/dev/full", "w") as full:
        lost = subprocess.run(command, cwd=tmp_path, env=known, stdout=full, stderr=subprocess.PIPE, check=False)
    assert lost.returncode == 0, lost.stderr  # the work is done
    assert b"The work is done and kept; the same command prints it again." in lost.stderr
    again = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, check=False)
    assert (again.returncode, again.stderr.count(b"\n")) == (0, 1)  # that nothing is left to do
    assert b"record: results/" in again.stdout


@pytest.mark.parametrize("command", ["leaderboard", "leaderboard --format latex", "site --output site"])
def test_the_published_results_are_shown_without_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    where = ["--results-dir", str(Path(__file__).parents[1] / "results")]
    written = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(raw, encoding="ascii", write_through=True) for raw in written]
    monkeypatch.setattr(sys, "argv", ["bench", *command.split(), *where])
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):
        main()
    stdout, stderr = (raw.getvalue() for raw in written)
    assert stderr == b""
    assert stdout
    assert not re.search(rb"\\u[0-9a-f]{4}", stdout), "each sign that the bench itself writes has a plain one"


def test_the_version_is_one_line() -> None:
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bench ")
