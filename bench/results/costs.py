"""The costs of runs, from their records: a table holds only costs of one machine under the same conditions."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from bench.errors import Faults
from bench.own_code import is_own
from bench.recipe import PROTOCOLS, Settings, outside
from bench.record import COST_REFERENCE, LOCAL, Phase, PhaseCost, Record
from bench.results.groups import LeftOut, grouped, left_out_of, no_records, read_groups
from bench.results.measured import Measured
from bench.results.remarks import budget_text, precision_text
from bench.results.tiers import tier_forms
from bench.results.wording import machine_text, named, settings_text


class MeasuredStage(Settings):
    """One stage, mean over the seeds; what any of them did not measure is absent."""

    stage: str
    seconds: float
    images_per_second: float | None
    flops_per_image: float | None
    peak_memory_bytes: float | None
    energy_joules: float | None


class MeasuredCost(Settings):
    """The pre-training of one recipe."""

    method: str
    label: str
    """The method's title, followed by "local" if it is, by its name if it is from a file, and by how pre-training
    differs from the tier's recipe."""
    local: bool
    seeds: int
    stages: tuple[MeasuredStage, ...]
    total_seconds: float
    total_flops: float | None
    energy_joules: float | None
    to_reference: float | None
    """Its seconds as a multiple of the reference's in the same table, for a local row the local one's if any; None
    without one reference there."""


class CostConditions(Settings):
    """What costs must have in common to be compared."""

    dataset: str
    sha256: str
    """Of the data."""
    tier: str
    tier_sha256: str
    fidelity: str
    precision: str
    """How the precision of pre-training differs from the tier's; empty: not at all."""
    device: str
    threads: int


class MeasuredTable(CostConditions):
    """Recipes under the same conditions, the cheapest first."""

    tier_form: str = ""
    """What tells the tier apart from another of its name."""

    reference: str
    """Title of the reference, of whose cost the other costs are multiples."""
    rows: tuple[MeasuredCost, ...]


def measured_costs(
    results_dir: Path,
    methods: Sequence[str] | None = None,
    reference: str = COST_REFERENCE,
    *,
    dataset: str | None = None,
    tier: str | None = None,
) -> tuple[list[MeasuredTable], list[LeftOut]]:
    """Return the costs of all pre-training in the records under ``results_dir``.

    Args:
        reference: the method of whose cost the others are multiples, shown or not.
        dataset: of pre-training; None: any.
        tier: None: any.

    Returns:
        the tables, and the files that had to be left out, those in the folder of ``dataset`` if one is named.

    Raises:
        BenchError: no method called as one of ``methods`` or ``reference``, here or in the records; or no costs of
            ``dataset`` or of ``tier``.
    """
    groups, left_out, *_ = read_groups(results_dir)
    recorded, faults = {one.record.method for group in groups for one in group.seeds}, Faults()
    for name in methods or ():
        if name not in recorded:
            with faults:
                _installed(name)
    measured = [one for group in groups for one in group.seeds if one.record.stage_costs]
    held = {
        "dataset": (dataset, {one.recipe.dataset.name for one in measured}),
        "tier": (tier, {one.record.tier for one in measured}),
    }
    for kind, (wanted, names) in held.items():
        if wanted is not None and wanted not in names:
            with faults:
                raise no_records(kind, wanted, names, what="pre-training costs")
    faults.refuse()
    titles = {one.record.method: one.record.title for one in measured}
    title = titles.get(reference) or _installed(reference)
    forms = tier_forms(one.record for one in measured)
    tables = [_table(same, reference, title, forms) for same in grouped(measured, _common)]
    if methods is not None:
        kept = [[row for row in table.rows if row.method in methods] for table in tables]
        tables = [
            table.model_copy(update={"rows": tuple(rows)}) for table, rows in zip(tables, kept, strict=True) if rows
        ]
    tables = [table for table in tables if dataset in (None, table.dataset) and tier in (None, table.tier)]
    return sorted(tables, key=_order), left_out_of(left_out, dataset)


def _installed(method: str) -> str:
    from bench.method import METHODS  # imports torch, which no table needs

    return METHODS.get(method).info.title


def _order(table: MeasuredTable) -> tuple[str | int, ...]:
    return table.dataset, table.sha256, table.tier, table.fidelity, table.precision, table.device, table.threads


def _common(one: Measured) -> CostConditions:
    record = one.record
    data = one.recipe.dataset  # of pre-training: in transfer, the record names other data
    return CostConditions(
        dataset=data.name,
        sha256=data.sha256,
        tier=record.tier,
        tier_sha256=record.tier_sha256,
        fidelity=record.fidelity,
        precision=precision_text(outside(record.overrides, *PROTOCOLS)),
        device=" and ".join(sorted({machine_text(cost.device) for cost in record.stage_costs.values()})),
        threads=_threads(record),
    )


def _threads(record: Record) -> int:
    """Return the CPU threads of pre-training, or of the record's writer where those are not known."""
    stages = (str(Phase("stage", name)) for name in record.stage_costs)
    ran = [one for stage in stages for one in record.environments.get(stage, ()) if one]
    return (ran or [record.environment])[0].threads


def _table(measured: Sequence[Measured], reference: str, title: str, forms: Mapping[str, str]) -> MeasuredTable:
    costs, own = [_cost(same) for same in grouped(measured, _pretraining)], _own_name(reference)
    plain = [cost for cost in costs if cost.label in (named(title, own), named(title, [LOCAL, *own]))]
    costs = [_beside(cost, [one for one in plain if one.local == cost.local] or plain) for cost in costs]
    rows = tuple(sorted(costs, key=lambda cost: (cost.total_seconds, cost.label)))
    form = forms.get(measured[0].record.tier_sha256, "")
    return MeasuredTable(**_common(measured[0]).model_dump(), tier_form=form, reference=title, rows=rows)


def _beside(cost: MeasuredCost, references: Sequence[MeasuredCost]) -> MeasuredCost:
    """Return ``cost`` as a multiple of the one of ``references``; of several of one name none can be the unit."""
    if len(references) != 1 or not references[0].total_seconds:
        return cost
    return cost.model_copy(update={"to_reference": cost.total_seconds / references[0].total_seconds})


def _pretraining(one: Measured) -> Hashable:
    return one.local, one.record.pretraining_sha256, one.recipe.budget


def _cost(measured: Sequence[Measured]) -> MeasuredCost:
    """Return the cost of one recipe's pre-training, from all its records."""
    # A run has a record for each protocol, and all of them repeat the costs of its stages.
    runs = list({one.record.pretraining_seed: one.record for one in measured}.values())
    stages = tuple(_stage(name, [record.stage_costs[name] for record in runs]) for name in runs[0].stage_costs)
    first = runs[0]
    return MeasuredCost(
        method=first.method,
        label=_label(measured[0]),
        local=measured[0].local,
        seeds=len(runs),
        stages=stages,
        total_seconds=fmean(record.pretraining_seconds for record in runs),
        total_flops=_mean(record.pretraining_flops for record in runs),
        energy_joules=_sum(stage.energy_joules for stage in stages),
        to_reference=None,
    )


def _stage(name: str, costs: Sequence[PhaseCost]) -> MeasuredStage:
    return MeasuredStage(
        stage=name,
        seconds=fmean(cost.seconds for cost in costs),
        images_per_second=_mean(cost.images_per_second for cost in costs),
        flops_per_image=_mean(cost.flops_per_image for cost in costs),
        peak_memory_bytes=_mean(cost.peak_memory_bytes for cost in costs),
        energy_joules=_mean(cost.energy_joules for cost in costs),
    )


def _label(one: Measured) -> str:
    record = one.record
    own = outside(record.overrides, *PROTOCOLS, "evaluate")  # which pre-training does not read
    budget = budget_text(one.recipe.budget)
    departures = [*([LOCAL] if one.local else []), *_own_name(record.method)]
    return named(record.title, [*departures, *settings_text(own), *([f"budget {budget}"] if budget else [])])


def _own_name(method: str) -> list[str]:
    """Return what tells a method from a file from the installed one whose title it may have kept."""
    return [method] if is_own(method) else []


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else fmean(value for value in known if value is not None)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
