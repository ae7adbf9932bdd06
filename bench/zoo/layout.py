"""A layout: how the checkpoints of one origin name their tensors, and what their shapes do not say."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bench.zoo.constants import CONSTANTS, read_constants


@dataclass(frozen=True)
class Layout:
    """One row of the table of layouts: the names that show it, and the facts that belong to it.

    Names are those in the state dict, without what encloses all of it (``state_dict.``, ``model.``, ``module.``).
    """

    name: str
    origins: Mapping[str, tuple[str, int]]
    """The methods that write it: by the name for ``--origin``, the title and the year of the paper."""
    signs: tuple[str, ...]
    """Regular expressions, each of which matches the whole of some name."""
    beside: frozenset[str] = frozenset()
    """Keys that the file has beside the state dict."""
    constants: str | None = None
    """A name of :data:`CONSTANTS` that the buffers ``normalize`` hold; None: any, or no buffers."""
    network: str | None = None
    """The prefix of the network to take; None: that of the only one."""
    norms: tuple[str, ...] = ("normalize.", "normalise.")
    """Prefixes of the buffers ``mean`` and ``std``, within the network or beside it; what a file has, counts."""
    branches: Mapping[str, str] = field(default_factory=dict)
    """By branch, the part of the names that is its own, as ``bn_list.1.``; the first branch is the default."""
    stem_padding: int | None = None
    """Of a 3x3 stem; None: the layout does not say."""
    normalisation: str | None = None
    """``none`` or a name of :data:`CONSTANTS`, where the file has no buffers; None: the layout does not say."""
    classes: Mapping[int, str] = field(default_factory=dict)
    """The same, by the number of classes of the classifier that was trained along."""
    classes_stem: str = "cifar"
    """The stem for which ``classes`` holds."""
    caution: str = ""
    """Which other files look the same, and compute something else."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What is dropped, in words, by the first part of the name."""

    def fits(self, tensors: Mapping[str, Tensor], beside: Collection[str]) -> bool:
        """Return whether a state dict of ``tensors``, in a file with the keys ``beside``, has this layout."""
        if not self.beside <= set(beside):
            return False
        if not all(any(re.fullmatch(sign, name) for name in tensors) for sign in self.signs):
            return False
        held = read_constants(tensors, self.norms) if self.constants else None
        return self.constants is None or (held is not None and held[0] == CONSTANTS[self.constants])

    @property
    def title(self) -> str:
        """The titles of all its origins: "ACL, DynACL, AIR or RCS"."""
        *some, last = (title for title, _ in self.origins.values())
        return f"{', '.join(some)} or {last}" if some else last
