"""What counts as the same code: all that a stage reaches by import, and nothing that only reads differently."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import code
from bench.code import code_digest, reached, source_digest

STAGE = '''"""A loss."""

from toypackage import halved


class Stage:
    """Doubles."""

    def forward(self, x):
        """Return twice x."""
        return 2 * halved(x)  # twice
'''
INIT = '"""The package."""\n\nfrom toypackage.half import halved\n\n__all__ = ["halved"]\n__version__ = "1"\n'
HALF = "def halved(x):\n    return x / 2\n\n\ndef other(x):\n    return x\n"
UNUSED = "from toypackage.half import halved\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own: a stage, what it reaches, and what it does not."""
    folder = tmp_path / "toypackage"
    folder.mkdir()
    for name, text in {"__init__": INIT, "stage": STAGE, "half": HALF, "unused": UNUSED}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def digest_in_a_new_process(package: Path) -> str:
    command = "import toypackage, bench.code; print(bench.code.code_digest('toypackage.stage'))"
    path = [str(package.parent), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {command}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("file", "before", "after", "same"),
    [
        ("stage", "# twice", "# two times", True),
        ("stage", '"""Return twice x."""', '"""Return 2x."""', True),
        ("stage", '"""Doubles."""', '"""Makes double."""', True),
        ("stage", "2 * halved(x)  #", "(2 *\n            halved(x))  #", True),
        ("__init__", '__version__ = "1"', '__version__ = "2"', True),
        ("unused", UNUSED, UNUSED + "print(halved(1))\n", True),
        ("stage", "2 * halved", "0 * 2 * halved", False),
        ("half", "x / 2", "x / 3", False),
        ("__init__", '__version__ = "1"', "import math\n\nmath.tau = 1\n", False),
        ("__init__", "from toypackage.half import halved", "from toypackage.half import other as halved", False),
        ("__init__", "from toypackage.half import halved", "from toypackage.unused import halved", True),
    ],
)
def test_what_changes_a_digest(package: Path, file: str, before: str, after: str, same: bool) -> None:
    first = digest_in_a_new_process(package)
    path = package / f"{file}.py"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    assert (digest_in_a_new_process(package) == first) == same


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("__version__ = '1'", "__version__ = '2'", True),
        ("__version__: str = '1'", "", True),
        ("__EPS = 8 / 255", "__EPS = 1", False),
        ("class A:\n    __temperature = 0.5", "class A:\n    __temperature = 0.1", False),
        ("class A:\n    __call__ = weak", "class A:\n    __call__ = strong", False),
        ("def f(x):\n    __all__ = 1\n    return __all__", "def f(x):\n    __all__ = 2\n    return __all__", False),
    ],
)
def test_only_what_a_module_says_about_itself_is_no_code(before: str, after: str, same: bool) -> None:
    assert (source_digest(f"{before}\nx = 1\n") == source_digest(f"{after}\nx = 1\n")) == same


SIMCLR = ("bench.train.engine", "methods.simclr", "bench.nn.resnet")


def test_a_stage_reaches_what_decides_it_and_no_more() -> None:
    import methods.simclr

    assert methods.simclr
    found = reached(SIMCLR, frozenset({"bench", "methods"}))
    assert {"bench.optim", "bench.nn.resnet", "bench.data.views.colour", "methods.losses", "bench.rng"} <= found
    rooms = {f"{name}.".split(".")[1] for name in found}
    assert not {"cli", "leaderboard", "report", "compare", "timing", "cost", "ablate", "run"} & rooms
    assert not {"methods.byol", "methods.deacl", "bench.cost.probe", "bench.record.outcome"} & found


def test_a_digest_is_made_in_a_moment() -> None:
    code._read.cache_clear()
    code_digest.cache_clear()
    start = time.process_time()
    first = code_digest(*SIMCLR)
    assert (
        time.process_time() - start < 2
    )  # a quarter of a second on an idle core; a shared one may be four times as slow
    assert len(first) == 64
    start = time.process_time()
    assert code_digest(*SIMCLR) == first
    assert time.process_time() - start < 0.01


def test_what_only_a_type_checker_imports_is_not_reached() -> None:
    """The verbs of a notebook are in ``bench/__init__.py``, which every import of the package runs."""
    assert reached(["bench"], frozenset({"bench"})) == {"bench"}


def test_a_root_in_a_file_imports_nothing() -> None:
    assert "antigravity" not in sys.modules
    assert code_digest("antigravity.x") != code_digest("antigravity.y")
    assert "antigravity" not in sys.modules


def test_a_module_is_found_without_running_those_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    lazy = "def f():\n    from lazypackage.deep.one import x, y\n    from lazypackage.script.no import z\n"
    texts = {"__init__": "", "lazy": lazy, "script": "raise SystemExit", "deep/__init__": "raise SystemExit"}
    for name, text in {**texts, "deep/one": "x = y = 1\n"}.items():
        path = tmp_path / "lazypackage" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    names = {"lazypackage.lazy", "lazypackage.deep", "lazypackage.deep.one", "lazypackage.script"}
    found = reached(["lazypackage.lazy"], frozenset({"lazypackage"}))
    assert found - {"lazypackage.script.no"} == names
    assert "lazypackage" not in sys.modules


def test_relative_imports_and_parents_with_code_are_followed(package: Path) -> None:
    (package / "deep").mkdir()
    (package / "deep" / "__init__.py").write_text("x = 1\n")
    (package / "deep" / "one.py").write_text("from .. import half\nfrom .two import y as z\n")
    (package / "deep" / "two.py").write_text("def y(): ...\n")
    found = reached(["toypackage.deep.one"], frozenset({"toypackage"}))
    names = {"toypackage.deep", "toypackage.deep.one", "toypackage.deep.two", "toypackage.half"}
    assert found == names
