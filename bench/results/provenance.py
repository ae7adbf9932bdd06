"""Which code the phases of a row come from, and whether that is known."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

from bench.record import Environment, Record
from bench.results.measured import Measured


def with_commits(measured: Sequence[Measured]) -> list[Measured]:
    """Return ``measured``, each with the commits under which its trainings stand, where there are several.

    Before schema version 3 a record named the commit of the process that wrote it, whoever had trained its stages.
    A training is recognised by its stage, its seconds to the last digit and its images.
    """
    commits: dict[Hashable, set[str]] = defaultdict(set)
    for one in measured:
        for _, training in _trainings(one.record):
            commits[training].add(one.record.environment.commit or "unknown")
    return [
        one._replace(
            commits={
                phase: tuple(sorted(commits[training]))
                for phase, training in _trainings(one.record)
                if len(commits[training]) > 1
            }
        )
        for one in measured
    ]


def code_flags(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield what speaks against taking the phases of one row, over all its seeds, for the work of the same code."""
    records = [one.record for one in measured]
    yield from _by_phase(
        [(phase, record.seed) for record in records for phase in record.foreign_phases],
        "{phases} ran with other code than the rest (seed {seeds})",
    )
    yield from _by_phase(
        [(phase, record.seed) for record in records for phase in record.unknown_phases],
        "it is not known with which code {phases} ran (seed {seeds})",
    )
    yield from _by_phase(
        [(phase, one.record.seed) for one in measured for phase in one.commits],
        "records of several commits hold the training of {phases}, so it is not known which code that ran with "
        "(seed {seeds})",
    )
    differ = [phase for phase in _phases(records) if len(set(_codes(records, phase))) > 1]
    if differ and not any(record.foreign_phases for record in records):
        yield f"the seeds ran with different code ({', '.join(map(_name, differ))})"


def ran_dirty(record: Record) -> bool:
    """Return whether the record, or any phase of it, comes from code with uncommitted changes."""
    phases = [one for ran in record.environments.values() for one in ran]
    return any(one is not None and one.dirty for one in (record.environment, *phases))


def _trainings(record: Record) -> Iterator[tuple[str, Hashable]]:
    if record.environments:
        return
    for phase, cost in record.cost.items():
        if phase.startswith("stage:") and cost.seconds:
            yield phase, (record.dataset, phase, cost.seconds, cost.images)


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


def _name(phase: str) -> str:
    kind, _, own = phase.partition(":")
    return {"stage": f"stage {own}", "protocol": own.upper(), "evaluate": own.upper()}.get(kind, phase)
