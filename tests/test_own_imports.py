"""What a user's own file imports and is not installed belongs to its code: a change there gives another name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from empty_folder import Bench, small
from empty_folder import bench as bench
from empty_folder import toy as toy
from test_own_code import FILE
from test_own_code import only_here as only_here

from bench import code
from bench.code import source_digest
from bench.own_code import changed_files, files_of, load_own
from bench.record import load_submission

OWN = '''"""An attack."""

import math

import toylibrary.deep.net
from toylosses import scale


def noise(images):
    from toylazy import late

    return late(scale(images)) + math.tau
'''
FILES = {
    "own.py": OWN,
    "toylosses.py": "from toybelow import factor\n\n\ndef scale(x):\n    return factor * x  # times\n",
    "toybelow.py": "factor = 2\n",
    "toylazy.py": "def late(x):\n    return x\n",
    "toylibrary/__init__.py": "from toylibrary import patched\n",
    "toylibrary/patched.py": "import math\n\nmath.patched = 1\n",
    "toylibrary/unused.py": "x = 1\n",
    "toylibrary/deep/net.py": "from ..within import y\n",
    "toylibrary/within.py": "y = 1\n",
}
DIGESTS = """
import sys
from bench.code import code_digest
from bench.own_code import load_own
own = load_own(sys.argv[1], "attack", callable)
print(own.name, code_digest(own.value.__module__))
"""


def write(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def digests(folder: Path, libraries: Path | None = None) -> list[str]:
    """Return the name of the attack in ``folder`` and the digest of its code, found in a new process."""
    path = [str(libraries or folder), str(Path(__file__).parents[1])]
    command = f"import sys; sys.path[:0] = {path}; sys.dont_write_bytecode = True\n{DIGESTS}"
    done = subprocess.run(
        [sys.executable, "-c", command, f"{folder}/own.py:noise"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("file", "before", "after", "same"),
    [
        ("toylosses.py", "# times", "# twice", True),
        ("toylosses.py", "factor * x", "0 * factor * x", False),
        ("toybelow.py", "2", "3", False),
        ("toylazy.py", "return x", "return -x", False),
        ("toylibrary/patched.py", "1", "2", False),
        ("toylibrary/unused.py", "1", "2", True),
        ("toylibrary/deep/net.py", "import y", "import y as z", False),
        ("toylibrary/within.py", "1", "2", False),
    ],
)
def test_what_a_file_imports_is_part_of_its_name(
    tmp_path: Path, file: str, before: str, after: str, same: bool
) -> None:
    first = digests(write(tmp_path / "here"))
    there = write(tmp_path / "there")
    assert before in FILES[file]
    (there / file).write_text(FILES[file].replace(before, after))
    second = digests(there)
    assert [one == other for one, other in zip(first, second, strict=True)] == [same, same]


def test_what_is_installed_and_the_bench_are_no_part_of_it(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    write(installed, {name: text for name, text in FILES.items() if name != "own.py"})
    own = write(tmp_path, {"own.py": OWN.replace("import math\n", "import math\nfrom bench import errors\n")})
    name, _ = digests(own, installed)
    assert name == f"noise+{source_digest((own / 'own.py').read_text())[:8]}"
    shutil.move(installed, tmp_path / "editable")
    assert digests(own, tmp_path / "editable")[0] != name


def test_a_file_without_such_imports_has_the_name_that_it_always_had(tmp_path: Path) -> None:
    assert load_own(f"{write(tmp_path, {'own.py': FILE})}/own.py:Own", "method", callable).name == "Own+26fd7353"


def test_a_grid_is_told_of_what_a_file_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(write(tmp_path)))
    own = load_own(f"{tmp_path}/own.py:noise", "attack", callable)
    files = files_of([own.name])
    assert set(files) == {str(tmp_path / name) for name in FILES if "unused" not in name}
    assert changed_files(files) == []
    (tmp_path / "toybelow.py").write_text("factor = 3\n")
    assert changed_files(files) == [str(tmp_path / "toybelow.py")]


def test_a_change_of_what_a_method_imports_begins_another_run(
    bench: Bench, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = write(tmp_path / "library", {"toyrate/loss.py": "weight = 1\n"})
    monkeypatch.syspath_prepend(str(library))
    write(tmp_path, {"own.py": FILE.replace("\nOwn =", "    from toyrate.loss import weight\n\n\nOwn =")})
    command = "run", "./own.py:Own", "--dataset", toy, *small()
    first = bench(*command)
    assert first.code == 0, first.stderr
    (folder,) = (tmp_path / "runs").glob("toy-Own+*")
    assert (folder / "imported" / "toyrate" / "loss.py").read_text() == "weight = 1\n"
    write(library, {"toyrate/loss.py": "weight = 0\n"})
    for name in [name for name in sys.modules if name.startswith("toyrate")]:
        monkeypatch.delitem(sys.modules, name)  # as in another process
    for cached in (code._read, code.code_digest):
        cached.cache_clear()
    said = " ".join(bench(*command).stderr.split())
    assert f"the code of Own differs from that of {folder.name}, so this is another run. method.py and imp" in said
    assert len([*(tmp_path / "runs").glob("toy-Own+*")]) == 2


def test_a_submission_holds_what_a_method_imports_and_is_verified_with_it(
    bench: Bench, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = write(tmp_path / "library", {"toyweight/loss.py": "weight = 1\n"})
    monkeypatch.syspath_prepend(str(library))
    write(tmp_path, {"own.py": FILE.replace("\nOwn =", "    from toyweight.loss import weight\n\n\nOwn =")})
    bench("run", "./own.py:Own", "--dataset", toy, *small())
    (run,) = (tmp_path / "runs").glob("toy-Own+*")
    submitted = bench("--method", "./own.py:Own", "submit", run.name, "--by", "Ada")
    (copy,) = (tmp_path / "results" / "submissions").glob("*/code/*/toyweight/loss.py")
    assert f"code: {copy.relative_to(tmp_path)}, which" in submitted.stdout, submitted.stderr
    assert copy.read_text() == "weight = 1\n"
    (made,) = (tmp_path / "results" / "submissions").iterdir()
    submission, card = load_submission(made), (made / "README.md").read_text()
    assert copy.relative_to(made).as_posix() in submission.files
    assert f"sys.path += ['{copy.parents[1].relative_to(made)}']" in card
    folder = copy.parents[1].relative_to(made)
    assert f"FILE.py is `{folder}.py`, and the command begins with `env PYTHONPATH={folder}`." in card
    shutil.rmtree(library)
    here = f"{Path(__file__).parents[1]}:"  # or the installed bench would be called
    command = submission.commands[-1].replace("PYTHONPATH=", f"PYTHONPATH={here}").replace("npz:PATH", toy)
    command = command.replace(" bench ", f" {sys.executable} -m bench ", 1)
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
