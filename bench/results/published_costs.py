"""What papers say that methods cost."""

from pathlib import Path
from typing import NamedTuple

from bench.results.published import PublishedNumber, load_published


class PublishedCost(NamedTuple):
    """A paper's word, on GPUs of its own."""

    gpu_days: float
    gpus: int | None
    source: str


class PublishedCosts:
    """The first cost that the published numbers give for each method."""

    def __init__(self, numbers: tuple[PublishedNumber, ...]) -> None:
        self._costs: dict[str, PublishedCost] = {}
        for number in numbers:
            if number.total_gpu_days is not None and not number.variant:
                cost = PublishedCost(number.total_gpu_days, number.gpus, number.source)
                self._costs.setdefault(number.method.casefold(), cost)

    @classmethod
    def under(cls, results_dir: Path) -> "PublishedCosts":
        """Return the costs among the published numbers; ``results_dir`` may bring its own."""
        return cls(load_published(results_dir))

    def of(self, title: str) -> PublishedCost | None:
        """Return the cost of the method called ``title``, None where no paper gives one."""
        return self._costs.get(title.casefold())
