"""The code of a result: a digest of the modules that a piece of work imports, directly or indirectly.

A module enters as its syntax tree without docstrings, comments, layout and what it says about itself, such as
``__version__``. So documentation and releases do not change a digest, and any other change of an imported module does.
A package whose ``__init__`` only re-exports names is skipped: an import of ``bench.recipe.TrainPlan`` reaches
``bench.recipe.plan`` and not its neighbours. A user's own file enters with the modules that it imports and that are
not installed with a version.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Container, Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

OWN_FILE = "own_code+"
"""What the name of a module from a user's own file begins with."""
_OWN = "bench"
_FRAMEWORKS = ("torch", "torchvision", "timm")
"""Not digested: records keep their versions."""
_PYTHON = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_INSTALLED = frozenset({"site-packages", "dist-packages"})

_ABOUT = frozenset({"__all__", "__author__", "__copyright__", "__date__", "__email__", "__license__", "__version__"})
"""Names in a module's own body that say something about it; no result depends on them."""


class _Import(NamedTuple):
    """One import: ``from source import name [as bound]``, or ``import source``."""

    source: str
    name: str | None = None
    bound: str | None = None


class _Module(NamedTuple):
    """What is read from a module's source."""

    imports: tuple[_Import, ...]
    hands_on: bool
    """Whether it consists of imports alone, without renaming."""
    sha256: str


class SourceFile(NamedTuple):
    """The file of an imported module."""

    path: Path
    text: str


class _FromFile(Container[str]):
    """The packages of a user's own file: its ``module``, and what is neither Python's, the bench's nor installed.

    What ``pip install -e`` installs is among them: its code changes while its version stays.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __contains__(self, package: object) -> bool:
        if package in (_OWN, "methods", *_FRAMEWORKS):
            return False
        return package == self._module or any(not _is_installed(Path(place)) for place in _places(str(package)))


class _Network(Protocol):
    """A ``torch.nn.Module``; torch is not needed here."""

    def modules(self) -> Iterator[object]:
        """Yield the network and all networks in it."""


def modules_of(network: _Network) -> tuple[str, ...]:
    """Return the names of the modules that define the classes of ``network`` and of all networks in it.

    They must be among the roots of a digest, because registries find them, not imports.
    """
    names = {type(part).__module__ for part in network.modules()}
    return tuple(sorted(name for name in names if name.partition(".")[0] not in _FRAMEWORKS))


@cache
def code_digest(*roots: str) -> str:
    """Return the SHA-256 of the modules ``roots`` and of all modules that they reach by import.

    Modules of ``bench`` and of the roots' top-level packages count, and what :func:`imported_files` names for a root;
    for other packages a record keeps the version. A module without source enters by its name. So does a module of a
    package that is not imported yet, because a root named in a file must not start a program. Within a process the
    first digest is cached.
    """
    imported = [name for root in roots if root.startswith(OWN_FILE) for name in _imported(root)]
    packages = frozenset([_OWN, *(root.partition(".")[0] for root in roots)]) & sys.modules.keys()
    return _joint_digest([*roots, *imported], packages.union(name.partition(".")[0] for name in imported))


def file_digest(module: str) -> str:
    """Return the SHA-256 of ``module``, a user's own file, together with what :func:`imported_files` names for it."""
    code, imported = _read(module), _imported(module)
    assert code is not None, "the text of a user's own file is known"
    return _joint_digest([module, *imported], _FromFile(module)) if imported else code.sha256


def imported_files(module: str) -> dict[str, SourceFile]:
    """Return the modules that ``module``, a user's own file, imports and that are not installed with a version.

    Modules that these import count, too, and the packages that they are in. Those without source are left out here.
    """
    texts = {name: text for name in _imported(module) if (text := _source(name))}
    files = {name: spec.origin for name in texts if (spec := _spec(name)) and spec.origin}
    return {name: SourceFile(Path(path), texts[name]) for name, path in files.items()}


def _imported(module: str) -> list[str]:
    packages = _FromFile(module)
    found = reached([module], packages)
    # All that an __init__ imports runs with it, and here nothing vouches that it only hands names on.
    while parents := {name.rpartition(".")[0] for name in found} - found - {""}:
        found = reached([*found, *parents], packages)
    return sorted(found - {module})


def _joint_digest(roots: Sequence[str], packages: Container[str]) -> str:
    found: dict[str, list[str]] = {root: [] for root in roots}
    for name in reached(roots, packages):
        module = _read(name)
        found[name] = [module.sha256, *_neighbours(module, packages)] if module else []
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def source_digest(source: str) -> str:
    """Return the SHA-256 of the code in ``source``, without what only reads differently; raises SyntaxError."""
    return _digest(ast.parse(source))


def reached(roots: Sequence[str], packages: Container[str]) -> set[str]:
    """Return the names of ``roots`` and of the modules in ``packages`` that they reach by import."""
    found: set[str] = set()
    left = list(roots)
    while left:
        name = left.pop()
        if name in found or name.partition(".")[0] not in packages:
            continue
        found.add(name)
        # Importing a.b.c runs a and a.b too; that has no effect where they only re-export names.
        parents = [name[:end] for end, letter in enumerate(name) if letter == "."]
        left += [parent for parent in parents if (module := _read(parent)) and not module.hands_on]
        module = _read(name)
        left += _neighbours(module, packages) if module else []
    return found


def _neighbours(module: _Module, packages: Container[str]) -> list[str]:
    """Return the modules in ``packages`` that each import of ``module`` leads to."""
    own = (one for one in module.imports if one.source.partition(".")[0] in packages)
    return [target for one in own for target in _targets(one)]


def _targets(wanted: _Import) -> Iterator[str]:
    """Yield the modules that an import leads to, through packages that only re-export the name."""
    source, name, _ = wanted
    if name is None:
        yield source
        return
    if _is_module(f"{source}.{name}"):
        yield f"{source}.{name}"
        return
    package = _read(source)
    onward = [one for one in package.imports if one.bound == name] if package and package.hands_on else []
    if not onward:
        yield source
    for one in onward:
        yield from _targets(one)


@cache
def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or _spec(name) is not None
    except (ImportError, ValueError):  # no name of a module
        return False


@cache
def _read(name: str) -> _Module | None:
    """Return what is read from the source of the module ``name``; None if it has no source."""
    source = _source(name)
    if source is None:
        return None
    tree = ast.parse(source, name)
    package = name if _is_package(name) else name.rpartition(".")[0]
    body = [node for node in tree.body if not (_is_text(node) or _is_about(node))]
    return _Module(
        tuple(one for node in _run(tree) for one in _imports(node, package)),
        all(isinstance(node, ast.Import | ast.ImportFrom) and not _renames(node) for node in body),
        _digest(tree),
    )


def _source(name: str) -> str | None:
    try:
        spec = _spec(name)
        loader: Any = spec and spec.loader
        found: str | None = loader.get_source(name)
    except (AttributeError, ImportError, ValueError):
        return None
    return found


def _spec(name: str) -> ModuleSpec | None:
    """Return where the module ``name`` lies; None if there is none. Unlike ``find_spec``, it runs no parent of it."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    parent = name.rpartition(".")[0]
    if not parent:
        return find_spec(name)
    above = _spec(parent)
    places = above.submodule_search_locations if above else None
    return None if places is None else PathFinder.find_spec(name, places)


def _is_package(name: str) -> bool:
    spec = _spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _places(package: str) -> list[str]:
    """Return the files or folders that the code of a top-level ``package`` lies in; none if it is built into Python."""
    try:
        spec = _spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    return list(spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else []))


def _is_installed(place: Path) -> bool:
    """Return whether ``place`` belongs to Python, or to packages that are installed with a version."""
    return bool(_INSTALLED & set(place.parts)) or any(place.is_relative_to(each) for each in _PYTHON)


def _imports(node: ast.AST, package: str) -> Iterator[_Import]:
    if isinstance(node, ast.Import):
        yield from (_Import(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        yield from (_Import(source, alias.name, alias.asname or alias.name) for alias in node.names)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield ``node`` and all nodes in it, except what only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _run(child)


def _renames(node: ast.Import | ast.ImportFrom) -> bool:
    return any(alias.asname not in (None, alias.name) for alias in node.names)


def _is_text(node: ast.AST) -> bool:
    """Return whether ``node`` is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_about(node: ast.AST) -> bool:
    """Return whether ``node``, in a module's own body, sets names like ``__all__`` and ``__version__`` alone."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return bool(targets) and all(isinstance(one, ast.Name) and one.id in _ABOUT for one in targets)


def _digest(tree: ast.Module) -> str:
    body = [node for node in tree.body if not _is_about(node)]
    return hashlib.sha256(repr(_plain(body)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a syntax tree as nested tuples, without empty fields: these differ between versions of Python."""
    if isinstance(value, list):
        return tuple(_plain(one) for one in value if not _is_text(one))
    if not isinstance(value, ast.AST):
        return value
    fields = ((name, _plain(part)) for name, part in ast.iter_fields(value) if name not in ("ctx", "kind"))
    return (type(value).__name__, *(pair for pair in fields if pair[1] not in (None, ())))
