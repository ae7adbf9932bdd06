"""The facts on the page of one record: its curves, its cost, its settings, and reasons to distrust it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.doctor import Advice, advice
from bench.recipe import attack_name, flatten, protocol_title
from bench.record import Diagnosis, ListedAttack, Outcome, Phase, PhaseCost, Record
from bench.results import (
    NORMS,
    Group,
    Measured,
    machine_text,
    measure_text,
    percent,
    radius_text,
    reliability_flags,
    settings_text,
    time_text,
)

_JSON = json.JSONEncoder(sort_keys=True)


class Attack(NamedTuple):
    """One kind of accuracy of a record."""

    name: str
    """AA, Attacks, RA or SA."""
    what: str
    """The attack and its radius."""
    outcome: Outcome


class Survival(NamedTuple):
    """The number of images that are right after one attack of AutoAttack."""

    attack: str
    survivors: int
    share: str
    """Of all images measured, in percent."""


class Listed(NamedTuple):
    """One attack of the list, in words."""

    attack: str
    tried: int
    left: int
    share: str
    """Of all images measured, in percent."""
    time: str
    what: str
    """Its settings, and whose code ran."""


class Curve(NamedTuple):
    """One quantity of a phase, epoch by epoch."""

    name: str
    values: tuple[float | None, ...]
    """One an epoch; None in an epoch that did not log it."""


class Setting(NamedTuple):
    """One number of the recipe."""

    key: str
    value: str
    changed: bool
    """By ``--set``."""


def attacks(record: Record) -> list[Attack]:
    """Return AA, the list of attacks as a whole, RA and SA; SA is the accuracy under an attack that does nothing."""
    ra, aa, norm = record.ra, record.aa, record.read_recipe().downstream.threat.norm
    restarts = f", worst of {ra.restarts} starts" if ra.restarts > 1 else ""
    gradients = "" if ra.precision == "fp32" else f", gradients in {ra.precision}"  # of all: one setting
    attack = f"{attack_name(ra.attack, ra.steps)}{restarts}"
    found = [Attack("RA", f"{attack} at {radius_text(norm, ra.eps)}{gradients}", ra.outcome)]
    if record.attacks:
        names = " + ".join(one.attack for one in record.attacks.attacks)
        what = f"{names} at {radius_text(norm, record.attacks.eps)}{gradients}"
        found.insert(0, Attack("Attacks", what, record.attacks.outcome))
    if aa is not None:
        found.insert(0, Attack("AA", f"AutoAttack {aa.version} at {radius_text(norm, aa.eps)}{gradients}", aa.outcome))
    return [*found, Attack("SA", "clean images", record.sa)]


def survivals(record: Record) -> list[Survival]:
    """Return what each attack of AutoAttack left, in order."""
    if record.aa is None:
        return []
    n = record.aa.outcome.n
    return [Survival(attack, count, percent(count / n, n)) for attack, count in record.aa.survivors.items()]


def listed(record: Record) -> list[Listed]:
    """Return what each attack of ``evaluate.attacks`` left, in order."""
    return [_listed(record, one) for one in (record.attacks.attacks if record.attacks else ())]


def _listed(record: Record, one: ListedAttack) -> Listed:
    cost = record.cost.get(str(Phase("evaluate", f"attacks.{one.attack}")))
    what = settings_text(one.settings)
    what += [f"{one.package} {one.package_version}"] if one.package else []
    if one.perturbations:
        median = one.perturbations.median
        norm = record.read_recipe().downstream.threat.norm
        what.append(f"median perturbation {'infinite' if median is None else NORMS[norm] + f' {median:.3g}'}")
    outcome = one.outcome
    time = time_text(cost.seconds) if cost else ""
    return Listed(one.attack, one.tried, outcome.correct, percent(outcome.accuracy, outcome.n), time, ", ".join(what))


def curves(record: Record) -> dict[str, list[Curve]]:
    """Return what each training phase logged, epoch by epoch."""
    return {phase_name(name): list(_phase_curves(epochs)) for name, epochs in record.history.items() if epochs}


def flags(record: Record) -> list[str]:
    """Return the reasons to distrust the record's numbers."""
    found = [f"AutoAttack warned: {warning}" for warning in (record.aa.warnings if record.aa else [])]
    return [*found, *reliability_flags(Group((Measured(Path(), record, record.read_recipe()),), ()))]


def diagnoses(record: Record) -> list[tuple[Diagnosis, Advice]]:
    """Return what the doctor found, each with what it means and what to do."""
    return [(one, advice(one)) for one in record.doctor or ()]


def costs(record: Record) -> list[dict[str, str]]:
    """Return the cost of each phase as text; what was not measured is empty."""
    return [_cost(name, cost) for name, cost in record.cost.items()]


def settings(record: Record) -> dict[str, list[Setting]]:
    """Return every number of the recipe, section by section."""
    recipe = {**record.recipe}
    sections = {**recipe.pop("config", {}), **recipe}
    found: dict[str, list[Setting]] = {}
    for key, value in flatten({name: part for name, part in sections.items() if name not in ("overrides", "idle")}):
        section, _, rest = key.partition(".")
        setting = Setting(rest or section, _plain(value), key in record.overrides)
        found.setdefault(section if rest else "recipe", []).append(setting)
    return found


def phase_name(text: str) -> str:
    """Return the name of a phase of cost or history in words."""
    kind, name = Phase.read(text)
    words = {
        "stage": f"Stage {name}",
        "protocol": protocol_title(name),
        "evaluate": f"Evaluation, {measure_text(name)}",
    }
    return words.get(kind, text)


def _phase_curves(epochs: list[dict[str, float]]) -> Iterator[Curve]:
    for name in dict.fromkeys(key for epoch in epochs for key in epoch):
        yield Curve(name, tuple(epoch.get(name) for epoch in epochs))


def _cost(name: str, cost: PhaseCost) -> dict[str, str]:
    def written(value: float | None, unit: float, form: str = ",.1f") -> str:
        return "" if value is None else format(value / unit, form)

    return {
        "phase": phase_name(name),
        "time": time_text(cost.seconds) if cost.seconds >= 0.05 else "< 0.1 s",
        "images": written(cost.images, 1, ",.0f"),
        "images_per_second": written(cost.images_per_second, 1, ",.0f"),
        "flops": written(cost.flops_per_image, 1e6),
        "memory": written(cost.peak_memory_bytes, 2**20, ",.0f"),
        "energy": written(cost.energy_joules, 1e3),
        "device": machine_text(cost.device),
    }


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    # Most are plain numbers, which repr writes as JSON does, in a tenth of the time.
    return repr(value) if type(value) in (int, float) else _JSON.encode(value)
