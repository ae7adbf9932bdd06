"""Tables of a comparison: a row a quantity, with our value, upstream's and their difference."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_HEAD = "| quantity | ours | upstream | difference |\n| --- | --- | --- | --- |\n"


@dataclass
class Table:
    """The section of one method: rows, and the quantities whose difference exceeds its limit."""

    title: str
    upstream: str
    note: str = ""
    """What was compared on what, below the table."""
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def number(self, quantity: str, ours: float | Tensor, theirs: float | Tensor, *, within: float) -> None:
        """Add two values, with their difference divided by the larger of 1 and upstream's."""
        a, b = float(ours), float(theirs)
        self.add(quantity, f"{a:.9f}", f"{b:.9f}", {"": abs(a - b)}, within=within * max(1.0, abs(b)))

    def equal(self, quantity: str, ours: object, theirs: object) -> None:
        """Add two values that must be the same."""
        same, value = ours == theirs, _shown(ours)
        shown = "the same" if same and len(value) > 40 else _shown(theirs)
        self.rows.append((quantity, value, shown, "0" if same else "differs"))
        if not same:
            self.faults.append(quantity)

    def add(self, quantity: str, ours: str, theirs: str, differences: Mapping[str, float], *, within: float) -> None:
        """Add measured differences by name ("gradient, relative"), each at most ``within``."""
        text = "; ".join(f"{name} {value:.1e}".strip() for name, value in differences.items())
        self.rows.append((quantity, ours, theirs, text))
        if not all(value <= within for value in differences.values()):
            self.faults.append(f"{quantity}: {text}, more than {within:.0e}")

    def apart(self, quantity: str, differences: Mapping[str, float], *, within: float) -> None:
        """Add differences of values that are too many to show."""
        self.add(quantity, "–", "–", differences, within=within)

    def explained(self, quantity: str, ours: str, theirs: str, reason: str) -> None:
        """Add values that differ on purpose, with the reason instead of the difference."""
        self.rows.append((quantity, ours, theirs, reason))

    def __str__(self) -> str:
        body = "".join(f"| {' | '.join(row)} |\n" for row in self.rows)
        note = f"\n{self.note}\n" if self.note else ""
        return f"## {self.title}\n\nUpstream: {self.upstream}.\n\n{_HEAD}{body}{note}"


def farthest(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Return the largest difference of two elements."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def gradients(module: nn.Module) -> list[Tensor]:
    """Return the gradients of the parameters that have one, in order."""
    return [p.grad for p in module.parameters() if p.grad is not None]


def relative(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Return |a - b| / |b| of the tensor where it is largest; 0 where both are zero."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        gap, size = torch.linalg.vector_norm((a - b).double()), torch.linalg.vector_norm(b.double())
        worst = max(worst, float(gap / size) if float(size) else float(gap))
    return worst


def attack(table: Table, quantity: str, ours: Tensor, theirs: Tensor, images: Tensor) -> None:
    """Add two sets of attacked ``images``: how far each moved, and how many pixels are the same."""
    equal = float(((ours - theirs).abs() <= 1e-12).double().mean())
    moved = [f"{float((x - images).abs().max()):.6f}" for x in (ours, theirs)]
    text = f"{100 * equal:.3f} % of pixels equal (1e-12), max {farthest([ours], [theirs]):.1e}"
    table.rows.append((quantity, f"{moved[0]} max shift", moved[1], text))
    if equal < 1:
        table.faults.append(f"{quantity}: {text}")


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
