"""The texts of a row beside its numbers: its name, how it differs from its table, and reasons to distrust it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isclose
from typing import Any

from bench.own_code import is_own
from bench.recipe import attack_name, protocol_title
from bench.record import (
    IMPORTED,
    LOCAL,
    Diagnosis,
    Doubt,
    Environment,
    PGDEvaluation,
    Phase,
    Record,
    Sweep,
    ra_and_aa,
)
from bench.results.groups import Group
from bench.results.measured import Measured
from bench.results.wording import flops_text, measure_text, named, radius_text, settings_text

_PGD_STEPS, _PGD_STEP = 20, 0.25
"""RA is accuracy under PGD-20 with steps of a quarter of eps (DeACL section 4.1); a table states any other attack."""

_SHOWN_BY_COLUMNS = {"evaluate.eps", "evaluate.autoattack"}
"""Settings that a row need not name: the table's heading, or a dash in the column of AA, says as much."""

_DOUBTS: Mapping[Doubt, str] = {
    "constant features": "the encoder gives all training images the same features (seed {}): pre-training collapsed",
    "constant classifier": "the classifier gives all clean test images the same answer (seed {})",
    "one test class": "all test images are of one class (seed {}), so an answer that is always the same is right",
}

_DOCTOR = str(Phase("evaluate", "doctor"))
"""A phase whose code measures no number of a row, so that seeds may differ in it."""


def label(measured: Measured) -> str:
    """Return the method's title and year, and how the row departs from the tier's recipe of an installed method.

    These are: local, re-evaluated, the name of a method from a file, overrides, and a shared encoder. The adversary of
    the evaluation is not among them, which :func:`attack_text` gives, nor a missing AutoAttack.
    """
    record = measured.record
    departures = recipe_departures(record, local=measured.local, encoder_seed=record.encoder_seed)
    return named(f"{record.title} {record.year}", departures)


def told_settings(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``overrides`` that a row names."""
    return {key: value for key, value in overrides.items() if key not in _SHOWN_BY_COLUMNS}


def recipe_departures(one: Record | Sweep, *, local: bool, encoder_seed: int | None) -> list[str]:
    """Return how the recipe of ``one`` departs from the tier's recipe of an installed method, as labels name it."""
    return [
        *([LOCAL] if local else []),
        *(["re-evaluated"] if one.method == IMPORTED else []),
        *([one.method] if is_own(one.method) else []),
        *settings_text(told_settings(one.overrides)),
        *([] if encoder_seed is None else [f"encoder of seed {encoder_seed}"]),
    ]


def attack_text(measured: Measured) -> str:
    """Return how the adversary differs from the default: norm, radius, the attack of RA, AutoAttack's version."""
    record = measured.record
    norm = measured.threat.norm
    radii = {record.ra.eps, record.aa.eps if record.aa else record.ra.eps}
    departures = []
    if norm != "linf" or any(abs(eps - measured.facts.radius(norm)) > 1e-9 for eps in radii):
        departures += [radius_text(norm, eps) for eps in sorted(radii)]
    departures += _ra_departures(record.ra)
    if record.aa and record.aa.version != "standard":
        departures.append(f"AutoAttack {record.aa.version}")
    return ", ".join(departures)


def _ra_departures(ra: PGDEvaluation) -> Iterator[str]:
    if (ra.attack, ra.steps, ra.restarts) != ("pgd", _PGD_STEPS, 1):
        restarts = f" x {ra.restarts}" if ra.restarts > 1 else ""
        yield f"RA under {attack_name(ra.attack, ra.steps)}{restarts}"
    if ra.step_size is not None and not isclose(ra.step_size, _PGD_STEP * ra.eps, rel_tol=1e-6):
        yield f"RA's step size {ra.step_size / ra.eps:.3g} eps" if ra.eps else f"RA's step size {ra.step_size:.3g}"
    if ra.start not in (None, "uniform"):
        yield f"RA's start {ra.start}"


def precision_text(overrides: Mapping[str, Any], gradients: str = "fp32") -> str:
    """Return how precisions differ from the tier's, by a record's ``overrides`` and the ``gradients`` of its attacks.

    "precision bf16, stage1.precision=fp32, gradients in bf16"; empty: not at all.
    """
    own = {key: value for key, value in overrides.items() if key.split(".")[1:] == ["precision"]}
    named = [f"precision {overrides['precision']}"] if overrides.get("precision") else []
    return ", ".join([*named, *settings_text(own), *([f"gradients in {gradients}"] if gradients != "fp32" else [])])


def budget_text(budget: float | str | None) -> str | None:
    """Return a recipe's ``budget`` as a user would type it, or None where there is none."""
    if budget is None:
        return None
    return budget if isinstance(budget, str) else flops_text(budget)


def reliability_flags(group: Group) -> tuple[str, ...]:
    """Return the reasons to distrust the numbers of ``group``, except AutoAttack's own warnings."""
    return tuple(
        [
            *_diagnosed(group),
            *_undiagnosed(group),
            *_dirty(group),
            *_code(group),
            *_starts(group),
        ]
    )


def is_guessing(one: Measured) -> bool:
    """Return whether chance alone may explain the SA: the doctor says so or, without it, by 1 / classes."""
    found = [each for each in one.record.doctor or () if each.check == "better than guessing"]
    return found[0].verdict != "sound" if found else one.record.sa.interval[0] * one.facts.num_classes <= 1


def _diagnosed(group: Group) -> Iterator[str]:
    """Yield what the doctor found that fails or puts in doubt, a text a check."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in group.seeds:
        for each in _diagnoses(one):
            if each.verdict in ("fail", "doubt"):
                found[each.heading].append(f"{each.found} (seed {one.record.seed})")
    for heading, texts in found.items():
        yield f"{heading}: {'; '.join(texts)}"


def _diagnoses(one: Measured) -> Iterable[Diagnosis]:
    """Return the verdicts in a record or, where it is older than the doctor, the one that it still allows."""
    record = one.record
    if record.doctor is not None:
        return record.doctor
    found = ra_and_aa(record.sa, record.ra, record.aa, test_images=one.facts.test_images)
    if found is None:
        return ()
    # Such a row was published as a result, so what would fail today is a doubt.
    return [found.model_copy(update={"verdict": "doubt"})] if found.verdict == "fail" else [found]


def _undiagnosed(group: Group) -> Iterator[str]:
    """Yield the doubts about records that were made before the doctor."""
    older = group._replace(seeds=tuple(one for one in group.seeds if one.record.doctor is None))
    if older.seeds:
        yield from (*_guessing(older), *_doubts(older), *_blind(older))


def _guessing(group: Group) -> Iterator[str]:
    seeds = [str(one.record.seed) for one in group.seeds if is_guessing(one)]
    if seeds:
        yield f"SA is no better than guessing (seed {', '.join(seeds)}), so RA and AA say nothing"


def _doubts(group: Group) -> Iterator[str]:
    for doubt, sentence in _DOUBTS.items():
        seeds = [str(one.record.seed) for one in group.seeds if doubt in one.record.doubts]
        if seeds:
            yield sentence.format(", ".join(seeds))


def _blind(group: Group) -> Iterator[str]:
    for one in group.seeds:
        found, images = one.record.ra.no_gradient, one.record.ra.outcome.n
        if found and (found.first or found.last):
            yield (
                f"PGD had no direction for {found.first} of {images} images at its first step and for {found.last} at "
                f"its last (seed {one.record.seed}): their gradient is zero or not finite, so RA says little"
            )


def _dirty(group: Group) -> Iterator[str]:
    seeds = [str(one.record.seed) for one in group.seeds if _ran_dirty(one.record)]
    if seeds:
        yield f"the code had uncommitted changes (seed {', '.join(seeds)}), so nobody can repeat it"


def _code(group: Group) -> Iterator[str]:
    """Yield the reasons to doubt that the phases of a row, over all its seeds, ran with the same code."""
    records = [one.record for one in group.seeds]
    yield from _by_phase(
        [(phase, record.seed) for record in records for phase in record.foreign_phases],
        "{phases} ran with other code than the rest (seed {seeds})",
    )
    yield from _by_phase(
        [(phase, record.seed) for record in records for phase in record.unknown_phases],
        "it is not known with which code {phases} ran (seed {seeds})",
    )
    yield from _by_phase(
        [(str(Phase("stage", stage)), one.record.seed) for one in group.seeds for stage in one.commits],
        "records of several commits hold the training of {phases}, so it is not known which code that ran with "
        "(seed {seeds})",
    )
    numbers = [phase for phase in _phases(records) if phase != _DOCTOR]
    differ = [phase for phase in numbers if len(set(_codes(records, phase))) > 1]
    if differ and not any(record.foreign_phases for record in records):
        yield f"the seeds ran with different code ({', '.join(map(_name, differ))})"


def _starts(group: Group) -> Iterator[str]:
    seeds: dict[str, list[str]] = {}
    for one in group.seeds:
        seeds.setdefault(one.record.ra.start_drawn, []).append(str(one.record.seed))
    if len(seeds) > 1:
        kinds = " and ".join(f"{drawn} (seed {', '.join(them)})" for drawn, them in seeds.items())
        yield f"the random starts of RA were drawn {kinds}: the same attack, with other noise"


def _ran_dirty(record: Record) -> bool:
    """Return whether the record, or any phase of it, comes from code with uncommitted changes."""
    phases = [one for ran in record.environments.values() for one in ran]
    return any(one is not None and one.dirty for one in (record.environment, *phases))


def _by_phase(found: Sequence[tuple[str, int]], sentence: str) -> Iterator[str]:
    if found:
        phases = _listed(dict.fromkeys(_name(phase) for phase, _ in found))
        seeds = ", ".join(str(seed) for seed in sorted({seed for _, seed in found}))
        yield sentence.format(phases=phases, seeds=seeds)


def _listed(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _phases(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(phase for record in records for phase in record.environments))


def _codes(records: Sequence[Record], phase: str) -> Iterator[str | None]:
    ran: list[Environment | None] = [one for record in records for one in record.environments.get(phase, ())]
    yield from (one.code for one in ran if one is not None)


def _name(text: str) -> str:
    kind, name = Phase.read(text)
    return {"stage": f"stage {name}", "protocol": protocol_title(name), "evaluate": measure_text(name)}.get(kind, text)
