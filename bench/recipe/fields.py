"""Types of fields that are read from foreign files: names for paths, texts, digests, bounded numbers."""

import re
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
RESERVED = ("published", "local", "submissions")
"""Reserved folders of the results: papers' numbers, a user's own records, submissions. No dataset has these names."""


def _checked_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("no name: write at most 100 letters, digits and . _ + - and begin with a letter or a digit")
    return value


def checked_dataset(value: str) -> str:
    """Return ``value``; raises ValueError if no dataset may have this name."""
    _checked_name(value)
    if value.lower() in RESERVED:
        raise ValueError(f"{' and '.join(RESERVED)} are reserved in the results folder; rename the data")
    return value


def _checked_text(value: str) -> str:
    if not value.isprintable() and not all(sign.isprintable() or sign in "\n\t" for sign in value):
        raise ValueError("holds characters that cannot be printed; write plain text")
    return value


Name = Annotated[str, AfterValidator(_checked_name)]
"""A part of a path or of a command: it cannot lead out of a folder, and has no special meaning in a shell."""

DatasetName = Annotated[str, AfterValidator(checked_dataset)]
"""The name of a dataset, which is a folder of the results."""

_LONGEST = 2000

Text = Annotated[str, Field(max_length=_LONGEST), AfterValidator(_checked_text)]
"""A text to show, after escaping: without control or direction characters and lone surrogates. A library's warning may
have several lines; tables join them."""


def _checked_path(value: str) -> str:
    if any(len(part.encode()) > _LONGEST_NAME for part in PurePath(value).parts):
        raise ValueError(f"no path: a file's name has at most {_LONGEST_NAME} bytes")
    return value


_LONGEST_NAME = 255
"""Bytes in the name of a file, on all common file systems."""

Listed = Annotated[Text, AfterValidator(_checked_path)]
"""The path of a file in a folder, from a file that lists it; whether it stays in there is for the reader to check."""

Title = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_checked_text)]
"""A text that is not empty."""


def without_folders(value: Any) -> Any:
    """Return the value of a setting as records hold it: ``file:PATH`` without the folders of the machine it ran on."""
    path = value.removeprefix("file:") if isinstance(value, str) else value
    return value if path == value else f"file:{PurePath(path).name}"


WithoutFolders = PlainSerializer(without_folders, when_used="json")
"""Marks a setting that may be ``file:PATH``: in Python it has the path, in a recipe's file, and in digests, the name of
the file only. Another setting has to hold its SHA-256."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""

Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
"""A Git commit, in full."""

Side = Annotated[int, Field(ge=1, le=65_536)]
"""Height, width or channels of an image."""


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_flag)]
"""A whole number: true and false, which Python takes for 1 and 0, are none."""

Number = Annotated[float, BeforeValidator(_no_flag)]
"""A number, as :data:`Whole`."""

Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]

Year = Annotated[Whole, Field(ge=1900, le=9999)]
"""Of a method's paper."""

Count = Annotated[int, Field(ge=0, le=10**15)]
"""Number of images, steps or bytes, so bounded that a product of two still fits a float."""

Amount = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
"""Number of seconds, operations or joules, so bounded that every sum and product in a table is finite."""

Radius = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""Radius of an attack, on the [0, 1] scale of pixels; in L2 it may exceed 1."""

Scalar = Annotated[float, Field(ge=-1e100, le=1e100, allow_inf_nan=False)]
"""A logged value, such as a loss."""


def _checked_keys(epochs: list[dict[str, float]]) -> list[dict[str, float]]:
    for name in set[str]().union(*epochs):  # hundreds of epochs have the same few names
        if len(_checked_text(name)) > _LONGEST:
            raise ValueError(f"holds a name of more than {_LONGEST} characters")
    return epochs


Epochs = Annotated[list[dict[str, Scalar]], AfterValidator(_checked_keys)]
"""Logged values by name, one entry an epoch; the names are as :data:`Text`."""
