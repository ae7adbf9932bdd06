"""What the page of one record shows."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.leaderboard.wording import duration, eps_text
from bench.recipe.overrides import flatten
from bench.record import Outcome, PhaseCost, Record
from bench.report.charts import curve
from bench.report.fates import Fate, count_fates, fates
from bench.report.pictures import data_url, fate_grid
from bench.report.site.content import Content, Entry
from bench.report.site.numbers import Number, of_outcome, of_published


class Measure(NamedTuple):
    """One accuracy of the record, with what became of each image."""

    name: str
    what: str
    number: Number
    paper: Number | None
    grid: str
    """Address of the picture."""
    counts: tuple[tuple[Fate, int], ...]

    @property
    def described(self) -> str:
        """The picture in words."""
        return f"{self.number.n} test images: " + ", ".join(f"{count} {fate.value}" for fate, count in self.counts)


class Survival(NamedTuple):
    """How many images one attack of AutoAttack left right."""

    attack: str
    survivors: int
    share: float


class Curve(NamedTuple):
    """One quantity of a phase, epoch by epoch."""

    name: str
    svg: str


class Setting(NamedTuple):
    """One number of the recipe."""

    key: str
    value: str
    changed: bool
    """By ``--set``."""


def measures(content: Content, entry: Entry) -> list[Measure]:
    """Return AA, RA and SA of a record, strongest attack first."""
    record, paper = entry.record, content.reference(entry.record)
    method_page = f"{content.method_pages[record.method]}#published"

    def measure(name: str, what: str, outcome: Outcome) -> Measure:
        found = fates(record.sa, outcome)
        return Measure(
            name=name,
            what=what,
            number=of_outcome(outcome, entry.copy),
            paper=paper and of_published(paper, name.lower(), method_page),
            grid=data_url(fate_grid(found)),
            counts=tuple((fate, count) for fate, count in count_fates(found).items() if count or fate is Fate.ROBUST),
        )

    ra = record.ra
    shown = []
    if record.aa is not None:
        attack = f"AutoAttack {record.aa.version}, eps {eps_text(record.aa.eps)}"
        shown.append(measure("AA", attack, record.aa.outcome))
    restarts = f", best of {ra.restarts} starts" if ra.restarts > 1 else ""
    shown.append(measure("RA", f"PGD-{ra.steps}{restarts}, eps {eps_text(ra.eps)}", ra.outcome))
    shown.append(measure("SA", "clean images", record.sa))
    return shown


def survivals(record: Record) -> list[Survival]:
    """Return what each attack of AutoAttack left, in order."""
    if record.aa is None:
        return []
    n = record.aa.outcome.n
    return [Survival(attack, count, 100 * count / n) for attack, count in record.aa.survivors.items()]


def curves(record: Record) -> dict[str, list[Curve]]:
    """Return the charts of each phase that was trained."""
    return {_phase(name): list(_phase_curves(name, epochs)) for name, epochs in record.history.items() if epochs}


def flags(record: Record) -> list[str]:
    """Return what speaks against trusting the record's numbers."""
    found = [f"AutoAttack warned: {warning}" for warning in (record.aa.warnings if record.aa else [])]
    found += [f"doctor, {check}: {_plain(verdict)}" for check, verdict in (record.doctor or {}).items()]
    if record.environment.dirty:
        found.append("The code had uncommitted changes.")
    return found


def costs(record: Record) -> list[dict[str, str]]:
    """Return the cost of each phase as text; what was not measured is empty."""
    return [_cost(name, cost) for name, cost in record.cost.items()]


def settings(record: Record) -> dict[str, list[Setting]]:
    """Return every number of the recipe, section by section."""
    recipe = {**record.recipe}
    sections = {**recipe.pop("config", {}), **recipe}
    found: dict[str, list[Setting]] = {}
    for key, value in flatten({name: part for name, part in sections.items() if name != "overrides"}):
        section, _, rest = key.partition(".")
        setting = Setting(rest or section, _plain(value), key in record.overrides)
        found.setdefault(section if rest else "recipe", []).append(setting)
    return found


def _phase(name: str) -> str:
    kind, _, own = name.partition(":")
    return {"stage": f"Stage {own}", "protocol": own.upper(), "evaluate": f"Evaluation, {own.upper()}"}.get(kind, name)


def _phase_curves(phase: str, epochs: list[dict[str, float]]) -> Iterator[Curve]:
    for name in dict.fromkeys(key for epoch in epochs for key in epoch):
        values = [epoch[name] for epoch in epochs if name in epoch]
        yield Curve(name, curve(values, name=f"{_phase(phase)}: {name}"))


def _cost(name: str, cost: PhaseCost) -> dict[str, str]:
    def written(value: float | None, unit: float, form: str = ",.1f") -> str:
        return "" if value is None else format(value / unit, form)

    return {
        "phase": _phase(name),
        "time": duration(cost.seconds),
        "images": written(cost.images, 1, ",.0f"),
        "images_per_second": written(cost.images_per_second, 1, ",.0f"),
        "flops": written(cost.flops_per_image, 1e6),
        "memory": written(cost.peak_memory_bytes, 2**20, ",.0f"),
        "energy": written(cost.energy_joules, 1e3),
        "device": cost.device,
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
