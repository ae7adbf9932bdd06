"""From groups of records to rows: scores, cost, doubts and rank."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from pydantic import Field

from bench.recipe import ALL_PROTOCOLS, DatasetFacts, Settings, tier_names
from bench.record import Known, Record
from bench.results.groups import Group
from bench.results.measured import Measured
from bench.results.ranks import Standing, standings
from bench.results.remarks import (
    attack_text,
    budget_text,
    is_guessing,
    label,
    precision_text,
    reliability_flags,
    told_settings,
)
from bench.results.scores import CorruptionScore, Score, corruption_score, mean_score, ra_on_aa
from bench.results.tiers import tier_forms, tier_text
from bench.results.verifications import Verifications, checks, contested, verifiers
from bench.results.wording import DASH, conditions_text, departures_text, machine_text

_FIDELITIES = ("uniform", "native")


class TableKey(NamedTuple):
    """What rows must have in common to be compared."""

    dataset: str
    sha256: str
    tier: str
    """Its name, and its form where rows have several: a tier's file may change."""
    fidelity: str
    pretrained_on: str | None
    budget: str | None
    precision: str
    attack: str
    protocol: str

    @property
    def departures(self) -> list[str]:
        """How the rows differ from a plain run on the data: the adversary, precision, transfer, a budget."""
        return departures_text(self.attack, self.precision, pretrained_on=self.pretrained_on, budget=self.budget)

    @property
    def conditions(self) -> str:
        """All of it but the data, in words."""
        return conditions_text(self.protocol, self.tier, self.fidelity, self.departures)


def table_of(one: Measured, forms: Mapping[str, str] = {}) -> TableKey:
    """Return the table that a record stands in; ``forms`` are those of :func:`tier_forms`."""
    record, tier = one.record, tier_text(one.record.tier, forms.get(one.record.tier_sha256, ""))
    return TableKey(
        *(record.dataset, one.facts.sha256, tier, record.fidelity, record.pretrained_on),
        budget_text(one.recipe.budget),
        *(precision_text(record.overrides, record.ra.precision), attack_text(one), record.protocol),
    )


class Row(Settings):
    """One recipe under one protocol, over all seeds it was run with."""

    method: str
    title: str
    """The method's name in its paper."""
    label: str
    """The title and year, followed by all differences of the row from the tier's recipe."""
    local: bool
    """Whether it is of the user's own records, which are kept apart from the published ones."""
    known: Known
    """How its numbers are known."""
    verified: tuple[int, ...]
    """By seed: how many people have measured the record's weights again, and found the same."""
    checks: tuple[tuple[str, ...], ...]
    """By seed: who has measured them, when, where, and how many images differ."""
    dataset: str
    facts: DatasetFacts
    tier: str
    tier_form: str
    """Part of the digest of the tier's file, where the rows shown have several forms of it and this is an older one,
    or a user's own; otherwise empty."""
    fidelity: Literal["uniform", "native"]
    protocol: str
    pretrained_on: str | None
    """Another dataset that the encoder was pre-trained on."""
    encoder_seed: int | None
    """The seed of the one encoder that all of its seeds share; None: each has its own."""
    budget: str | None
    """The budget of pre-training, where its epochs follow from one."""
    precision: str
    """How the precision of training or of the attacks' gradients differs from the tier's; empty: not at all."""
    attack: str
    """How the adversary differs from the dataset's default; empty: not at all."""
    protocol_sha256: str
    overrides: dict[str, Any]
    rank: int | None = None
    """Place by AA in its table; rows that no test separates from the first of their group share it. None without AA,
    and where SA is no better than guessing."""
    tied: bool = False
    """Whether it shares its rank."""
    short: Standing | None = Field(default=None, exclude=True)
    """Its place among the :func:`short_rows` of its table; None: it is none of them, or has no rank."""
    sa: Score
    ra: Score
    aa: Score | None
    attacks: Score | None
    """Accuracy under the list of attacks; None: not all seeds have one."""
    ra_on_aa: Score | None
    """RA on the images that AA was measured on, where those are fewer; None: they are the same, or there is no AA."""
    corruptions: CorruptionScore | None
    aa_warnings: tuple[str, ...]
    """AutoAttack's own warnings, for any of the seeds."""
    flags: tuple[str, ...]
    """Other reasons to distrust the row."""
    pretraining_seconds: float | None
    """Wall-clock of all training stages, mean over the seeds; None for a method without one, and where ``machines`` are
    several: their times have no mean."""
    pretraining_flops: float | None
    """Floating-point operations of all training stages, mean over the seeds; None where not all were counted."""
    guessing: bool
    """Whether SA is no better than guessing for all seeds: the row stands below all others."""
    devices: tuple[str, ...]
    """Where the classifiers were evaluated."""
    machines: tuple[str, ...]
    """Where the training stages ran and their wall-clock was measured."""
    seeds: tuple[int, ...]
    records: tuple[str, ...]
    """The records' paths below the results folder, in the order of the seeds."""
    superseded: tuple[str, ...]
    """Older records of the same runs, which do not count."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """All reasons to distrust the row: AutoAttack's own warnings, then the flags."""
        return (*(f"AutoAttack warned: {warning}" for warning in self.aa_warnings), *self.flags)

    @property
    def table(self) -> TableKey:
        """What rows must have in common to be compared: data, scale, adversary and protocol."""
        tier = tier_text(self.tier, self.tier_form)
        return TableKey(
            *(self.dataset, self.facts.sha256, tier, self.fidelity, self.pretrained_on, self.budget),
            *(self.precision, self.attack, self.protocol),
        )


def make_rows(groups: Sequence[Group], results_dir: Path, verifications: Verifications) -> tuple[Row, ...]:
    """Return one row a group: those of one table together, best AA first, those without AA or guessing last."""
    tiers = tier_names()[::-1]
    forms = tier_forms(group.seeds[0].record for group in groups)
    rows = [(_row(group, results_dir, verifications, forms), group) for group in groups]
    rows.sort(key=lambda pair: _order(pair[0], tiers))
    ranked: list[Row] = []
    for _, table in groupby(rows, key=lambda pair: pair[0].table):
        pairs = list(table)
        short = set(map(id, short_rows([row for row, _ in pairs])))
        # Rows without AA and rows that guess come last and keep no rank.
        best = [(row, group) for row, group in pairs if row.aa and not row.guessing]
        among_short = iter(standings([group for row, group in best if id(row) in short]))
        for (row, _), place in zip(best, standings([group for _, group in best]), strict=True):
            in_short = next(among_short) if id(row) in short else None
            ranked.append(row.model_copy(update={**place._asdict(), "short": in_short}))
        ranked += [row for row, _ in pairs[len(best) :]]
    return tuple(ranked)


def short_rows(rows: Sequence[Row]) -> list[Row]:
    """Return those ``rows`` of one table that a short one shows: of each method the tier's own recipe, or else all.

    The user's own rows and the published ones are chosen apart.
    """
    own = {(row.method, row.local) for row in rows if not told_settings(row.overrides)}
    return [row for row in rows if not told_settings(row.overrides) or (row.method, row.local) not in own]


def _row(group: Group, results_dir: Path, verifications: Verifications, forms: Mapping[str, str]) -> Row:
    records = [one.record for one in group.seeds]
    attacked = [record.aa for record in records if record.aa]
    listed = [record.attacks for record in records if record.attacks]
    first, facts = records[0], group.seeds[0].facts
    table = table_of(group.seeds[0], forms)
    machines = _names(cost.device for record in records for cost in record.stage_costs.values())
    return Row(
        method=first.method,
        title=first.title,
        label=label(group.seeds[0]),
        local=group.seeds[0].local,
        known=first.known,
        verified=verifiers(group, verifications),
        checks=checks(group, verifications),
        dataset=first.dataset,
        facts=facts,
        tier=first.tier,
        tier_form=forms.get(first.tier_sha256, ""),
        fidelity=first.fidelity,
        protocol=first.protocol,
        pretrained_on=first.pretrained_on,
        encoder_seed=first.encoder_seed,
        budget=table.budget,
        precision=table.precision,
        attack=table.attack,
        protocol_sha256=first.protocol_sha256,
        overrides=first.overrides,
        sa=mean_score([record.sa for record in records]),
        ra=mean_score([record.ra.outcome for record in records]),
        aa=mean_score([aa.outcome for aa in attacked]) if attacked else None,
        attacks=mean_score([one.outcome for one in listed]) if len(listed) == len(records) else None,
        ra_on_aa=ra_on_aa(group),
        corruptions=corruption_score([record.corruptions for record in records]),
        aa_warnings=tuple(sorted({warning for aa in attacked for warning in aa.warnings})),
        flags=(*reliability_flags(group), *contested(group, verifications)),
        pretraining_seconds=fmean(record.pretraining_seconds for record in records) or None
        if len(machines) == 1
        else None,
        pretraining_flops=_mean_flops(records),
        guessing=all(map(is_guessing, group.seeds)),
        machines=machines,
        devices=_names(record.environment.device for record in records),
        seeds=tuple(record.seed for record in records),
        records=tuple(one.path.relative_to(results_dir).as_posix() for one in group.seeds),
        superseded=tuple(one.path.relative_to(results_dir).as_posix() for one in group.superseded),
    )


def rank_text(row: Row) -> str:
    """Return the rank of a row, with an equals sign where it is shared."""
    return DASH if row.rank is None else f"{row.rank}{'=' * row.tied}"


def known_text(row: Row) -> str:
    """Return how a row is known, with the number of people who verified each of its records."""
    if all(row.verified):
        return f"{row.known}, verified {min(row.verified)}x"
    verified = sum(map(bool, row.verified))
    return f"{row.known}, {verified} of {len(row.verified)} seeds verified" if verified else row.known


def row_names(rows: Sequence[Row]) -> list[str]:
    """Return the name of each row of one table.

    A default that changed between two versions gives two recipes one name; the hash distinguishes them.
    """
    count = Counter(row.label for row in rows)
    return [row.label if count[row.label] == 1 else f"{row.label}, recipe {row.protocol_sha256[:8]}" for row in rows]


def _mean_flops(records: Sequence[Record]) -> float | None:
    counted = [total for record in records if (total := record.pretraining_flops)]
    return fmean(counted) if len(counted) == len(records) else None


def _order(row: Row, tiers: Sequence[str]) -> tuple[Any, ...]:
    return (
        *(row.dataset, row.facts.sha256),
        *(_position(tiers, row.tier), row.tier_form, _position(_FIDELITIES, row.fidelity)),
        *(row.pretrained_on or "", row.budget or "", row.precision, row.attack, _position(ALL_PROTOCOLS, row.protocol)),
        *(row.guessing, -row.aa.accuracy if row.aa else 1.0, -row.ra.accuracy, -row.sa.accuracy),
        *(row.label, row.protocol_sha256, row.records),
    )


def _position(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _names(devices: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(map(machine_text, devices))))
