"""What ``bench new`` writes: a method in one file, and its test. Both are checked as all code of this repository."""

import ast
import re
from datetime import UTC, datetime
from importlib.metadata import entry_points
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.files import create_bytes

_TEMPLATE = "my_method", "MyMethod"
_YEAR = "2000"
"""Of the template's paper, which becomes the present one."""


class NewMethod(NamedTuple):
    """The files that were written, and the name of the method in them."""

    file: Path
    test: Path
    name: str


def write_method(given: str, folder: Path = Path()) -> NewMethod:
    """Write a method called ``given``, such as ``my-method``, and its test into ``folder``; nothing is overwritten.

    Raises:
        BenchError: a name that is none or is taken, files that exist, or a folder that cannot be written.
    """
    module, name = _names(given)
    new = NewMethod(folder / f"{module}.py", folder / f"test_{module}.py", name)
    for path in (new.file, new.test):
        if path.exists():
            raise BenchError(f"{path} exists and is not overwritten. Move it away, or choose another name.")
    home = Path(__file__).parent
    for path, template in ((new.file, "my_method.py"), (new.test, "test_my_method.py")):
        text = (home / template).read_text(encoding="utf-8").replace(f"{__name__}.", "")
        text = text.replace(_YEAR, str(datetime.now(UTC).year))  # first: a name may have these digits
        create_bytes(path, text.replace(_TEMPLATE[0], module).replace(_TEMPLATE[1], name).encode())
    return new


def _names(given: str) -> tuple[str, str]:
    """Return the names of module and class for ``given``: ``my_method`` and ``MyMethod`` for ``my-method``."""
    example = "Type, for example, bench new my-method"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*", given) or len(given) > 40:
        raise BenchError(
            f"{given!r} is no name for a method: write at most 40 letters and digits, with - or _ between words, and "
            f"begin with a letter. {example}"
        )
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given.replace("-", "_")).lower()
    name = "".join(word[:1].upper() + word[1:] for word in re.split("[-_]", given))
    methods = {point.name.replace("-", "_").lower() for point in entry_points(group="bench.methods")}
    if module in methods:
        raise BenchError(f"{given} is the name of an installed method; choose another. {example}")
    if taken := _taken(name):
        raise BenchError(f"{taken} is a name that the new file itself uses; choose another name. {example}")
    if iskeyword(module) or iskeyword(name) or _installed(module):
        raise BenchError(f"{module!r} is a word or module of Python; choose another name. {example}")
    return module, name


def _taken(name: str) -> str:
    """Return the first name of the template that a class called ``name``, or one named after it, would hide."""
    text = (Path(__file__).parent / "my_method.py").read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    names |= {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    ours = {each for each in names if _TEMPLATE[1] in each}
    return min({each.replace(_TEMPLATE[1], name) for each in ours} & (names - ours), default="")


def _installed(module: str) -> bool:
    found = find_spec(module)
    return found is not None and found.origin is not None and Path(found.origin).parent != Path.cwd()
