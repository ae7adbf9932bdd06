"""The grid of an ablation: a table of the method's paper, or ``--grid key=v1,v2``."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from bench.errors import BenchError, unknown
from bench.method import METHODS, AblationCell, AblationTable
from bench.recipe import parse_overrides

_MOST_CELLS = 1000


def choose_table(method: str, table: str | None, grid: Sequence[str]) -> AblationTable:
    """Return the table of ``method`` called ``table``, or the grid in ``grid`` if ``table`` is None.

    Raises:
        BenchError: an unknown method or table, a faulty grid, or not exactly one of the two.
    """
    tables = _tables(method)
    if table is None and not grid:
        listed = f"--table {'|'.join(tables)}, or " if tables else ""
        raise BenchError(f"nothing to vary. Type {listed}your own grid: --grid KEY=VALUE,VALUE")
    if table is None:
        return parse_grid(grid)
    if grid:
        raise BenchError("--table and --grid exclude each other; type one of them. Settings of all cells: --set")
    if table not in tables:
        own = "your own grid: --grid KEY=VALUE,VALUE"
        raise unknown(f"table of {method}", table, tables, f"Or type {own}")
    return tables[table]


def _tables(method: str) -> Mapping[str, AblationTable]:
    """Return the tables of ``method``; the name of a table alone is answered with whose it is."""
    try:
        return METHODS.get(method).info.tables
    except BenchError:
        for other in METHODS:
            if method in METHODS.get(other).info.tables:
                raise BenchError(
                    f"{method} is a table of {other}, not a method. Type bench ablate {other} --table {method}"
                ) from None
        raise


def parse_grid(items: Sequence[str]) -> AblationTable:
    """Return all combinations of the values in ``items``, such as ``["stage2.lam=1,2", "ssl=simclr,byol"]``.

    The last key varies fastest, and values keep their order. Values are read as in ``--set``; a comma within brackets
    or quotes is part of a value.

    Raises:
        BenchError: another form, a key given twice, a missing value, or too many cells.
    """
    axes: dict[str, list[Any]] = {}
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise BenchError(
                f"--grid {item!r} is not of the form KEY=VALUE,VALUE. Type, for example, --grid stage2.lam=1,2,3"
            )
        if key in axes:
            raise BenchError(f"--grid {key} is given twice; write all its values in one option.")
        values = list(_split(text))
        if "" in values:
            raise BenchError(f"--grid {item!r}: a value is missing. Type, for example, --grid {key}=1,2,3")
        axes[key] = [parse_overrides([f"{key}={value}"])[key] for value in values]
    cells = prod(map(len, axes.values()))
    if cells > _MOST_CELLS:
        raise BenchError(f"the grid has {cells} cells, more than {_MOST_CELLS}. Vary fewer settings at a time.")
    combinations = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return AblationTable(f"grid over {', '.join(axes)}", tuple(AblationCell(cell) for cell in combinations))


def _split(text: str) -> Iterator[str]:
    """Yield the parts of ``text`` between commas that are outside brackets and quotes."""
    part, depth, quote = "", 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "," and depth == 0:
            yield part.strip()
            part = ""
            continue
        depth += 0 if quote else (character in "[{") - (character in "]}")
        part += character
    yield part.strip()
