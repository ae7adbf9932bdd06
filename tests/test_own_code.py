"""A method from a file: loaded only when the user names it, known by its code, and refused with one message."""

import os
import shlex
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from board_records import make_record
from empty_folder import Bench, small
from empty_folder import bench as bench
from empty_folder import toy as toy
from in_process import Said
from pydantic import TypeAdapter

from bench import own_code
from bench import registry as registry_module
from bench.attack import ATTACKS, NamedAttack
from bench.cli._runs import show_records
from bench.errors import BenchError, CheckFailedError
from bench.method import METHODS
from bench.nn import ENCODERS
from bench.own_code import as_typed, is_own, told
from bench.recipe import EvaluationSettings, Threat
from bench.recipe.fields import Name
from bench.record import Diagnosis, load_record, record_files
from bench.registry import Registry
from bench.report.run_report import write_report
from bench.results import build_leaderboard

CPU = torch.device("cpu")
FILE = '''"""A variant of SimCLR."""

from dataclasses import replace

from bench.method import single_stage
from methods.simclr import SimCLR, SimCLRStage, SimCLRStageSettings


class OwnStage(SimCLRStage):
    """The same, under another name."""

    name = "own"  # nothing else


Own = single_stage(replace(SimCLR.info, title="Own"), SimCLRStageSettings, OwnStage)
'''


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    list(METHODS)  # finds the plug-ins
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))


def write(folder: Path, text: str = FILE, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# The name


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("  # nothing else", "", True),
        ('"""A variant of SimCLR."""', '"""SimCLR, varied."""', True),
        ('name = "own"', 'name = "mine"', False),
    ],
)
def test_a_method_is_known_by_its_name_and_code(tmp_path: Path, before: str, after: str, same: bool) -> None:
    first = METHODS.name_of(f"{write(tmp_path)}:Own")
    assert TypeAdapter(Name).validate_python(first).startswith("Own+")
    assert (is_own(first), is_own("simclr"), as_typed(first), as_typed("simclr")) == (
        *(True, False),
        *("FILE.py:Own", "simclr"),
    )
    assert METHODS.get(first) is METHODS.get(f"{tmp_path}/own.py:Own")
    assert before in FILE
    again = METHODS.name_of(f"{write(tmp_path, FILE.replace(before, after), 'elsewhere.py')}:Own")
    assert (again == first) == same
    assert first in METHODS


def test_a_name_alone_never_loads_a_file(tmp_path: Path) -> None:
    name = METHODS.name_of(f"{write(tmp_path)}:Own")
    del METHODS._entries[name]
    message = r"the method Own\+\w+ comes from a file that is not loaded\. Type `bench --method FILE\.py:Own COMMAND"
    with pytest.raises(BenchError, match=message):
        METHODS.get(name)
    METHODS.name_of(f"{write(tmp_path, FILE.replace('own', 'changed'))}:Own")
    message = r"the code of the method Own\+\w+ is not that of the loaded file, which gives Own\+"
    with pytest.raises(BenchError, match=message):
        METHODS.get(name)


# Mistakes


@pytest.mark.parametrize(
    ("named", "text", "message"),
    [
        ("owm.py:Own", FILE, r"there is no file .*owm\.py\. Did you mean .*/own\.py\?"),
        ("own.py:Owm", FILE, r"unknown method in .*own\.py: 'Owm'\. Did you mean 'Own'\? Allowed: Own, SimCLR\."),
        ("own.py", FILE, r"own\.py is a file; which method in it is meant\? Type .*own\.py:SimCLR or .*own\.py:Own"),
        ("own.py:OwnStage", FILE, r"has no info, a MethodInfo; .*result\(\)\. It is a stage: name what single_stage"),
        ("own.py:replace", FILE, r"own\.py:replace is no method: it is not a class"),
        ("own.py:Own", FILE.replace("):", ")"), r"own\.py, line 9: expected ':'"),
        ("own.py:Own", FILE + "return\n", r"own\.py, line 16: 'return' outside function"),
        ("own.py:Own", FILE + "x = Own.inof\n", r"own\.py, line 16: AttributeError: .*inof"),
        (
            "own.py:Own",
            FILE + "import exit_now_please\n",
            r"line 16: ModuleNotFoundError.* put its folder in PYTHONPATH",
        ),
        ("own.py:Own", FILE + "raise SystemExit(3)\n", r"own\.py, line 16: SystemExit: 3"),
        (
            "own.py:Own",
            "class Own:\n    info = stages = result = 1\n",
            r"has no info, .*; no config_type, .*; no stages",
        ),
    ],
)
def test_a_faulty_file_is_one_message(tmp_path: Path, named: str, text: str, message: str) -> None:
    write(tmp_path, text)
    known = set(METHODS)
    with pytest.raises(BenchError, match=message) as fault:
        METHODS.get(f"{tmp_path}/{named}")
    assert "Traceback" not in str(fault.value)
    assert set(METHODS) == known


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("year=-5", r"own\.py, line 15: MethodInfo: year: must be at least 1900 \(given: -5\)"),
        ("year=2000.5", r"year: must be a whole number \(given: 2000\.5\)"),
        ("year='MM'", r"year: must be a whole number \(given: 'MM'\)"),
        ("year=True", "year: must be a number .*True"),
        ("title=''", "title: must have at least 1 characters"),
        ("title='a\\0b'", "title: holds characters that cannot be printed"),
        ("paper=None", "paper: must be text"),
        ("bibtex=None, outside=None", "2 faults\n.*bibtex: must be text\n.*outside: must be text"),
        ("robust='perhaps'", "robust: must be true or false"),
        ("protocols=('slf', 'nope')", r"protocols\.1: is no protocol; allowed: slf, alf, .*\(given: 'nope'\)"),
        ("protocols=()", "protocols: must have at least 1 of them"),
        ("tables={'1': 5}", "tables.1: must be a .*AblationTable"),
    ],
)
def test_what_a_method_says_of_itself_is_checked_when_its_file_is_loaded(
    tmp_path: Path, changed: str, message: str
) -> None:
    write(tmp_path, FILE.replace('title="Own"', changed))
    with pytest.raises(BenchError, match=message):
        METHODS.get(f"{tmp_path}/own.py:Own")


LUCKLESS = "raise OSError('no luck')"
NET = f"""from torch import nn


class Net(nn.Module):
    def __init__(self, image_shape):
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def forward(self, images):
        if not self.training or len(images) == 2:  # the trial before the run
            return images.mean((2, 3)) * self.scale.weight
        {LUCKLESS}


net = Net
"""
RAISES = {
    "method": (
        "run ./own.py:Own",
        FILE.replace("name =", f"def __init__(self, *_):\n        {LUCKLESS}\n\n    name ="),
    ),
    "encoder": ("run simclr --encoder ./own.py:net", NET),
}


@pytest.mark.parametrize("kind", RAISES)
def test_what_code_of_ones_own_raises_is_one_message(bench: Bench, toy: str, tmp_path: Path, kind: str) -> None:
    words, text = RAISES[kind]
    write(tmp_path, text)
    line = 1 + text.splitlines().index(f"        {LUCKLESS}")
    _, command, name, *more = ("", *words.split())
    said = bench(command, name, *more, "--dataset", toy, *small())
    assert said.code == 1
    assert said.stderr.splitlines()[-2:] == [
        f"bench: the {kind} {(name if kind == 'method' else more[-1])} raised OSError in own.py, line {line}: no luck",
        "Type bench --traceback COMMAND ... to see the calls that led there.",
    ]
    assert "Traceback (most recent call last)" not in said.stderr
    said = bench("--traceback", command, name, *more, "--dataset", toy, *small())
    assert "Traceback (most recent call last)" in said.stderr
    assert said.code == 1


def test_code_of_ones_own_that_exits_is_an_error_too(bench: Bench, toy: str, tmp_path: Path) -> None:
    text = FILE.replace("name =", "def __init__(self, *_):\n        raise SystemExit(5)\n\n    name =")
    said = bench("run", f"{write(tmp_path, text)}:Own", "--dataset", toy, *small())
    assert said.code == 1
    assert f"bench: the method {tmp_path}/own.py:Own raised SystemExit in {tmp_path}/own.py, line " in said.stderr


def test_the_hint_after_a_failed_check_loads_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (ENCODERS, ATTACKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    text = "def noise(model, images, labels, *, threat, generator):\n    return images\n"
    names = {"method": METHODS.name_of(f"{write(tmp_path)}:Own")}
    names["encoder"] = ENCODERS.name_of(f"{write(tmp_path, NET, 'net.py')}:net")
    names["attack"] = ATTACKS.name_of(f"{write(tmp_path, text, 'attack.py')}:noise")
    failed = Diagnosis(check="gradient", verdict="fail", found="none")
    record = make_record(method=names["method"], doctor=(failed,))
    recipe = {**record.recipe, "encoder": {"arch": names["encoder"]}}
    recipe["evaluate"] = {"attack": "pgd", "attacks": ["apgd-ce", names["attack"]]}
    record = record.model_copy(update={"recipe": recipe})
    run: Any = SimpleNamespace(folder=SimpleNamespace(path=tmp_path / "run", encoder=tmp_path))
    with pytest.raises(CheckFailedError) as raised:
        show_records([(record, tmp_path)], [run], tmp_path, as_json=True)
    files = {"method": "own.py:Own", "encoder": "net.py:net", "attack": "attack.py:noise"}
    loading = [word for kind, file in files.items() for word in (f"--{kind}", str(tmp_path / file))]
    assert str(raised.value).splitlines()[-1] == (
        f"What to do says: {shlex.join(['bench', *loading, 'doctor', str(tmp_path / 'run')])}"
    )


def test_what_an_attack_or_a_plug_in_raises_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    text = "def noise(model, images, labels, *, threat, generator):\n    return labels.sideways()\n"
    attack = NamedAttack(ATTACKS.name_of(f"{write(tmp_path, text)}:noise"), EvaluationSettings())
    images, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(AttributeError) as raised:
        attack(torch.nn.Identity(), images, labels, threat=Threat(eps=0.1), seed=0, positions=[0, 1])
    assert str(told(raised.value)).startswith(f"the attack {tmp_path}/own.py:noise raised AttributeError in ")
    for call, said in (
        ("next(iter([]))", "raised StopIteration in {}, line 2\nType bench --traceback"),
        ("noise()", "line 2: noise() missing 3 required positional arguments"),
        ("noise(*None)", "line 2: noise() argument after * must be an iterable"),
    ):
        file = write(tmp_path, text.replace("labels.sideways()", call), "other.py")
        attack = NamedAttack(ATTACKS.name_of(f"{file}:noise"), EvaluationSettings())
        with pytest.raises((StopIteration, TypeError)) as wrong:
            attack(torch.nn.Identity(), images, labels, threat=Threat(eps=0.1), seed=0, positions=[0, 1])
        assert said.format(file) in str(told(wrong.value))
    # Code of an installed package is known by the package; other code, the bench's own, keeps its traceback.
    assert told(ValueError("ours")).args == ("ours",)
    point = EntryPoint("strange", "stranger_package.sub:Attack", "bench.attacks")
    vars(point)["dist"] = SimpleNamespace(name="stranger")
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [point])
    list(Registry[object]("attack", group="bench.attacks"))
    code = compile("1 / 0", "stranger.py", "exec")
    with pytest.raises(ZeroDivisionError) as divided:
        exec(code, {"__name__": "stranger_package.other"})
    assert str(told(divided.value)).startswith("the attack strange raised ZeroDivisionError in stranger.py, line 1")


@pytest.mark.parametrize(
    ("registry", "hint"),
    [(METHODS, "`bench new my-method`"), (ATTACKS, "docs/attack_suite.md"), (ENCODERS, "docs/enc")],
)
def test_a_file_that_is_not_there_is_a_word_on_its_kind(registry: Registry[object], hint: str) -> None:
    with pytest.raises(BenchError, match=f"there is no file nowhere.py. {hint}"):
        registry.name_of("./nowhere.py:x")


def test_what_an_entry_point_names_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS._entries, "stranger", "bench.errors:BenchError")
    with pytest.raises(BenchError, match=r"bench\.errors:BenchError is no method: it has no info"):
        METHODS.get("stranger")


# Runs


@pytest.fixture
def first_run(bench: Bench, toy: str, tmp_path: Path) -> Said:
    write(tmp_path)
    return bench("run", "./own.py:Own", "--dataset", toy, *small())


def test_a_method_from_a_file_runs_to_a_row_and_its_run_is_read_again(
    first_run: Said, bench: Bench, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_run.code == 0, first_run.stderr
    (path,) = record_files(tmp_path / "results" / "local")
    record = load_record(path)
    name, text = METHODS.name_of("own.py:Own"), (tmp_path / "own.py").read_text()
    assert (record.method, record.title) == (name, "Own")
    (trained,) = record.environments["stage:own"]
    assert trained is not None
    assert f"own_code+{name.partition('+')[2]}" in trained.modules
    assert not record.foreign_phases
    (folder,) = (tmp_path / "runs").glob("toy-Own+*")
    assert (folder / "method.py").read_text() == text
    (row,) = build_leaderboard(tmp_path / "results").rows
    assert row.label.startswith(f"Own 2020 (local, {name}, encoder.width=1")
    compared = bench("compare", "./own.py:Own encoder.width=1", "simclr", "--dataset", "toy")
    assert "no records of method simclr on toy" in " ".join(compared.stderr.split())
    assert name in compared.stderr
    compared = bench("compare", "./own.py:Own", "simclr", "--dataset", "toy", "--protocol", "knn")
    assert (
        "`bench run ./own.py:Own --dataset npz:PATH --protocols knn` makes one; there are some under slf: type "
        "--protocol slf."
    ) in " ".join(compared.stderr.split())
    refused = bench("run", "./own.py:Own", "--dataset", toy, "--set", "stage1.nonsense=1")
    assert "`bench methods ./own.py:Own` lists them all" in " ".join(refused.stderr.split())
    report = write_report(
        tmp_path / "runs",
        folder.name,
        tmp_path / "report",
        results_dir=tmp_path,
        data_dir=tmp_path,
        device=CPU,
        of_each=1,
    )
    assert report.protocols
    shown = (tmp_path / "report" / "report.md").read_text()
    assert shlex.join(["bench", "run", "FILE.py:Own"]) in shown
    assert " `bench methods FILE.py:Own` names" in shown

    # Another process has not loaded the file.
    del METHODS._entries[name]
    evaluated = "evaluate", folder.name, "--set", "evaluate.pgd_steps=2", "--dataset", toy, "--protocols", "slf"
    refused = bench(*evaluated)
    assert (refused.code, refused.stdout) == (1, "")
    assert "Type `bench --method FILE.py:Own COMMAND ...`" in refused.stderr
    monkeypatch.delitem(own_code._TEXTS, name.partition("+")[2])
    unread = " ".join(bench("report", folder.name).stderr.split())
    assert "has no finished protocol that can be read. It was made with code from files that are not loaded. " in unread
    assert unread.endswith("Type bench --method ./own.py:Own COMMAND ...")
    assert bench("--method", "own.py:Own", *evaluated).code == 0
    assert len(list(record_files(tmp_path / "results" / "local"))) == 2


def test_a_changed_file_is_another_run_and_says_so(first_run: Said, bench: Bench, toy: str, tmp_path: Path) -> None:
    command = "run", "./own.py:Own", "--dataset", toy, *small()
    (folder,) = (tmp_path / "runs").glob("toy-Own+*")
    write(tmp_path, f"# A comment.\n{FILE}")
    said = bench(*command)
    assert "differs" not in said.stderr
    assert [path.name for path in (tmp_path / "runs").glob("toy-Own+*")] == [folder.name]
    write(tmp_path, FILE.replace('"own"', '"mine"'))
    said = bench(*command)
    assert f"the code of Own differs from that of {folder.name}, so this is another run" in " ".join(
        said.stderr.split()
    )
    (latest,) = {*(tmp_path / "runs").glob("toy-Own+*")} - {folder}
    os.utime(folder, (0, 0))
    write(tmp_path, FILE.replace('"own"', '"third"'))
    said = bench(*command)
    assert f"differs from that of {latest.name} and 1 other run, so" in " ".join(said.stderr.split())


def test_every_command_that_takes_a_method_takes_a_file(bench: Bench, toy: str, tmp_path: Path) -> None:
    smaller = "class OwnSettings(SimCLRStageSettings):\n    batch_size: int = 32\n\n\nOwn = "
    write(tmp_path, FILE.replace("Own = ", smaller).replace("SimCLRStageSettings, OwnS", "OwnSettings, OwnS"))
    grid = "ablate", "./own.py:Own", "--grid", "stage1.temperature=0.1,0.2", "--dataset", toy, "--dry-run"
    assert "Own: " in bench(*grid, *small()).stderr
    assert '"title": "Own"' in bench("methods", "./own.py:Own", "--json").stdout
    budget = "run", "simclr", "--dataset", toy, "--budget", "like:./own.py:Own", "--dry-run", "--json"
    assert '"budget": ' in bench(*budget, *small(without="stage1.epochs")).stdout
    timing = "timing", "./own.py:Own", "--dataset", toy, "--tier", "tiny", "--width", "1", "--rounds", "1", "--json"
    assert f'"method": "{METHODS.name_of("own.py:Own")}"' in bench(*timing).stdout
