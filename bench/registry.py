"""Plug-ins of one kind: named objects, imported on first use, so that listing names is fast."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from bench.errors import BenchError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects, which are given directly, as ``"module:attribute"``, or by an installed entry point.

    Args:
        kind: what the registry holds, in the singular, for error messages ("method").
        group: the entry-point group through which other packages add entries.
        hint: the closing sentence of the error for an unknown name, such as the command that lists them.
    """

    def __init__(self, kind: str, group: str | None = None, hint: str = "") -> None:
        self.kind = kind
        self._group = group
        self._hint = hint
        self._entries: dict[str, T | str] = {}
        self._plugins_loaded = group is None

    def add(self, name: str, entry: T | str) -> None:
        """Register ``entry`` under ``name``; a second, different entry of that name raises BenchError."""
        present = self._entries.get(name, entry)
        if present != entry:
            raise BenchError(f"two {self.kind}s are called {name!r}: {present} and {entry}. Uninstall or rename one.")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """Return the object called ``name``, importing it if necessary; raises BenchError for an unknown name."""
        self._load_plugins()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries, self._hint)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            try:
                loaded: Any = getattr(import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise BenchError(f"the {self.kind} {name!r} is registered as {entry} but {error}.") from error
            entry = self._entries[name] = loaded
        return entry

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._entries))

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self._group or ""):
            self.add(point.name, point.value)
