"""Numbers that papers published: shown beside the measured ones, marked, never mixed with them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from bench.errors import BenchError
from bench.files import read_json
from bench.own_code import is_own
from bench.recipe import RELEASED, Settings
from bench.record import Known
from bench.results.rows import TableKey
from bench.robustbench import entries, entries_source

_REFERENCE_ENCODER = "resnet18"
_SHIPPED = Path(__file__).with_name("published.json")


class PublishedNumber(Settings):
    """One line of a paper's table. Accuracies are percent; what the source does not give is None."""

    source: str
    """Where it stands: paper and table."""
    method: str
    """As the source writes it."""
    variant: dict[str, bool | int | float | str]
    """How it differs from the method's headline configuration; empty for the headline number."""
    pretrain_dataset: str | None
    dataset: str
    encoder: str
    protocol: str
    """SLF, ALF or AFF."""
    aa: float | None = Field(ge=0, le=100)
    ra: float | None = Field(ge=0, le=100)
    sa: float | None = Field(ge=0, le=100)
    aa_std: float | None = Field(default=None, ge=0)
    ra_std: float | None = Field(default=None, ge=0)
    sa_std: float | None = Field(default=None, ge=0)
    runs: int | None = Field(default=None, ge=1)
    """Runs that the mean and standard deviation were taken over."""
    time_days: float | None = Field(default=None, ge=0)
    gpus: int | None = Field(default=None, ge=1)
    total_gpu_days: float | None = Field(default=None, ge=0)
    note: str | None = None

    @property
    def known(self) -> Known:
        """Its paper claims it."""
        return "claimed"


class PublishedCost(NamedTuple):
    """A method's cost as a paper states it, on the paper's GPUs."""

    gpu_days: float
    gpus: int | None
    source: str


class PublishedCosts:
    """The first cost that the published numbers give for each method."""

    def __init__(self, numbers: Iterable[PublishedNumber]) -> None:
        self._costs: dict[str, PublishedCost] = {}
        for number in numbers:
            if number.total_gpu_days is not None and not number.variant:
                cost = PublishedCost(number.total_gpu_days, number.gpus, number.source)
                self._costs.setdefault(number.method.casefold(), cost)

    @classmethod
    def under(cls, results_dir: Path) -> "PublishedCosts":
        """Return the costs among the published numbers; ``results_dir`` may provide others."""
        return cls(load_published(results_dir))

    def of(self, title: str) -> PublishedCost | None:
        """Return the cost of the method called ``title``, None where no paper gives one."""
        return self._costs.get(title.casefold())


def load_published(results_dir: Path) -> tuple[PublishedNumber, ...]:
    """Return the published numbers, in the order of their lines.

    They are part of the package. A results folder with files in ``published`` provides others instead.

    Raises:
        BenchError: a file is unreadable, is not a list, or has faulty entries.
    """
    files = sorted((results_dir / "published").glob("*.json")) or [_SHIPPED]
    return tuple(number for path in files for number in _load(path))


def reference(
    numbers: Iterable[PublishedNumber],
    table: TableKey,
    *,
    method: str,
    title: str,
    published_as: str | None,
    overrides: Mapping[str, Any],
) -> PublishedNumber | None:
    """Return the headline number to show beside what was measured, or None: nothing is comparable with it.

    That is the case where the recipe was changed, or the code: a copied method may keep the title of the paper's. And
    where the table departs from a plain run: another adversary, precision or budget, or a transfer, on which nobody
    published numbers that we know of.

    Args:
        published_as: the name under which papers list the images; None: nobody published numbers on them.
    """
    # The threat model of a released classifier is that of its publication, whatever the default of the data is.
    if is_own(method) or overrides or (table.departures and table.protocol != RELEASED):
        return None
    return headline(numbers, title=title, dataset=published_as, protocol=table.protocol)


def headline(
    numbers: Iterable[PublishedNumber], *, title: str, dataset: str | None, protocol: str
) -> PublishedNumber | None:
    """Return the headline number of a method, or None where none was published.

    Where several sources give one, the first listed counts: DeACL's own Tables 7 and 8, which measured all
    methods under one set of protocols, come before later collections.

    Args:
        dataset: the name under which papers list these images; None: nobody published numbers on them.
    """
    if protocol == RELEASED:
        return _released(title, dataset)
    for number in numbers:
        names_match = (number.method.casefold(), number.dataset) == (title.casefold(), dataset)
        if names_match and number.protocol.casefold() == protocol.casefold() and _is_headline(number):
            return number
    return None


def _released(title: str, dataset: str | None) -> PublishedNumber | None:
    """Return what RobustBench publishes for its entry called ``title``, or None."""
    found = [entry for entry in entries() if (entry.title, entry.dataset) == (title, dataset)]
    if not found:
        return None
    entry = found[0]
    return PublishedNumber(
        source=str(entries_source()),
        method=title,
        variant={},
        pretrain_dataset=None,
        dataset=entry.dataset,
        encoder=entry.architecture or "",
        protocol=RELEASED,
        aa=entry.autoattack,
        ra=None,
        sa=entry.clean,
    )


def _is_headline(number: PublishedNumber) -> bool:
    own_data = number.pretrain_dataset in (None, number.dataset)
    return not number.variant and own_data and number.encoder == _REFERENCE_ENCODER


def _load(path: Path) -> Iterable[PublishedNumber]:
    entries = read_json(path)
    if not isinstance(entries, list):
        raise BenchError(f"{path}: expected a list of published numbers, got {type(entries).__name__}. Restore it.")
    return [PublishedNumber.parse(entry, f"{path}, entry {place}") for place, entry in enumerate(entries, 1)]
