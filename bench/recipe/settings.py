"""The base of everything a user can set: frozen, strict about keys, hashable by content."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, validate_call
from pydantic_core import ErrorDetails

from bench.errors import BenchError, listed

_LONGEST = 200
"""Characters of a bad value that a message shows."""

_MIRRORS = "mirrors"
MirrorProbability = Annotated[float, Field(ge=0, le=1), _MIRRORS]
"""Probability of a mirrored image: a recipe sets it to 0 for data that must not be mirrored."""

_CROPS = "crops"
Crop = Annotated[Literal["padded", "resized"], _CROPS]
"""How a weak view crops: a recipe sets it to ``resized`` for data with the conventions of ImageNet."""


class Settings(BaseModel):
    """A frozen set of numbers. Unknown keys, wrong types and values out of range are errors.

    Subclasses give each field its default, its unit and its source in the field's docstring or comment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    later: ClassVar[Mapping[str, Any]] = {}
    """Fields that are newer than the first records, each with the value that keeps the earlier behaviour."""

    @classmethod
    def parse(cls, values: Any, what: str, *, from_file: bool = False) -> Self:
        """Validate ``values`` and raise one BenchError that lists every fault together.

        Args:
            values: nested mappings of plain values.
            what: whose settings these are, for the message ("recipe").
            from_file: whether they are what :func:`bench.files.parse_json` returned, which holds nothing unwritable.
        """
        try:
            parsed = cls.model_validate(values)
            # A recipe holds each override twice; the user typed it without the name of the mapping.
            unfit = () if from_file else _unfit(values)
            faults = [f"{key.removeprefix('overrides.')}: {fault}" if key else fault for key, fault in unfit]
        except ValidationError as error:
            raise BenchError(listed(what, _faults(error))) from None
        except RecursionError:
            raise BenchError(f"{what}: nested too deeply to be settings of the bench") from None
        except ArithmeticError as error:
            raise BenchError(f"{what}: a number is out of range ({error})") from None
        if faults:
            raise BenchError(listed(what, faults))
        return parsed

    def suited(self, *, mirror: bool, conventions: str) -> Self:
        """Return these settings, and those nested in them, as data that may or may not be mirrored need them.

        Without ``mirror`` every :data:`MirrorProbability` is 0; under the conventions "imagenet" every :data:`Crop` is
        ``resized``.
        """
        changed: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if _MIRRORS in field.metadata and not mirror:
                changed[name] = 0.0
            elif _CROPS in field.metadata and conventions == "imagenet":
                changed[name] = "resized"
            elif isinstance(value := getattr(self, name), Settings):
                changed[name] = value.suited(mirror=mirror, conventions=conventions)
        return self.model_copy(update=changed)

    def counted(self) -> dict[str, Any]:
        """Return the plain values that digests cover: all, defaults included, but newer fields that change nothing.

        So a new setting changes no digest until it is used.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        nested = {name: value.counted() for name, value in values.items() if isinstance(value, Settings)}
        plain = {**self.model_dump(mode="json", exclude=set(nested)), **nested}
        return {name: value for name, value in plain.items() if name not in self.later or value != self.later[name]}

    def digest(self) -> str:
        """Return the SHA-256 of the canonical form of :meth:`counted`."""
        return canonical_digest(self.counted())


def canonical_digest(values: Any) -> str:
    """Return the SHA-256 of plain ``values`` in canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _faults(error: ValidationError) -> list[str]:
    """Return each fault of a validation, with its key and the value given."""
    faults = []
    for fault in error.errors():
        # A method's settings are typed without the section that holds them in the recipe.
        key = ".".join(map(str, fault["loc"][1:] if fault["loc"][:1] == ("config",) else fault["loc"]))
        # A fault of a whole section states its values itself, and None is a default, which nobody gave.
        told = fault["type"] in ("missing", "extra_forbidden") or isinstance(fault["input"], dict | BaseModel | None)
        given = "" if told else f" (given: {_shown(fault['input'])})"
        faults.append(f"{key}: {_words(fault)}{given}" if key else f"{_words(fault)}{given}")
    return faults


def _shown(value: Any) -> str:
    """Return ``value`` as it was written, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _shown_argument(value: object) -> str:
    plain = isinstance(value, bool | int | float | str | list | tuple | dict | Path | None)
    return _shown(value) if plain else f"a {type(value).__name__}"


def _unfit(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key and the fault of each plain value that cannot be written to a file or a table.

    Typed fields refuse most of these themselves; this is for free mappings.
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            yield key, f"not a text that can be written (given: {_shown(value)})"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield key, f"must be a finite number (given: {value})"
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            yield key, f"a number of more than 64 bits (given: {_shown(value)})"
    elif isinstance(value, list | tuple):
        for place, entry in enumerate(value):
            yield from _unfit(entry, f"{key}.{place}")
    elif isinstance(value, Mapping):  # last: asking for it takes longest
        for name, entry in value.items():
            yield from _unfit(name, key)
            yield from _unfit(entry, f"{key}.{name}" if key else str(name))


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def with_checked_arguments(verb: Callable[P, R], title: str | None = None) -> Callable[P, R]:
    """Return ``verb``, which raises one BenchError with every argument that is not of the type it declares.

    A text becomes a path where a path is declared. ``title`` names it in the message, if its own name does not.
    """
    title = title or verb.__name__
    names = signature(verb)
    call: Callable[..., R] = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(verb)

    @wraps(verb)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = names.bind(*args, **kwargs).arguments
        except TypeError as error:
            known = ", ".join(name for name in names.parameters if name != "self")
            raise BenchError(f"{title}: {error}. Its arguments: {known}.") from None
        try:
            return call(**given)
        except ValidationError as error:
            if error.title not in (verb.__name__, verb.__qualname__):
                raise
            wanted: dict[str, dict[str, None]] = {}  # one fault for all members of a union
            for fault in error.errors():
                wanted.setdefault(str(fault["loc"][0]), {})[_words(fault)] = None
            faults = [
                f"{name}: {' or '.join(words).replace(' or must be', ' or')} (given: {_shown_argument(given[name])})"
                for name, words in wanted.items()
            ]
            raise BenchError(listed(title, faults)) from None

    return checked


def with_checked_fields(kind: type[T]) -> type[T]:
    """Return the dataclass ``kind``, whose fields are checked as :func:`with_checked_arguments` checks arguments."""
    kind.__init__ = with_checked_arguments(kind.__init__, kind.__name__)  # type: ignore[method-assign]
    return kind


_TYPES = {
    "missing": "is missing",
    "extra_forbidden": "there is no such key",
    "greater_than": "must be more than {gt:.10g}",
    "greater_than_equal": "must be at least {ge:.10g}",
    "less_than": "must be less than {lt:.10g}",
    "less_than_equal": "must be at most {le:.10g}",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string_pattern_mismatch": "must have the form {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} of them",
    "too_long": "must have at most {max_length} of them",
    "string": "must be text",
    "path": "must be a path",
    "invalid-json-value": "must be plain values: numbers, text, true, false, lists",
    "is_instance_of": "must be a {class}",
    "tuple": 'must be a list, such as [1, 2] or ["a", "b"]',
    "list": 'must be a list, such as [1, 2] or ["a", "b"]',
    "dict": "must be a section of keys",
    "model": "must be a section of keys",
}
"""The message for each type of pydantic's errors, or for the first word of the type."""


def _words(fault: ErrorDetails) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    known = _TYPES.get(fault["type"]) or _TYPES.get(fault["type"].partition("_")[0])
    return known.format(**fault.get("ctx", {})) if known else fault["msg"].replace("Input should", "must")
