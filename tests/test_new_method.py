"""``bench new``: a method of any name to begin with, in the style of this repository; nothing is overwritten."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from empty_folder import Bench, files
from empty_folder import bench as bench

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("given", "module", "name"),
    [
        ("my-method", "my_method", "MyMethod"),
        ("RotNet", "rot_net", "RotNet"),
        ("a_2nd-try", "a_2nd_try", "A2ndTry"),
        ("net-2000", "net_2000", "Net2000"),
    ],
)
def test_a_new_method_has_the_name_it_was_given(
    bench: Bench, tmp_path: Path, given: str, module: str, name: str
) -> None:
    said = bench("new", given)
    assert (said.code, said.stderr) == (0, "")
    assert files(tmp_path) == {f"{module}.py", f"test_{module}.py"}
    shown = [line.strip() for line in said.stdout.splitlines()[1:]]
    assert shown[:2] == [f"python -m pytest test_{module}.py", f"bench run ./{module}.py:{name} --dataset digits"]
    texts = [(tmp_path / file).read_text() for file in files(tmp_path)]
    assert not [text for text in texts if "bench.template" in text or ("MyMethod" in text) != (name == "MyMethod")]
    assert f"year={datetime.now(UTC).year}," in texts[0] + texts[1]
    assert f"MethodInfo, at the end of {module}.py" in said.stdout
    assert f"from {module} import {name}Settings" in (tmp_path / f"test_{module}.py").read_text()


def test_a_new_method_is_in_the_style_of_the_house(bench: Bench, tmp_path: Path) -> None:
    """Its types are checked in the template, of which it is a copy."""
    bench("new", "my-method")
    for check in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(ruff, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("my method", "'my method' is no name for a method: write at most 40 letters and digits"),
        ("../mine", "begin with a letter. Type, for example, bench new my-method"),
        ("2nd", "is no name for a method"),
        ("m" * 41, "at most 40"),
        ("deacl", "deacl is the name of an installed method; choose another"),
        ("AP-DPE", "AP-DPE is the name of an installed method"),
        ("torch", "'torch' is a word or module of Python"),
        ("PGD", "PGD is a name that the new file itself uses; choose another name"),
        ("attack", "AttackSettings is a name that the new file itself uses"),
        ("class", "'class' is a word or module of Python"),
        ("there", "there.py exists and is not overwritten. Move it away, or choose another name"),
        ("tested", "test_tested.py exists and is not overwritten"),
    ],
)
def test_a_name_that_cannot_be_is_one_message(bench: Bench, tmp_path: Path, given: str, message: str) -> None:
    for name in ("there.py", "test_tested.py"):
        (tmp_path / name).write_text("mine")
    said = bench("new", given)
    assert (said.code, said.stdout) == (1, "")
    assert message in said.stderr
    assert files(tmp_path) == {"there.py", "test_tested.py"}
    assert {(tmp_path / name).read_text() for name in files(tmp_path)} == {"mine"}
