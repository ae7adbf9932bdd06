"""The command line: answers, one clear message for each mistake, and nothing half-written."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from in_process import Said, say
from rich.console import Console

from bench.cli._format import duration
from bench.cli._progress import _Live, reporting
from bench.cli._results import results_table
from bench.method import METHODS
from bench.record import AutoAttackEvaluation, Environment, Outcome, PGDEvaluation, Record, load_record
from bench.reporting import Reporter

SMALL = {
    "encoder.width": "1",
    "stage1.epochs": "1",
    "stage1.batch_size": "8",
    "stage1.projector": "[4,4]",
    "slf.epochs": "1",
    "slf.batch_size": "8",
    "evaluate.pgd_steps": "1",
    "evaluate.autoattack": "false",
}
COMMANDS = ("run", "evaluate", "leaderboard", "methods", "datasets", "tiers", "runs")


Bench = Callable[..., Said]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """Return the program, run in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(say, monkeypatch, capsys)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """Return the name of a dataset of 16 + 8 images in two classes."""
    folder = tmp_path / "given"
    folder.mkdir()
    save(folder / "toy.npz")
    return f"npz:{folder / 'toy.npz'}"


def save(path: Path, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(16) % 2,
        "x_test": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 2,
        **changes,
    }
    np.savez(path, allow_pickle=False, **arrays)


def small(*, without: str = "") -> list[str]:
    """Return the options of the smallest run."""
    settings = [f"{key}={value}" for key, value in SMALL.items() if key != without]
    return [part for setting in settings for part in ("--set", setting)] + ["--device", "cpu", "--protocols", "slf"]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def complaint(said: Said) -> str:
    """Return the one message of a refused command."""
    assert said.code == 1
    assert said.stdout == ""
    assert "Traceback" not in said.stderr
    assert said.stderr.count("bench: ") == 1
    before, message = said.stderr.split("bench: ")
    assert "rror" not in before
    return message


# A mistake is one message, and leaves nothing behind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run decal", "unknown method 'decal'. Did you mean 'deacl'"),
        ("run deacl --dataset digit", "unknown dataset 'digit'. Did you mean 'digits'?"),
        ("run deacl --tier tinny", "unknown tier 'tinny'. Did you mean 'tiny'?"),
        ("run deacl --tier nowhere.toml", "cannot read the tier file nowhere.toml"),
        ("run deacl --set stage1.epoch=3", "unknown setting 'stage1.epoch'. Did you mean 'stage1.epochs'"),
        ("run deacl --set evaluate.esp=3", "unknown setting 'evaluate.esp'. Did you mean 'evaluate.eps'"),
        ("run deacl --set stage1=3", "stage1.KEY=VALUE"),
        ("run deacl --set x", "'x' is not of the form key=value"),
        ("run deacl --set slf.lr=1 --set slf.lr=2", "slf.lr is given twice"),
        ("run deacl --protocols slf,alff", "unknown protocol 'alff'. Did you mean 'alf'"),
        ("run deacl --protocols ,", "unknown protocol ''"),
        ("run deacl --set threat.eps=8", "write 8/255"),
        ("run deacl --set threat.eps=nan", "threat.eps"),
        ("run deacl --set threat.eps=8/0", "'8/0' is not a number"),
        ("run deacl --set evaluate.eps=-1", "evaluate.eps: Input should be greater than or equal to 0 (given: -1)"),
        ("run deacl --set evaluate.pgd_steps=-1 --set slf.lr=x", "2 faults"),
        ("run deacl --set stage1.batch_size=1438", "batches of 1438 images but the dataset has 1437"),
        ("run deacl --set encoder.arch=resnet19", "unknown encoder 'resnet19'. Did you mean 'resnet18'"),
        ("run deacl --seed -1", "seed -1 is out of range; choose one from 0 to 4294967295"),
        ("run deacl --seed 4294967296", "seed 4294967296 is out of range"),
        ("run deacl --device nonsense", "device 'nonsense' cannot be used here. Allowed: cpu"),
        ("run deacl --device cuda:99", "device 'cuda:99' cannot be used here. Allowed: cpu"),
        ("run deacl --dataset npz:", "npz:PATH"),
        ("run deacl --dataset npz:none.npz", "none.npz: no such file"),
        ("run deacl --dataset folder:nowhere", "cannot read nowhere/train"),
        ("leaderboard --results-dir nowhere", "there is no results folder nowhere"),
    ],
)
def test_a_mistake_is_one_message(bench: Bench, tmp_path: Path, arguments: str, message: str) -> None:
    assert message in complaint(bench(*arguments.split()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip file", "not an .npz file, or cut short"),
        ({"x_train": np.zeros((16, 8, 8, 3))}, "images must be uint8, 0..255"),
        ({"y_train": np.zeros(3, dtype=int)}, "x_train holds 16 images but y_train 3 labels"),
        ({}, "AutoAttack's targeted losses need at least 4 classes; bad has 2"),
    ],
)
def test_data_of_ones_own_that_cannot_be_used(
    bench: Bench, tmp_path: Path, content: bytes | dict[str, Any], message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "bad.npz").write_bytes(content)
    else:
        save(tmp_path / "bad.npz", **content)
    assert message in complaint(bench("run", "simclr", "--dataset", "npz:bad.npz"))
    assert files(tmp_path) == {"bad.npz"}


def test_an_npz_cut_short(bench: Bench, tmp_path: Path, toy: str) -> None:
    path = Path(toy.removeprefix("npz:"))
    path.write_bytes(path.read_bytes()[:-100])
    assert "Copy it again" in complaint(bench("run", "simclr", "--dataset", toy))


def test_a_download_without_a_network_says_what_to_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", unreachable)
    message = complaint(bench("run", "simclr", "--dataset", "cifar10", "--data-dir", "data"))
    assert "CIFAR10 is not in data and cannot be downloaded" in message
    assert "put it into data, and run the same command again" in message
    assert files(Path("data")) == set()


def test_a_device_that_is_not_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here it is")
    assert "device 'cuda' cannot be used here. Allowed: cpu." in complaint(bench("run", "simclr", "--device", "cuda"))


@pytest.mark.parametrize("option", ["--runs-dir", "--results-dir"])
def test_a_folder_that_cannot_be_made(bench: Bench, tmp_path: Path, toy: str, option: str) -> None:
    (tmp_path / "file").write_text("mine")
    message = complaint(bench("run", "simclr", "--dataset", toy, *small(), option, "file/x"))
    assert "cannot write file/x" in message
    assert "Not a directory" in message
    assert option in message
    assert files(tmp_path) == {"file", "given/toy.npz"}
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
@pytest.mark.parametrize("option", ["--runs-dir", "--results-dir"])
def test_a_folder_that_cannot_be_written(bench: Bench, tmp_path: Path, toy: str, option: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    message = complaint(bench("run", "simclr", "--dataset", toy, *small(), option, "locked"))
    assert "Permission denied" in message


@pytest.mark.parametrize("room", range(11))
def test_a_disk_that_fills_up_loses_nothing_that_was_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: str, room: int
) -> None:
    """``room``: how many files fit; the run writes eleven."""
    flush, left = os.fsync, [room]

    def full(descriptor: int) -> None:
        if not os.path.isdir(f"/dev/fd/{descriptor}"):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    command = ["run", "simclr", "--dataset", toy, *small()]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = complaint(bench(*command))
    assert "No space left on device" in message
    assert "run the same command again" in message
    assert not [name for name in files(tmp_path) if "unfinished" in name]
    assert not any(name.startswith("results/") for name in files(tmp_path))
    again = bench(*command)
    assert again.code == 0
    assert ("stage ssl: 0/16" in again.stderr) == (room < 3)  # its one epoch is the third file
    assert ("stage slf: 0/16" in again.stderr) == (room < 6)


def test_weights_of_another_recipe_in_the_stages_folder(bench: Bench, tmp_path: Path, toy: str) -> None:
    assert bench("run", "simclr", "--dataset", toy, *small()).code == 0
    other = ["run", "simclr", "--dataset", toy, *small(), "--seed", "1"]
    assert bench(*other).code == 0
    for file in (tmp_path / "runs").glob("toy-*-s0-*/slf-*/*"):
        file.unlink()
    for file in (tmp_path / "runs").glob("toy-*-s0-*/encoder.safetensors"):
        file.unlink()
    mine, theirs = sorted((tmp_path / "runs" / "stages").iterdir())
    (mine / "ssl.safetensors").write_bytes((theirs / "ssl.safetensors").read_bytes())
    message = complaint(bench("run", "simclr", "--dataset", toy, *small()))
    assert "ssl.safetensors belongs to another run" in message
    assert "Move it away, or choose another --runs-dir" in message


@pytest.mark.parametrize("arguments", ["nonsense", "run", "runs --nope", "run deacl --seed x", "run deacl extra"])
def test_usage_errors_exit_with_2(bench: Bench, arguments: str) -> None:
    said = bench(*arguments.split())
    assert said.code == 2
    assert said.stdout == ""
    assert "Usage: bench" in said.stderr
    assert "Traceback" not in said.stderr


def test_ctrl_c_before_anything_is_kept_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.prepare", pressed)
    assert bench("run", "simclr") == (130, "", "bench: interrupted\n")


# Answers


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
    said = bench(command, "--help")
    assert said.code == 0
    assert f"bench {command}" in said.stdout
    assert "Examples:" in said.stdout


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
    assert "stage ssl" in said.stderr
    assert "1 epochs of 2 batches of 8" in said.stderr
    assert "stage1.epochs = 1" in said.stdout.splitlines()
    assert "encoder.width = 1" in said.stdout.splitlines()
    assert files(tmp_path) == {"given/toy.npz"}
    assert {path.name for path in tmp_path.iterdir()} == {"given"}


def test_every_printed_setting_can_be_set(bench: Bench, toy: str) -> None:
    printed = bench("run", "simclr", "--dataset", toy, *small(), "--dry-run").stdout.splitlines()
    sections = ("stage1.", "encoder.", "threat.", "slf.", "evaluate.")
    settings = [line.replace(" = ", "=", 1) for line in printed if line.startswith(sections)]
    assert len(settings) > 40
    again = [part for setting in settings for part in ("--set", setting)]
    said = bench("run", "simclr", "--dataset", toy, *again, "--dry-run", "--device", "cpu", "--protocols", "slf")
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
    (path,) = (tmp_path / "results").glob("*/*.json")
    record = load_record(path)
    assert f"record: {path.relative_to(tmp_path)}" in said.stdout.splitlines()
    assert f"{100 * record.sa.accuracy:.2f} %" in said.stdout
    assert "stage ssl: 16/16 images" in said.stderr
    assert "bench: " not in said.stderr

    again = bench(*command)
    assert again.code == 0
    assert again.stdout == said.stdout
    assert again.stderr == ""  # nothing to announce, nothing done

    (shown,) = json.loads(bench(*command, "--json").stdout)
    assert shown == record.model_dump(mode="json")
    (row,) = json.loads(bench("runs", "--json").stdout)
    assert (row["method"], row["encoder"]) == ("simclr", True)
    assert row["name"] in bench("runs").stdout


def test_protocols_are_named_once(bench: Bench, tmp_path: Path, toy: str) -> None:
    said = bench("run", "simclr", "--dataset", toy, *small(), "--protocols", "slf, slf", "--json")
    assert len(json.loads(said.stdout)) == 1


def test_an_installed_program_ends_as_the_function_does(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", "run", "decal"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bench: unknown method 'decal'")
    assert done.stderr.count("\n") == 1


# Words on the screen


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("total", [50_000, 50_000_000])
def test_a_bar_shows_all_on_one_line(monkeypatch: pytest.MonkeyPatch, width: int, total: int) -> None:
    console = Console(width=width, force_terminal=True, file=io.StringIO())
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with reporting(console) as reporter:
        reporter.begin("stage pseudo_at", total, done=total // 5)
        now[0] = 200.0
        reporter.advance(total // 5, "epoch 40/100, loss -2.891")
        shown = line(reporter, console, -1)
        reporter.advance(total - 2 * (total // 5))
        reporter.end()
        reporter.begin("SA, clean images", 0)
        finished = line(reporter, console, -2)
    assert len(shown) <= width
    speed = total // 5 // 200
    for fact in ("stage pseudo_at", "40%", f" {speed} images/s", "epoch 40/100, loss -2.891", "10 min left"):
        assert fact in shown
    assert "100%" in finished
    assert finished.rstrip().endswith("3 min")


def line(reporter: Reporter, console: Console, place: int) -> str:
    assert isinstance(reporter, _Live)
    lines = console.render_lines(reporter._progress.get_renderable(), pad=False)
    return "".join(segment.text for segment in lines[place])


def test_a_log_speaks_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with reporting(Console(width=80, file=file)) as reporter:
        reporter.begin("stage ssl", 1000, done=100)
        for _ in range(9):
            now[0] += 10
            reporter.advance(100, "epoch 1/2, loss 3.000")
        reporter.end()
        reporter.note("a word")
    assert file.getvalue().splitlines() == [
        "stage ssl: 100/1000 images",
        "stage ssl: 500/1000 images, 10 images/s, epoch 1/2, loss 3.000, 50 s left",
        "stage ssl: 900/1000 images, 10 images/s, epoch 1/2, loss 3.000, 10 s left",
        "stage ssl: 1000/1000 images, 10 images/s, epoch 1/2, loss 3.000",
        "a word",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "< 1 s"),
        (0.4, "< 1 s"),
        (1.4, "1 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (720, "12 min"),
        (5969, "99 min"),
        (5980, "1.7 h"),
        (12_600, "3.5 h"),
        (47.9 * 3600, "47.9 h"),
        (47.97 * 3600, "2.0 days"),
        (4.2 * 86400, "4.2 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def record(published_as: str | None) -> Record:
    outcome = Outcome.pack([True] * 3 + [False], test_images=4)
    attack = {"outcome": outcome, "eps": 8 / 255}
    return Record(
        method="deacl",
        title="DeACL",
        year=2022,
        dataset="cifar10",
        tier="paper",
        tier_sha256="0",
        fidelity="uniform",
        seed=0,
        protocol="slf",
        overrides={},
        recipe={"dataset": {"published_as": published_as}},
        pretraining_sha256="1",
        protocol_sha256="2",
        encoder_sha256="3",
        classifier_sha256="4",
        sa=outcome,
        ra=PGDEvaluation(**attack, steps=20, step_size=2 / 255, start="uniform", restarts=1),
        aa=AutoAttackEvaluation(
            **attack,
            version="standard",
            package="p",
            package_version="1",
            targets=9,
            survivors={"square": 3},
            warnings=["the model is randomized"],
        ),
        cost={},
        history={},
        environment=Environment(bench="0", packages={}, python="3", platform="x", device="CPU", threads=1),
        started="2024-01-01T00:00:00+00:00",
        finished="2024-01-01T01:00:00+00:00",
    )


def printed(records: list[Record], results_dir: Path, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(results_table(records, results_dir))
    return capture.get()


def published(folder: Path) -> Path:
    (folder / "published").mkdir()
    number = {
        "source": "a table",
        "method": "DeACL",
        "variant": {},
        "pretrain_dataset": "cifar10",
        "dataset": "cifar10",
        "encoder": "resnet18",
        "protocol": "SLF",
        "aa": 45.31,
        "ra": None,
        "sa": 80.17,
    }
    (folder / "published" / "numbers.json").write_text(json.dumps([number]))
    return folder


def test_the_papers_number_stands_beside_ours(tmp_path: Path) -> None:
    text = printed([record("cifar10")], published(tmp_path))
    rows = {line.split("│")[2].strip(): line.split("│") for line in text.splitlines() if line.count("│") == 5}
    assert rows["SA"][3].strip().startswith("75.00 % [")
    assert rows["SA"][4].strip() == "80.17 %"
    assert rows["RA, PGD-20 at 8/255"][4].strip() == ""  # what the source does not give
    assert rows["AA at 8/255"][4].strip() == "45.31 %"
    assert "the model is randomized" in text


def test_no_papers_number_for_other_data_or_without_a_list(tmp_path: Path) -> None:
    alone = printed([record("cifar10")], tmp_path)
    own = printed([record(None)], published(tmp_path))
    for text in (alone, own):
        assert "75.00 %" in text
        assert "80.17" not in text


def test_the_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    lines = printed([record("cifar10")], published(tmp_path), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("RA, PGD-20 at 8/255" in line and "n = 4" in line for line in lines)
