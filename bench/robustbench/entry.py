"""The entries of RobustBench's model zoo, with the numbers that it publishes for them."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from bench.errors import BenchError, unknown
from bench.files import read_json
from bench.recipe import Settings

KIND = "robustbench"
_FILE = Path(__file__).with_name("entries.json")
_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


class Entry(Settings):
    """One classifier of the zoo. Accuracies are percent, as RobustBench publishes them; None: it gives none."""

    dataset: Literal["cifar10", "cifar100", "imagenet"]
    threat: Literal["Linf", "L2", "corruptions"]
    name: str
    paper: str | None = None
    link: str | None = None
    venue: str | None = None
    architecture: str | None = None
    eps: float | None = Field(default=None, gt=0)
    """The radius of the published robust accuracy."""
    clean: float | None = Field(default=None, ge=0, le=100)
    autoattack: float | None = Field(default=None, ge=0, le=100)
    external: float | None = Field(default=None, ge=0, le=100)
    """A lower robust accuracy that another, adaptive attack found."""
    corruptions: float | None = Field(default=None, ge=0, le=100)

    @property
    def origin(self) -> str:
        """Its full name on our command line: ``robustbench:cifar10/Linf/NAME``."""
        return f"{KIND}:{self.dataset}/{self.threat}/{self.name}"

    @property
    def title(self) -> str:
        """Its name in tables; RobustBench uses one name under several threat models."""
        return f"RobustBench {self.threat}, {self.name}"

    @property
    def year(self) -> int:
        """Of its paper; the clean networks called Standard came with RobustBench itself."""
        found = re.search(r"20\d\d", self.name)
        return int(found[0]) if found else 2020

    @property
    def classes(self) -> int:
        """The number of classes."""
        return _CLASSES[self.dataset]

    @property
    def side(self) -> int:
        """Height and width of the images that its network takes."""
        if self.dataset != "imagenet":
            return 32
        return 288 if self.name == "Wong2020Fast" else 224

    @property
    def obstacle(self) -> str:
        """Why its network cannot be made here; empty: it can."""
        if self.dataset == "imagenet" and self.name == "Standard_R50":
            return "its weights are torchvision's, which RobustBench has in no file of its own"
        return "its network is made on a GPU of NVIDIA" if self.name.startswith("Bai2023Improving") else ""


class Source(NamedTuple):
    """Where the numbers of the entries stand."""

    repository: str
    commit: str

    def __str__(self) -> str:
        return f"RobustBench, model_info at {self.commit[:7]}"


@cache
def _content() -> tuple[Source, tuple[Entry, ...]]:
    content = read_json(_FILE)
    return Source(**content["source"]), tuple(Entry.parse(each, str(_FILE)) for each in content["entries"])


def entries() -> tuple[Entry, ...]:
    """Return all entries, in RobustBench's order."""
    return _content()[1]


def entries_source() -> Source:
    """Return where their numbers stand."""
    return _content()[0]


def find_released(arch: str) -> Entry | None:
    """Return the entry whose network a recipe calls ``arch``, ``robustbench:NAME``; None: it is another network."""
    kind, _, name = arch.partition(":")
    return find_entry(name) if kind == KIND else None


def find_entry(name: str, dataset: str | None = None) -> Entry:
    """Return the entry that ``name`` means: ``NAME``, or in full ``cifar10/Linf/NAME``.

    Args:
        name: without ``robustbench:``.
        dataset: the data that the user names, which decide between entries of one name.

    Raises:
        BenchError: there is none of that name, or there are several.
    """
    full = {each.origin.partition(":")[2]: each for each in entries()}
    found = [each for key, each in full.items() if name in (key, each.name)]
    of_data = [each for each in found if each.dataset == dataset]
    if len(found) > 1 and of_data:
        found = of_data
    if len(found) == 1:
        return found[0]
    if found:
        raise BenchError(
            f"RobustBench has {len(found)} entries called {name}. Type one of: {', '.join(one.origin for one in found)}"
        )
    allowed: Sequence[str] = list(full) if "/" in name else [each.name for each in entries()]
    raise unknown("entry of RobustBench", name, allowed, "`bench list robustbench` lists them.")
