"""How long work tells the outside what it is doing, without knowing whether a terminal listens; and plurals."""

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of one phase at a time."""

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Open ``phase``, of ``total`` units, of which ``done`` were finished before (a resumed run)."""

    def advance(self, amount: int, detail: str = "") -> None:
        """Count ``amount`` more units of the open phase, and show ``detail`` ("epoch 3/20, loss 1.2")."""

    def end(self) -> None:
        """Close the open phase."""

    def note(self, message: str) -> None:
        """Say something that stays on the screen."""


def plural(number: int, noun: str) -> str:
    """Return "1 epoch", "2 epochs", "3 batches"."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "sh", "tch", "x")) else "s"
    return f"{number} {noun}{ending}"


class Silent:
    """A reporter that nobody listens to."""

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Ignore."""

    def advance(self, amount: int, detail: str = "") -> None:
        """Ignore."""

    def end(self) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""
