"""What one check of an evaluation found; see :mod:`bench.doctor`."""

from typing import Literal

from bench.recipe import Settings
from bench.recipe.fields import Scalar, Text

Verdict = Literal["sound", "note", "doubt", "fail"]
"""*fail*: the numbers are no result; *doubt*: they may be wrong, and their row is flagged; *note*: worth knowing."""

_WORDS: dict[Verdict, str] = {"sound": "sound", "note": "note on", "doubt": "doubt about", "fail": "failed"}


class Diagnosis(Settings):
    """The answer of one check."""

    check: Text
    """The name of the check."""
    verdict: Verdict
    found: Text
    """One sentence, with the numbers."""
    numbers: dict[Text, Scalar] = {}
    """The numbers of the sentence, by name."""

    @property
    def heading(self) -> str:
        """The verdict on its check, whose name says what is the case if all is well: "doubt about 'features vary'"."""
        return f"{_WORDS[self.verdict]} '{self.check}'"

    @property
    def said(self) -> str:
        """The verdict, the check and what it found."""
        return f"{self.heading}: {self.found}"
