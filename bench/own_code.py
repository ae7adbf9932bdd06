"""Objects from a user's own Python files, named ``FILE.py:OBJECT``; and which errors such code, or a plug-in, raised.

An object is known by its name and the first digits of the digest of its file's code, as in ``MyMethod+3f2a9c1b``. So
a file that was changed gives another object, and no object can be mistaken for an installed one. The modules that the
file imports and that are not installed with a version belong to its code. Only what the user types loads a file: a
name that is read from a run or a record never does.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib.abc import ExecutionLoader
from importlib.util import decode_source, module_from_spec, spec_from_loader
from pathlib import Path
from traceback import extract_tb, walk_tb
from types import ModuleType
from typing import Any, NamedTuple

from bench.code import OWN_FILE, SourceFile, file_digest, imported_files, source_digest
from bench.errors import BenchError, unknown

_NAME = re.compile(r"(\w+)\+([0-9a-f]{8})")
_TEXTS: dict[str, str] = {}
"""The texts of the loaded files, by the digits of their digests."""
_IMPORTED: dict[str, dict[str, SourceFile]] = {}
"""By the same digits, the modules that belong to the code of a loaded file beside itself, by name."""
_TYPED: dict[str, str] = {}
"""What the user typed for the objects of the loaded files, by their names."""
_FOREIGN: dict[str, list[str]] = {}
"""What comes from code that is not the bench's, in words, by the name of its module or package."""
_TO_BEGIN = {
    "method": "`bench new my-method` writes one to begin with.",
    "attack": "docs/attack_suite.md shows one to begin with.",
    "encoder": "docs/encoders.md shows one to begin with.",
}


UserError = Exception | SystemExit


class OwnObject(NamedTuple):
    """An object from a file, and the name that it is known by."""

    name: str
    value: Any


def is_own(name: str) -> bool:
    """Return whether ``name`` is that of an object from a file."""
    return bool(_NAME.fullmatch(name))


def as_typed(name: str) -> str:
    """Return how a user types ``name`` in a command: ``FILE.py:MyMethod`` for ``MyMethod+3f2a9c1b``."""
    own = _NAME.fullmatch(name)
    return f"FILE.py:{own[1]}" if own else name


def own_objects(method: str, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the objects from files in the plain values of a recipe: "method", "encoder" or "attack", by name."""
    encoder, evaluate = (recipe.get(section, {}) for section in ("encoder", "evaluate"))
    attacks = (evaluate.get("attack", ""), *evaluate.get("attacks", ()))
    used = {method: "method", encoder.get("arch", ""): "encoder", **dict.fromkeys(attacks, "attack")}
    return {name: kind for name, kind in used.items() if is_own(name)}


def to_load(objects: Mapping[str, str]) -> list[str]:
    """Return the options of ``bench`` that load ``objects``, kinds by name: ``--encoder ./net.py:MyEncoder``."""
    return [word for name, kind in objects.items() for word in (f"--{kind}", typed(name))]


def typed(name: str) -> str:
    """Return what the user typed for ``name``, such as ``./net.py:MyEncoder``; else as :func:`as_typed`."""
    return _TYPED.get(name, as_typed(name))


def own_text(name: str) -> str | None:
    """Return the text of the loaded file that the object called ``name`` comes from; None: it is from no file."""
    own = _NAME.fullmatch(name)
    return _TEXTS.get(own[2]) if own else None


def own_imports(name: str) -> dict[str, str]:
    """Return the texts of the modules that belong to the code of the object called ``name``, beside its file.

    They are named as files in a folder: ``mylib/losses.py``.
    """

    def within(module: str, path: Path) -> str:
        return module.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else ".py")

    found = _IMPORTED.get(name.partition("+")[2], {})
    return {within(module, file.path): file.text for module, file in found.items()}


def files_of(objects: Iterable[str]) -> dict[str, str]:
    """Return the loaded files that the code of ``objects``, names, lies in: paths, with the digits of their digests."""
    found = []
    for name in objects:
        digits, path = name.partition("+")[2], typed(name).rpartition(":")[0]
        found += [SourceFile(Path(path), _TEXTS[digits]), *_IMPORTED[digits].values()]
    return {str(file.path.expanduser().absolute()): source_digest(file.text)[:8] for file in found}


def changed_files(files: Mapping[str, str]) -> list[str]:
    """Return those of ``files``, from an earlier :func:`files_of`, that are gone or have other code by now."""

    def holds(path: str, digits: str) -> bool:
        with suppress(OSError, SyntaxError, ValueError):
            return source_digest(decode_source(Path(path).read_bytes()))[:8] == digits
        return False

    return [path for path, digits in files.items() if not holds(path, digits)]


def is_in_file(given: str) -> bool:
    """Return whether ``given`` has the form ``FILE.py:OBJECT``, or lacks only the object."""
    return bool(re.search(r"\.py(:|$)", given))


def mark_foreign(module: str, what: str) -> None:
    """Remember that the code of ``module``, a file's or a package's, is not the bench's: it gives ``what``."""
    known = _FOREIGN.setdefault(module, [])
    if what not in known:
        known.append(what)


def told(error: UserError) -> UserError:
    """Return a BenchError instead of ``error`` if a user's own code or a plug-in raised it, or called what did.

    ``sys.exit`` in such code is an error like any other.
    """
    if isinstance(error, BenchError):
        return error
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        if what := _FOREIGN.get(module) or _FOREIGN.get(module.partition(".")[0]):
            where = f"{frame.f_code.co_filename}, line {line}"
            said = str(error).replace(f"{module}.", "")  # Python names a method with its module
            message = (
                f"{' or '.join(what)} raised {type(error).__name__} in {where}{said and f': {said}'}\n"
                "Type bench --traceback COMMAND ... to see the calls that led there."
            )
            found = BenchError(message)
            found.__cause__ = error
            return found
    return error


def load_own(given: str, kind: str, fits: Callable[[Any], bool]) -> OwnObject:
    """Return the object that ``given``, ``FILE.py:OBJECT``, names; a file is run once for each of its texts.

    Args:
        given: what the user typed.
        kind: of the object, in the singular ("method"), for messages.
        fits: whether an object of the file is of this kind; such names are proposed where ``given`` has a wrong one.

    Raises:
        BenchError: there is no such file or object, or the file cannot be run: with the line of the fault.
    """
    path, _, name = given.rpartition(":") if ".py:" in given else (given, "", "")
    file = Path(path).expanduser()
    text = _text(file, kind)
    module, digits = _module(file, text)
    _TEXTS[digits], _IMPORTED[digits] = text, imported_files(module.__name__)
    if name and hasattr(module, name):
        mark_foreign(module.__name__, f"the {kind} {given}")
        own = OwnObject(f"{name}+{digits}", getattr(module, name))
        _TYPED[own.name] = given
        return own
    known = [key for key, value in vars(module).items() if not key.startswith("_") and fits(value)]
    if not name:
        examples = " or ".join(f"{path}:{each}" for each in known) or f"{path}:NAME"
        raise BenchError(f"{path} is a file; which {kind} in it is meant? Type {examples}")
    raise unknown(f"{kind} in {path}:", name, known)


def _text(file: Path, kind: str) -> str:
    try:
        return decode_source(file.read_bytes())
    except FileNotFoundError:
        others = [path.name for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = "".join(f" Did you mean {file.with_name(name)}?" for name in get_close_matches(file.name, others, n=1))
        raise BenchError(f"there is no file {file}.{near} {_TO_BEGIN.get(kind, '')}".rstrip()) from None
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise BenchError(f"{file} cannot be read as Python code: {error}. Give a .py file in UTF-8.") from error


def _module(file: Path, text: str) -> tuple[ModuleType, str]:
    """Return the module that ``text`` makes, and the digits of the digest of its code.

    The module has the name of its own text: what it imports is known when it has run.
    """
    try:
        name = f"{OWN_FILE}{source_digest(text)[:8]}"
        if name not in sys.modules:
            _run(name, file, text)
        return sys.modules[name], file_digest(name)[:8]
    except SyntaxError as error:
        where = file if error.filename in (None, "<unknown>") else error.filename
        raise BenchError(
            f"{where}, line {error.lineno}: {error.msg}. Correct it and type the command again."
        ) from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}, line {lines[-1]}" if lines else str(file)
        told = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        raise BenchError(f"{where}: {told}{_advice(error)}") from error


def _run(name: str, file: Path, text: str) -> None:
    """Make ``text`` the module ``name`` of this process."""
    spec = spec_from_loader(name, _Text(file, text))
    assert spec is not None, "the loader is given"
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]  # the loader is given
    except BaseException:
        del sys.modules[name]
        raise


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return ". A file beside it is not found by itself: put its folder in PYTHONPATH, or install the module."
    return ". Correct it and type the command again."


class _Text(ExecutionLoader):
    """Loads a module from a text that was read before, so that its digest is of exactly the code that runs."""

    def __init__(self, file: Path, text: str) -> None:
        self._file, self._source = file, text

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_filename(self, fullname: str) -> str:
        return str(self._file)

    def is_package(self, fullname: str) -> bool:
        return False
