"""The program and its families of commands: Typer's, with checked options; a fault in writing names the option."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bench.errors import BenchError, UnwritableError

_FITS = 78
"""Characters of a line of help on a screen of 80."""


_read: dict[str, Any] = {}
"""The context of the command that was read last, which is the one that runs."""


class App(typer.Typer):
    """Typer's application; raises BenchError where a user gives an option twice of which only the last would count."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Return the decorator that adds a function as the command ``name``."""
        return super().command(name, cls=_Command, **settings)


class _Once:
    """Mixed into a command: reads the words before the command does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))  # type: ignore[attr-defined]
        for param in given:
            if param.param_type_name != "option":
                continue
            if not (param.multiple or param.is_flag) and given.count(param) > 1:
                raise BenchError(f"{param.opts[-1]} is given twice, and takes one value. Keep one of them.")
            if values[param.name] == "":  # such as a variable of the shell that is not set
                raise BenchError(f"{param.opts[-1]} is given an empty text. Give it a value, or leave it out.")
        _read["last"] = ctx
        return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]


class _Command(_Once, TyperCommand):
    def __init__(self, name: str | None, *, help: str | None = None, **settings: Any) -> None:
        super().__init__(name, help=help and _flowing(help), **settings)


def placed(error: UnwritableError) -> UnwritableError:
    """Return ``error`` with the options of the command that named the place of what cannot be written."""
    context = _read["last"]
    options = [param for param in context.command.params if param.param_type_name == "option"]
    names = [param.opts[0] for param in options if _names(context.params.get(param.name), error.path)]
    return UnwritableError(error.path, error.why, names)


def _names(value: Any, path: Path) -> bool:
    """Return whether the ``value`` of an option is a path that ``path`` is, or lies in, or is the folder of."""
    if not isinstance(value, Path):
        return False
    here, there = value.resolve(), path.resolve()
    return there.is_relative_to(here) or there == here.parent


def _flowing(text: str) -> str:
    """Return ``text`` with each paragraph on one line, which the screen breaks, and its examples on lines that fit."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
    text = re.sub(rf"(?m)^  .{{{_FITS - 1},}}$", lambda example: _broken(example[0]), text)
    # Of what follows the first paragraph Typer dedents all but the first line, which must not be the examples' heading.
    return re.sub(r"\A(.+)\n\n(?=Examples:)", r"\1\n\n\n\n", text)


def _broken(example: str) -> str:
    """Return the indented command ``example`` on as many lines as its options need, as a shell takes it."""
    command, *options = re.split(" (?=--)", example)
    lines = [command]
    for option in options:
        if len(f"{lines[-1]} {option} \\") <= _FITS:
            lines[-1] += f" {option}"
        else:
            lines.append(f"      {option}")
    return " \\\n".join(lines)


class _Group(_Once, TyperGroup):
    pass
