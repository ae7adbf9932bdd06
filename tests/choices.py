"""Every choice that a setting has: all values of literals, booleans, enumerations and registered names."""

import enum
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from bench.attack import ATTACKS
from bench.nn import ENCODERS
from bench.recipe import PRESETS, TrainPlan

NAMED: dict[str, list[Any]] = {
    "attack": list(ATTACKS),
    "arch": [name for name in ENCODERS if not name.startswith(("wide", "wrn"))],
    "preset": list(PRESETS),
    "pseudo_labels": ["kmeans", "none"],
    "stem_padding": [0, 1, 2],
}
"""Settings whose choices stand in a registry or a pattern, by their last name. Wide networks take too long."""


def choices(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each choice in ``section`` and the sections within, but for what is set there."""
    for name, field in type(section).model_fields.items():
        present, key = getattr(section, name), f"{prefix}{name}"
        if isinstance(present, BaseModel):
            yield from choices(present, f"{key}.")
            continue
        listed = list(section.schedules) if isinstance(section, TrainPlan) and name == "schedule" else []
        for value in NAMED.get(name, listed) or allowed(field.annotation):
            if value != present and value is not None:
                yield key, value


def allowed(annotation: Any) -> list[Any]:
    """Return the values that ``annotation`` lists, none where they cannot be listed."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return [False, True]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return list(annotation)
    if origin is Literal:
        return list(parts)
    if origin in (Union, types.UnionType):
        return [value for part in parts for value in allowed(part)]
    return allowed(parts[0]) if origin is Annotated else []
