"""From sweeps to rows: accuracy along a grid of eps or steps, the seeds of one recipe together."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import Settings
from bench.record import LOCAL, Record, Sweep, SweepSettings, load_sweep, sweep_files
from bench.results.groups import Group, LeftOut, grouped
from bench.results.remarks import budget_text, precision_text, recipe_departures
from bench.results.scores import Score, mean_score
from bench.results.tiers import tier_forms, tier_text
from bench.results.wording import conditions_text, departures_text, named


class SweepKey(NamedTuple):
    """What sweeps must have in common to be compared."""

    dataset: str
    dataset_sha256: str
    tier: str
    fidelity: str
    pretrained_on: str | None
    budget: str | None
    precision: str
    protocol: str
    settings: SweepSettings

    @property
    def conditions(self) -> str:
        """The same in words, but for the data and the attack."""
        departures = departures_text(self.precision, pretrained_on=self.pretrained_on, budget=self.budget)
        return conditions_text(self.protocol, self.tier, self.fidelity, departures)


class SweepRow(Settings):
    """One recipe under one protocol along one grid, over all seeds that were swept."""

    key: SweepKey
    method: str
    label: str
    scores: tuple[Score, ...]
    """One a value of the grid."""
    seeds: tuple[int, ...]
    files: tuple[str, ...]
    """The sweeps' paths below the results folder, in the order of the seeds."""


class _Read(NamedTuple):
    file: str
    sweep: Sweep
    key: SweepKey
    label: str


def read_sweeps(
    results_dir: Path, groups: Iterable[Group], hidden: Collection[str], *, local: bool = True
) -> tuple[tuple[SweepRow, ...], list[LeftOut]]:
    """Return the rows that the sweeps under ``results_dir`` make, and the files that had to be left out.

    ``groups`` hold the records of the classifiers, which say what no sweep does: the budget, the seed of a shared
    encoder, and which tier it is where two have one name. A sweep of a record in ``hidden``, the digests of those that
    the board does not show, is among neither.

    Rows of one table stand together, most accurate in the mean over the grid first.
    """
    found: list[_Read] = []
    left_out: list[LeftOut] = []
    first_file: dict[str, str] = {}
    attacked = {one.record.sha256: one.record for group in groups for one in group.every}
    forms = tier_forms(attacked.values())
    own = sweep_files(results_dir / LOCAL) if local else ()
    for path in (*sweep_files(results_dir), *own):
        file = path.relative_to(results_dir).as_posix()
        try:
            sweep = load_sweep(path)
        except BenchError as error:
            left_out.append(LeftOut(file=file, reason=str(error).removeprefix(f"{path}: ")))
            continue
        if sweep.sha256 in first_file:
            if _is_local(file) == _is_local(first_file[sweep.sha256]):  # else it was published later, and counts once
                reason = f"the same sweep as {first_file[sweep.sha256]}. Remove one of the two."
                left_out.append(LeftOut(file=file, reason=reason))
            continue
        first_file[sweep.sha256] = file
        if sweep.record_sha256 in hidden:
            continue
        record = attacked.get(sweep.record_sha256)
        label = sweep_label(sweep, record, local=_is_local(file))
        found.append(_Read(file, sweep, sweep_key(sweep, record, forms), label))
    return tuple(sorted(map(_row, grouped(found, _recipe)), key=_order)), left_out


def _recipe(one: _Read) -> Hashable:
    return one.key, one.sweep.method, one.sweep.protocol_sha256, one.label, one.sweep.outcomes[0].n


def sweep_key(sweep: Sweep, record: Record | None, forms: Mapping[str, str]) -> SweepKey:
    """Return the table of ``sweep``; ``record`` is its classifier's, and ``forms`` are of :func:`tier_forms`."""
    form = forms.get(record.tier_sha256, "") if record else ""
    budget = budget_text(record.read_recipe().budget) if record else None
    return SweepKey(
        *(sweep.dataset, sweep.dataset_sha256, tier_text(sweep.tier, form), sweep.fidelity, sweep.pretrained_on),
        *(budget, precision_text(sweep.overrides), sweep.protocol, sweep.settings),
    )


def _is_local(file: str) -> bool:
    return file.startswith(f"{LOCAL}/")


def sweep_label(sweep: Sweep, record: Record | None, *, local: bool) -> str:
    """Return the name of the row of ``sweep``; ``record`` is its classifier's."""
    departures = recipe_departures(sweep, local=local, encoder_seed=record.encoder_seed if record else None)
    return named(f"{sweep.title} {sweep.year}", departures)


def _row(swept: Sequence[_Read]) -> SweepRow:
    in_time = sorted(swept, key=lambda one: (one.sweep.finished, one.file))
    newest = {one.sweep.seed: one for one in in_time}
    seeds = sorted(newest)
    sweeps = [newest[seed].sweep for seed in seeds]
    drawn = {sweep.start_drawn for sweep in sweeps}
    mixed = " (noise per batch and per image)" if len(drawn) > 1 else ""
    return SweepRow(
        key=swept[0].key,
        method=sweeps[0].method,
        label=swept[0].label + mixed,
        scores=tuple(mean_score(outcomes) for outcomes in zip(*(s.outcomes for s in sweeps), strict=True)),
        seeds=tuple(seeds),
        files=tuple(newest[seed].file for seed in seeds),
    )


def _order(row: SweepRow) -> tuple[object, ...]:
    key = row.key
    place = (key.dataset, key.dataset_sha256, key.tier, key.fidelity, key.pretrained_on or "")
    mean = sum(score.accuracy for score in row.scores) / len(row.scores)
    return (
        *place,
        key.budget or "",
        key.precision,
        key.protocol,
        key.settings.model_dump_json(),
        -mean,
        row.label,
        row.files,
    )
