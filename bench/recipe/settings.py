"""The base of everything a user can set: frozen, strict about keys, hashable by content."""

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import BenchError


class Settings(BaseModel):
    """A frozen set of numbers. Unknown keys, wrong types and values out of range are errors.

    Subclasses give each field its default, its unit and its source in the field's docstring or comment.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    @classmethod
    def parse(cls, values: Any, what: str) -> Self:
        """Validate ``values`` and raise one BenchError that lists every fault together.

        Args:
            values: nested mappings of plain values.
            what: whose settings these are, for the message ("recipe").
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BenchError(f"{what}: {describe(error)}") from None

    def digest(self) -> str:
        """Return the SHA-256 of the canonical form: sorted keys, every default written out."""
        return canonical_digest(self.model_dump(mode="json"))


def canonical_digest(values: Any) -> str:
    """Return the SHA-256 of plain ``values`` in canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(error: ValidationError) -> str:
    """Return all faults of a validation, one a line, each with its key and the value given."""
    faults = []
    for fault in error.errors():
        # A method's settings are typed without the section that holds them in the recipe.
        key = ".".join(str(part) for part in fault["loc"]).removeprefix("config.") or "(all)"
        # What is wrong with a section as a whole names its own values.
        told = fault["type"] in ("missing", "extra_forbidden") or isinstance(fault["input"], dict)
        given = "" if told else f" (given: {fault['input']!r})"
        faults.append(f"{key}: {fault['msg']}{given}")
    return faults[0] if len(faults) == 1 else "\n  - ".join([f"{len(faults)} faults", *faults])
