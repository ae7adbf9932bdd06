"""What one check of an evaluation found; see :mod:`bench.doctor`."""

from typing import Literal

from bench.recipe import Settings
from bench.recipe.fields import Scalar, Text

Verdict = Literal["sound", "note", "doubt", "fail"]
"""*fail*: the numbers are no result; *doubt*: they may be wrong, and their row is flagged; *note*: worth knowing."""


class Diagnosis(Settings):
    """The answer of one check."""

    check: Text
    """The name of the check."""
    verdict: Verdict
    found: Text
    """One sentence, with the numbers."""
    numbers: dict[Text, Scalar] = {}
    """The numbers of the sentence, by name."""
