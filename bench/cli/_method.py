"""All facts about one method, with every setting."""

import ast
import inspect
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from shutil import get_terminal_size
from textwrap import dedent, fill
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import BaseModel

_WIDTH = 40
"""Width of the column of settings; a longer setting moves its meaning to the right."""


class _Setting(NamedTuple):
    key: str
    value: Any
    meaning: str


def show_method(name: str, as_json: bool) -> None:
    """Print the facts of the method called ``name``, and all that ``--set`` can change of it.

    The values are those of the tier "paper" on data like CIFAR-10.

    Raises:
        BenchError: no such method.
    """
    from bench.cost import data_like
    from bench.method import METHODS
    from bench.recipe import SHARED, build_recipe, load_tier, override_text

    name = METHODS.name_of(name)
    method = METHODS.get(name)
    recipe = build_recipe(
        method=name,
        config_type=method.config_type,
        native_encoder=method.native_encoder,
        dataset=data_like("cifar10", Path()).facts,
        tier=load_tier("paper"),
    )
    meaning = _docstrings(type(recipe))["precision"]
    settings = [_Setting("precision", recipe.precision, meaning), *_settings(recipe.config)]
    for section in SHARED:
        settings += _settings(getattr(recipe, section), f"{section}.")
    info = method.info
    facts = {"title": info.title, "year": info.year, "paper": info.paper, "url": info.url, "summary": info.summary}
    if as_json:
        print(json.dumps({"name": name, **facts, "settings": [each._asdict() for each in settings]}, indent=1))
        return
    for fact, value in facts.items():
        if value:
            print(f"{fact}: {value}")
    print("\nWhat --set can change; values of tier paper, on data like CIFAR-10:\n")
    width = max(get_terminal_size().columns, 2 * _WIDTH)
    for each in settings:
        begun = f"{override_text(each.key, each.value):{_WIDTH}}  "
        wrapped = fill(each.meaning, width, initial_indent=begun, subsequent_indent=" " * (_WIDTH + 2))
        print(wrapped or begun.rstrip())


def _settings(section: "BaseModel", prefix: str = "") -> Iterator[_Setting]:
    from pydantic import BaseModel

    plain, meanings = section.model_dump(mode="json"), _docstrings(type(section))
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield _Setting(f"{prefix}{name}", plain[name], meanings.get(name, ""))


def _docstrings(settings: type["BaseModel"]) -> dict[str, str]:
    """Return the docstrings of the fields of ``settings``, each on one line, as text and not as markup.

    Pydantic can read them, too (``use_attribute_docstrings``), but of all classes, at every start of every command.
    """
    found: dict[str, str] = {}
    for each in reversed(settings.__mro__):
        with suppress(OSError, TypeError):  # a class without a source, such as one typed at a prompt
            (written,) = ast.parse(dedent(inspect.getsource(each))).body
            found |= dict(_documented(written))
    return {name: " ".join(text.replace("``", "`").replace("None", "null").split()) for name, text in found.items()}


def _documented(written: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield each field of a class that has a docstring, and this."""
    if isinstance(written, ast.ClassDef):
        for field, text in pairwise(written.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                yield ast.unparse(field.target), str(text.value.value)
