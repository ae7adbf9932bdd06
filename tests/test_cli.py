"""The command line answers: help, listings, dry runs, and where the results of a run are."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from empty_folder import Bench, files, small
from empty_folder import bench as bench
from empty_folder import toy as toy

from bench.errors import BenchError, BusyRunError
from bench.method import METHODS
from bench.record import load_record
from bench.run import Run

COMMANDS = ("run", "evaluate", "leaderboard", "methods", "datasets", "tiers", "runs")


def test_without_arguments_help_is_printed(bench: Bench) -> None:
    said = bench()
    text = said.stdout + said.stderr
    assert "Usage: bench" in text
    assert all(
        command in text for command in ("run", "evaluate", "leaderboard", "methods", "datasets", "tiers", "runs")
    )
    assert "bench run deacl --dataset digits" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(bench: Bench, command: str) -> None:
    said = bench(command, "--help", columns=80)
    assert said.code == 0
    _, _, examples = said.stdout.partition(" Examples:")
    lines = [line.rstrip() for line in examples.splitlines()[1:]]
    lines = lines[: lines.index("")]
    assert lines[0].startswith(f"   bench {command}")
    assert all(re.match(r"   bench |       --", line) for line in lines), "none is broken by the screen"


def test_the_meaning_of_a_setting_stands_beside_it_and_fits_the_screen(bench: Bench) -> None:
    _, _, settings = bench("methods", "deacl", columns=90).stdout.partition("CIFAR-10:\n\n")
    lines = settings.splitlines()
    assert [line.partition("=")[0] for line in lines if len(line) > 90] == ["evaluate.corruption_names"]  # one value
    assert all(re.match(r"[a-z0-9_.-]+=\S| {42}\S", line) for line in lines)
    inherited = "stage1.lr=0.4" + " " * 29 + "Peak learning rate, as published for batches of"
    assert any(line.startswith(inherited) for line in lines), (
        "the class that names the value does not repeat its meaning"
    )


def test_a_narrow_screen_breaks_the_lines_of_help_and_the_source_does_not(bench: Bench) -> None:
    shown = bench("compare", "--help", columns=80).stdout
    assert "\n accuracies with a 95 % interval, and McNemar's exact test. Methods, and" in shown
    assert "\n   bench compare a.json b.json --measures aa " in shown, "an example has a line of its own"


def test_help_does_not_load_torch() -> None:
    program = "import sys, bench.cli\ntry: bench.cli.main()\nexcept SystemExit: print('torch' in sys.modules)"
    for arguments in (["--help"], ["run", "--help"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("command", "expected"),
    [("methods", {*METHODS}), ("datasets", {"digits", "cifar10", "npz:PATH"}), ("tiers", {"tiny"})],
)
def test_listings_name_what_there_is(bench: Bench, command: str, expected: set[str]) -> None:
    table, plain = bench(command), bench(command, "--json")
    assert (table.code, plain.code, table.stderr, plain.stderr) == (0, 0, "", "")
    names = {row["name"] for row in json.loads(plain.stdout)}
    assert expected <= names
    assert all(name in table.stdout for name in names)


def test_runs_lists_none_where_there_are_none(bench: Bench, tmp_path: Path) -> None:
    assert bench("runs") == (0, "none\n", "")
    assert bench("runs", "--json") == (0, "[]\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_plan_and_recipe_and_writes_nothing(bench: Bench, tmp_path: Path, toy: str) -> None:
    said = bench("run", "simclr", "--dataset", toy, *small(), "--dry-run")
    assert said.code == 0
    assert said.stderr.startswith("measuring this machine\n")
    assert said.stderr.endswith("toy: read 16 train and 8 test images\n")
    assert "stage ssl" in said.stdout
    assert "1 epoch of 2 batches of 8" in said.stdout
    assert "stage1.epochs" not in said.stdout
    said = bench("run", "simclr", "--dataset", toy, *small(), "--dry-run", "--recipe")
    assert said.stdout.index("stage1.epochs") < said.stdout.index("stage ssl")  # the plan last
    assert "slf.lr = " in said.stdout
    assert "aff.lr = " not in said.stdout
    assert "stage1.epochs = 1" in said.stdout.splitlines()
    assert "encoder.width = 1" in said.stdout.splitlines()
    assert files(tmp_path) == {"given/toy.npz"}
    assert {path.name for path in tmp_path.iterdir()} == {"given"}


def test_a_run_is_its_commands_from_the_measurement_on(bench: Bench, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command that begins the same run is refused at once, and measures nothing."""
    busy = []

    def measured(run: Run, projector: object) -> NoReturn:
        try:
            run.folder.check_free()
        except BusyRunError as error:
            busy.append(str(error))
        raise BenchError("measured")

    monkeypatch.setattr("bench.run.project", measured)
    said = bench("run", "simclr", "--dataset", toy, *small())
    assert (said.code, said.stderr.splitlines()[-1]) == (1, "bench: measured")
    assert [each.partition(" is ")[2].partition(" (")[0] for each in busy] == ["working on this run"]
    assert bench("run", "simclr", "--dataset", toy, *small(), "--dry-run").code == 1
    assert len(busy) == 1


@pytest.mark.parametrize("more", [["--dry-run"], ["--shared-only"], []])
def test_without_an_estimate_the_data_and_the_folder_are_named_and_nothing_is_measured(
    bench: Bench, toy: str, more: list[str]
) -> None:
    said = bench("run", "simclr", "--dataset", toy, *small(), "--no-estimate", *more)
    assert said.code == 0
    assert said.stderr.startswith("toy: read 16 train and 8 test images\n")
    assert "measuring" not in said.stderr
    assert "about" not in said.stdout
    what, where = "SimCLR on toy, tier mini, uniform fidelity, seed 0\n", "on cpu; in runs/toy-simclr-mini-"
    if not more:
        assert what + where in said.stderr
    if more == ["--dry-run"]:  # the plan, without times
        assert said.stdout.startswith(what)
        assert where in said.stdout
        assert re.search("phase +. work +. left", said.stdout)
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.stdout.splitlines()]
        assert [row for row in rows if row] == [
            ["stage ssl", "1 epoch of 2 batches of 8", "100%"],
            ["protocol slf", "1 epoch of 2 batches of 8", "100%"],
            ["RA, PGD-1", "8 test images, 1 restart", "100%"],
            ["the doctor's checks", "8 test images", "100%"],
        ]


def test_each_protocol_names_its_measurements_and_seeds_their_common_folder(bench: Bench, toy: str) -> None:
    asked = ("run", "simclr", "--dataset", toy, *small(protocols="slf,knn"), "--set", "knn.k=2")
    said = bench(*asked, "--no-estimate", "--seeds", "0,1")
    assert said.code == 0
    assert "on cpu; in runs, a folder for each seed\n" in said.stderr
    for protocol in ("slf", "knn"):
        for phase in ("SA, clean images", "RA, PGD-1"):
            assert said.stderr.count(f"\n{protocol}: {phase}: 8/8 images") == 2
    assert "\nstage slf: 16/16 images" in said.stderr


def test_every_printed_setting_can_be_set(bench: Bench, toy: str) -> None:
    printed = bench("run", "simclr", "--dataset", toy, *small(), "--dry-run", "--recipe").stdout.splitlines()
    sections = ("stage1.", "encoder.", "threat.", "slf.", "evaluate.")
    settings = [line.replace(" = ", "=", 1) for line in printed if line.startswith(sections)]
    assert len(settings) > 40
    again = [part for setting in settings for part in ("--set", setting)]
    said = bench(
        "run", "simclr", "--dataset", toy, *again, "--dry-run", "--recipe", "--device", "cpu", "--protocols", "slf"
    )
    assert said.code == 0, said.stderr
    assert [line for line in said.stdout.splitlines() if line.startswith(sections)] == [
        line for line in printed if line.startswith(sections)
    ]


def test_a_dry_run_as_json_is_the_recipe(bench: Bench, toy: str) -> None:
    said = bench("run", "simclr", "--dataset", toy, *small(), "--dry-run", "--json")
    recipe = json.loads(said.stdout)
    assert recipe["config"]["stage1"]["epochs"] == 1
    assert recipe["overrides"]["evaluate.autoattack"] is False


def test_a_run_prints_its_results_and_where_they_are(bench: Bench, tmp_path: Path, toy: str) -> None:
    command = ["run", "simclr", "--dataset", toy, *small()]
    said = bench(*command)
    assert said.code == 0
    (path,) = (tmp_path / "results" / "local").glob("*/*.json")
    record = load_record(path)
    assert f"record: {path.relative_to(tmp_path)}" in said.stdout.splitlines()
    assert f"{100 * record.sa.accuracy:.2f} %" in said.stdout
    assert "stage ssl: 16/16 images" in said.stderr
    assert "bench: " not in said.stderr

    again = bench(*command)
    assert again.code == 0
    assert again.stdout == said.stdout
    assert again.stderr == "finished before: only what is damaged or lost is made again\n"

    (shown,) = json.loads(bench(*command, "--json").stdout)
    assert shown == record.model_dump(mode="json")
    (row,) = json.loads(bench("runs", "--json").stdout)
    assert (row["method"], row["encoder"]) == ("simclr", True)
    assert row["name"] in bench("runs").stdout


def test_protocols_are_named_once(bench: Bench, tmp_path: Path, toy: str) -> None:
    said = bench("run", "simclr", "--dataset", toy, *small(protocols="slf, slf"), "--json")
    assert len(json.loads(said.stdout)) == 1


def test_an_installed_program_ends_as_the_function_does(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", "leaderboard", "--results-dir", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bench: there is no results folder nowhere")
    assert done.stderr.count("\n") == 1
