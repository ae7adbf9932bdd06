"""The phases of a run, by which records hold costs, histories and environments: "stage:ssl", "evaluate:ra"."""

from typing import Literal, NamedTuple, Self


class Phase(NamedTuple):
    """One phase: a training stage, the training of a protocol's classifier, or a measurement of it."""

    kind: Literal["stage", "protocol", "evaluate"] | str
    """A foreign record may have others."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the phase that a record calls ``text``."""
        kind, _, name = text.partition(":")
        return cls(kind, name)
