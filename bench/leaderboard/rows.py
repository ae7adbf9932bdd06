"""From records to rows: the newest record of each run counts, and seeds of one recipe share a row."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from bench.errors import BenchError
from bench.leaderboard.wording import eps_text, settings_text
from bench.recipe import DatasetFacts, Settings, ThreatSettings, canonical_digest, tier_names
from bench.record import Outcome, Record, load_record, record_files

_FIDELITIES = ("uniform", "native")
_PROTOCOLS = ("slf", "alf", "aff")
_PGD_STEPS = 20
"""RA is accuracy under PGD-20 (DeACL section 4.1); any other number of steps is said in the row."""


class Score(Settings):
    """One kind of accuracy over the seeds of a row, as shares of 1."""

    accuracy: float
    """Mean over the seeds."""
    std: float | None
    """Sample standard deviation over the seeds; None for one seed."""
    interval: tuple[float, float] | None
    """95 % interval over the images; None for several seeds."""
    n: int
    """Test images measured, the same number for each seed."""


class Row(Settings):
    """One recipe under one protocol, over all seeds it was run with."""

    method: str
    label: str
    """The method's title, followed by all in which the row departs from the tier's recipe."""
    dataset: str
    facts: DatasetFacts
    tier: str
    fidelity: Literal["uniform", "native"]
    protocol: str
    protocol_sha256: str
    overrides: dict[str, Any]
    sa: Score
    ra: Score
    aa: Score | None
    aa_warnings: tuple[str, ...]
    """What AutoAttack itself warned of, for any of the seeds."""
    pretraining_seconds: float | None
    """Wall-clock of all training stages, mean over the seeds; None for a method without one."""
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    records: tuple[str, ...]
    """The records' paths below the results folder, in the order of the seeds."""
    superseded: int
    """Older records of the same runs, which do not count."""

    @property
    def table(self) -> tuple[str, str, str, str, str]:
        """What rows must have in common to be compared: data, tier, fidelity and protocol."""
        return self.dataset, self.facts.sha256, self.tier, self.fidelity, self.protocol


class LeftOut(Settings):
    """A file among the records that cannot be trusted, and why."""

    file: str
    """Its path below the results folder."""
    reason: str


class _Run(NamedTuple):
    file: str
    record: Record
    facts: DatasetFacts
    threat: ThreatSettings


def read_rows(results_dir: Path) -> tuple[tuple[Row, ...], tuple[LeftOut, ...]]:
    """Return the rows that the records under ``results_dir`` make, and the files that had to be left out.

    Rows of one table stand together, best AA first, rows without AA last and by RA.
    """
    groups: dict[Hashable, list[_Run]] = defaultdict(list)
    left_out = []
    for path in record_files(results_dir):
        file = path.relative_to(results_dir).as_posix()
        try:
            run = _read(path, file)
        except BenchError as error:
            left_out.append(LeftOut(file=file, reason=str(error).removeprefix(f"{path}: ")))
        else:
            groups[_recipe_key(run)].append(run)
    tiers = tier_names()[::-1]
    rows = sorted((_row(runs) for runs in groups.values()), key=lambda row: _order(row, tiers))
    return tuple(rows), tuple(left_out)


def _read(path: Path, file: str) -> _Run:
    record = load_record(path)
    return _Run(
        file=file,
        record=record,
        facts=DatasetFacts.parse(record.recipe.get("dataset"), "recipe.dataset"),
        threat=ThreatSettings.parse(record.recipe.get("threat"), "recipe.threat"),
    )


def _recipe_key(run: _Run) -> Hashable:
    record = run.record
    return (
        *(record.method, record.dataset, run.facts.sha256, record.tier, record.fidelity, record.protocol),
        *(record.tier_sha256, record.protocol_sha256, canonical_digest(record.overrides)),
        # Seeds that were measured on different numbers of images have no common mean.
        *(record.sa.n, record.ra.outcome.n, record.aa.outcome.n if record.aa else None),
    )


def _row(runs: Sequence[_Run]) -> Row:
    by_seed = {run.record.seed: run for run in sorted(runs, key=lambda run: (run.record.finished, run.file))}
    newest = [by_seed[seed] for seed in sorted(by_seed)]
    records = [run.record for run in newest]
    attacked = [record.aa for record in records if record.aa]
    first = records[0]
    return Row(
        method=first.method,
        label=_label(newest[0]),
        dataset=first.dataset,
        facts=newest[0].facts,
        tier=first.tier,
        fidelity=first.fidelity,
        protocol=first.protocol,
        protocol_sha256=first.protocol_sha256,
        overrides=first.overrides,
        sa=mean_score([record.sa for record in records]),
        ra=mean_score([record.ra.outcome for record in records]),
        aa=mean_score([aa.outcome for aa in attacked]) if attacked else None,
        aa_warnings=tuple(sorted({warning for aa in attacked for warning in aa.warnings})),
        pretraining_seconds=fmean(record.pretraining_seconds for record in records) or None,
        devices=tuple(sorted({record.environment.device for record in records})),
        seeds=tuple(record.seed for record in records),
        records=tuple(run.file for run in newest),
        superseded=len(runs) - len(newest),
    )


def mean_score(outcomes: Sequence[Outcome]) -> Score:
    """Return the mean over ``outcomes``, one a seed."""
    accuracies = [outcome.accuracy for outcome in outcomes]
    alone = len(outcomes) == 1
    return Score(
        accuracy=fmean(accuracies),
        std=None if alone else stdev(accuracies),
        interval=outcomes[0].interval if alone else None,
        n=outcomes[0].n,
    )


def _label(run: _Run) -> str:
    record = run.record
    departures = settings_text(record.overrides)
    norm = "L2 " if run.threat.norm == "l2" else ""
    radii = {record.ra.eps, record.aa.eps if record.aa else record.ra.eps}
    if norm or any(abs(eps - run.facts.eps) > 1e-9 for eps in radii):
        departures += [f"{norm}eps {eps_text(eps)}" for eps in sorted(radii)]
    if record.ra.steps != _PGD_STEPS or record.ra.restarts != 1:
        departures.append(f"PGD-{record.ra.steps}" + (f" x {record.ra.restarts}" if record.ra.restarts > 1 else ""))
    if record.aa and record.aa.version != "standard":
        departures.append(f"AutoAttack {record.aa.version}")
    return f"{record.title} {record.year}" + (f" ({', '.join(departures)})" if departures else "")


def _order(row: Row, tiers: Sequence[str]) -> tuple[Any, ...]:
    return (
        *(row.dataset, row.facts.sha256),
        *(_rank(tiers, row.tier), _rank(_FIDELITIES, row.fidelity), _rank(_PROTOCOLS, row.protocol)),
        *(-row.aa.accuracy if row.aa else 1.0, -row.ra.accuracy, -row.sa.accuracy),
        *(row.label, row.protocol_sha256, row.records),
    )


def _rank(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)
