"""Plug-ins of one kind: named objects, imported on first use, so that listing names is fast."""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from bench.errors import BenchError, NotLoadedError, unknown
from bench.own_code import as_typed, is_in_file, is_own, load_own, mark_foreign

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects, which are given directly, as ``"module:attribute"``, or by an installed entry point.

    An entry called ``KIND:*`` is a family: a function from what follows the colon in ``KIND:NAME`` to the object.

    Args:
        kind: what the registry holds, in the singular, for error messages ("method").
        group: the entry-point group through which other packages add entries.
        hint: the closing sentence of the error for an unknown name, such as the command that lists them.
        fault: returns why an object cannot be an entry, in words that follow "it", or an empty text.
    """

    def __init__(
        self, kind: str, group: str | None = None, hint: str = "", fault: Callable[[object], str] = lambda entry: ""
    ) -> None:
        self.kind = kind
        self._group = group
        self._hint = hint
        self._fault = fault
        self._entries: dict[str, T | str] = {}
        self._plugins_loaded = group is None

    def add(self, name: str, entry: T | str) -> None:
        """Register ``entry`` under ``name``; a second, different entry of that name raises BenchError."""
        present = self._entries.get(name, entry)
        if present != entry:
            raise BenchError(f"two {self.kind}s are called {name!r}: {present} and {entry}. Uninstall or rename one.")
        self._entries[name] = entry

    def name_of(self, given: str) -> str:
        """Return the name of the object that ``given`` names; one named ``FILE.py:OBJECT`` is loaded and registered.

        Raises:
            BenchError: the file cannot be loaded, or what is named there cannot be an entry.
        """
        if not is_in_file(given):
            return given
        self._load_plugins()
        own = load_own(given, self.kind, lambda value: not self._fault(value))
        self.add(own.name, self._checked(own.value, given))
        return own.name

    def get(self, name: str) -> T:
        """Return the object called ``name``, importing it if necessary; see also :meth:`name_of`.

        Raises:
            BenchError: an unknown name, or an object that cannot be imported or cannot be an entry.
        """
        self._load_plugins()
        name = self.name_of(name)
        if self.in_family(name):
            kind, _, member = name.partition(":")
            family: Any = self._loaded(f"{kind}:*")
            return self._checked(family(member), name)
        if name not in self._entries:
            raise self._not_loaded(name) if is_own(name) else unknown(self.kind, name, self._entries, self._hint)
        return self._loaded(name)

    def in_family(self, name: str) -> bool:
        """Return whether ``name`` is ``KIND:NAME`` of a family."""
        kind, colon, _ = name.partition(":")
        return f"{kind}{colon}*" in self._entries

    def _loaded(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            try:
                loaded: Any = getattr(import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise BenchError(f"the {self.kind} {name!r} is registered as {entry} but {error}.") from error
            entry = self._entries[name] = loaded if name.endswith(":*") else self._checked(loaded, entry)
        return entry

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(name for name in self._entries if not name.endswith(":*")))

    def _checked(self, entry: Any, where: str) -> T:
        if fault := self._fault(entry):
            raise BenchError(f"{where} is no {self.kind}: it {fault}")
        checked: T = entry
        return checked

    def _not_loaded(self, name: str) -> BenchError:
        stem = name.partition("+")[0]
        now = [other for other in self._entries if is_own(other) and other.partition("+")[0] == stem]
        what = f"the {self.kind} {name} comes from a file that is not loaded."
        if now:
            what = f"the code of the {self.kind} {name} is not that of the loaded file, which gives {', '.join(now)}."
        return NotLoadedError(what, self.kind, as_typed(name))

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self._group or ""):
            self.add(point.name, point.value)
            if point.dist and point.dist.name != "ssl-robustness-bench":
                mark_foreign(point.value.partition(":")[0].partition(".")[0], f"the {self.kind} {point.name}")
