"""``--set section.key=value``: from what the user typed to nested plain values."""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import permutations
from typing import Any

from bench.errors import BenchError, Faults

_MAX_DEPTH = 16
_FRACTION = re.compile(r"\s*([0-9.eE+-]+)\s*/\s*([0-9.eE+-]+)\s*")


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """Return ``{"stage2.lr": 0.1}`` for ``["stage2.lr=0.1"]``; raises one BenchError for all other items.

    Values are TOML (numbers, true, false, "text", [lists]); ``8/255`` is a number too, ``null``
    means no value, and any other bare word is text.
    """
    parsed, faults = dict[str, Any](), Faults()
    for item in items:
        key, equals, value = item.partition("=")
        key = key.strip()
        with faults:
            if not equals or not re.fullmatch(r"\w[\w-]*(\.\w[\w-]*)*", key):
                raise BenchError(
                    f"--set {item!r} is not of the form key=value. Type, for example, --set stage2.epochs=5"
                )
            new = _value(value.strip())
            first = parsed.setdefault(key, new)
            if first is not new and first != new:
                raise BenchError(f"--set {key} is given twice, as {first} and as {new}. Keep one of them.")
    for outer, inner in permutations(parsed, 2):
        if inner.startswith(f"{outer}."):
            with faults:
                raise BenchError(f"--set {outer} and --set {inner}: the one holds the other. Keep one of them.")
    faults.refuse()
    return parsed


def override_text(key: str, value: Any) -> str:
    """Return the text after ``--set`` that :func:`parse_overrides` reads as exactly ``value``."""
    levels = round(value * 255) if isinstance(value, float) else 0
    if key.split(".")[-1] == "eps" and 0 < levels < 255 and levels / 255 == value:
        return f"{key}={levels}/255"
    return f"{key}={_text(value)}"


def typed_options(overrides: Mapping[str, Any], **options: str | float | None) -> list[str]:
    """Return the words that give a command those ``options`` that have a value, and ``overrides``.

    PATH stands for a folder of corrupted images, of which a recipe holds only the digest.
    """
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    for key, value in overrides.items():
        files = (key, value) == ("evaluate.corruptions", "files")
        words += ("--corruptions", "PATH") if files else ("--set", override_text(key, value))
    return words


def insert(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` of nested ``values`` in place, making sections as needed."""
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value


def section(key: str) -> str:
    """Return the section of a dotted ``key``: "threat" of "threat.eps"."""
    return key.partition(".")[0]


def within(overrides: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """Return those ``overrides`` whose keys belong to ``sections``."""
    return {key: value for key, value in overrides.items() if section(key) in sections}


def outside(overrides: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """Return those ``overrides`` whose keys do not belong to ``sections``."""
    return {key: value for key, value in overrides.items() if section(key) not in sections}


def idle_among(
    keys: Iterable[str], overrides: Mapping[str, Any], result: Callable[[Mapping[str, Any]], object]
) -> list[str]:
    """Return those ``keys`` that can be left out of ``overrides`` together without a change of their ``result``.

    ``result`` raises BenchError for overrides that do not work.
    """
    working, wanted = dict(overrides), result(overrides)
    for key in keys:
        fewer = {name: value for name, value in working.items() if name != key}
        with suppress(BenchError):
            if result(fewer) == wanted:
                working = fewer
    return [key for key in keys if key not in working]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of nested ``values``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_toml(text: str, what: str) -> dict[str, Any]:
    """Return the values in ``text``; raises TOMLDecodeError, or BenchError: they are nested too deeply, or too long."""
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise BenchError(_too_deep(what)) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit on the digits of a number
        raise BenchError(f"{what}: a number has thousands of digits. No setting has so many; shorten it.") from None
    level: list[Any] = [values]
    for _ in range(_MAX_DEPTH):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
    if level:
        raise BenchError(_too_deep(what))
    return values


def _too_deep(what: str) -> str:
    return f"{what}: more than {_MAX_DEPTH} levels of brackets or sections. No setting has so many; remove some."


def _value(text: str) -> Any:
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        try:
            return float(fraction[1]) / float(fraction[2])
        except (ValueError, ZeroDivisionError):
            raise BenchError(f"{text!r} is not a number; write, for example, 8/255") from None
    try:
        return read_toml(f"value = {text}", "--set")["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "null" else text  # "none" is a word: encoder.normalisation=none


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and value == value.strip() and value.isprintable() and _value(value) == value:
        return value  # a bare word
    return _toml(value)


def _toml(value: Any) -> str:
    """Return ``value`` as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
