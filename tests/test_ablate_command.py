"""``bench ablate``: the table beside the paper's numbers, what it leaves out, and one message for each mistake."""

import json
from pathlib import Path

import pytest
from in_process import say
from test_ablate import options_in
from toy_runs import toy_data

from bench.method import AblationTable
from bench.record import correct, load_record
from bench.results import NEW_RECORD
from methods.deacl_tables import TABLES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_data(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture
def options(data: str, tmp_path: Path) -> list[str]:
    return options_in(tmp_path, data)


def test_a_withdrawn_record_is_in_no_row_and_that_is_said(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ablate", "deacl", "--grid", "stage2.lam=1,3", "--seeds", "0,1", *options]
    assert say(monkeypatch, capsys, *words).code == 0
    rows = json.loads(say(monkeypatch, capsys, *words, "--json").stdout)["rows"]
    (kept, *wrong) = [Path(path) for row in rows for path in row["records"]]
    for path in wrong:
        correct(path, load_record(path), tmp_path / "results", reason="training", note="bad lam")
    found = json.loads(say(monkeypatch, capsys, *words, "--json").stdout)
    assert [row["records"] for row in found["rows"]] == [[str(kept)], []]
    assert found["rows"][1]["ra"] is None
    cells = ("stage2.lam=1, slf, seed 1", "stage2.lam=3, slf, seed 0", "stage2.lam=3, slf, seed 1")
    assert found["left_out"] == [f"{cell}: withdrawn: the training was wrong. bad lam" for cell in cells]
    shown = say(monkeypatch, capsys, *words).stdout
    assert shown.endswith("".join(f"left out: {line}\n" for line in found["left_out"]) + f"{NEW_RECORD}\n")
    assert "failed" not in shown


def test_a_table_is_printed_beside_the_papers_numbers(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, log = say(monkeypatch, capsys, "ablate", "deacl", "--table", "4", *options)
    assert code == 0
    assert "once: stage ssl" in log
    assert "stage ssl: 0/48 images" in log
    assert text.count("n/a") == 6  # the two mixed cells
    assert "paper: column 1 strong, column 2 weak" in text
    assert "uniform fidelity, seed 0\n" in text.replace(" \n", "\n")
    assert "7.62" in text
    assert "other data (toy), tier tiny, uniform fidelity. Compare the order of the rows" in text
    assert "not known to us" in text
    code, shown, log = say(monkeypatch, capsys, "ablate", "deacl", "--table", "4", "--json", *options)
    values = json.loads(shown)
    assert (code, log) == (0, "finished before: only what is damaged or lost is made again\n")  # nothing to plan
    assert [row["label"] for row in values["rows"]] == ["weak, weak", "strong, strong", "weak, strong", "strong, weak"]
    assert [row["paper"] and row["paper"]["aa"] for row in values["rows"]] == [45.31, 6.93, None, None]
    for measure in ("ra", "sa"):  # Wilson's interval reaches further to one side of a score than to the other
        scores = [row[measure] for row in values["rows"]]
        reach = max(abs(end - score["accuracy"]) for score in scores for end in score["interval"])
        assert f"{measure.upper()} ± {100 * reach:.1f} (n = {scores[0]['n']})" in text
    assert {label: line["aa"] for label, line in values["unplaced"].items()} == {
        "column 1 weak, column 2 strong": 34.47,
        "column 1 strong, column 2 weak": 7.62,
    }


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, log = say(monkeypatch, capsys, "ablate", "deacl", "--table", "1", "--dry-run", "--json", *options)
    assert code == 0
    assert "2 cells, 2 runs" in log
    assert ": read 24 train and 16 test images" in log
    assert list(json.loads(text)["cells"]) == ["from the teacher", "from scratch"]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_cell_is_shown_and_ends_with_1(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, log = say(monkeypatch, capsys, "ablate", "deacl", "--grid", "stage2.lr=1e30,0.5", *options)
    assert code == 1
    assert "failed" in text
    assert log.splitlines()[-1].startswith("- stage2.lr=1e+30, seed 0: the loss of stage 'pseudo_at' is not finite")
    assert log.count("bench: 1 run could not be finished") == 1
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("loss", "loss is a table of deacl, not a method. Type bench ablate deacl --table loss"),
        ("los --table 1", "unknown method 'los'"),
        ("deacl", "nothing to vary"),
        ("deacl --table 7", "unknown table of deacl '7'"),
        ("deacl --table 1 --seeds 0,x", "--seeds '0,x': 'x' is not a seed. Type whole numbers, as in --seeds 0,1,2"),
        ("deacl --table 1 --set student_init=scratch", "the table varies this"),
        ("simclr --grid stage1.lr=1,2 --protocols slx", "unknown protocol 'slx'"),
    ],
)
def test_a_mistake_is_one_message(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text, log = say(monkeypatch, capsys, "ablate", *arguments.split())
    assert (code, text) == (1, "")
    assert message in log
    assert log.count("bench: ") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_table_is_named_in_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(TABLES["1"], AblationTable)
    _, text, _ = say(monkeypatch, capsys, "ablate", "--help")
    assert f"for deacl: {', '.join(TABLES)}." in text
