"""From sweeps to rows: accuracy along a grid of eps or steps, the seeds of one recipe together."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import Settings
from bench.record import LOCAL, Record, Sweep, SweepSettings, load_sweep, sweep_files
from bench.results.groups import LeftOut
from bench.results.remarks import precision_text
from bench.results.scores import Score, mean_score
from bench.results.tier_forms import tier_forms, tier_text
from bench.results.wording import conditions_text, named, settings_text


class SweepKey(NamedTuple):
    """What sweeps must have in common to be compared."""

    dataset: str
    dataset_sha256: str
    tier: str
    fidelity: str
    pretrained_on: str | None
    precision: str
    protocol: str
    settings: SweepSettings

    @property
    def conditions(self) -> str:
        """The same in words, but for the data and the attack."""
        transfer = f"transfer from {self.pretrained_on}" if self.pretrained_on else ""
        departures = filter(None, (self.precision, transfer))
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


def read_sweeps(
    results_dir: Path, records: Iterable[Record] = (), *, local: bool = True
) -> tuple[tuple[SweepRow, ...], list[LeftOut]]:
    """Return the rows that the sweeps under ``results_dir`` make, and the files that had to be left out.

    ``records`` say which tier a sweep's classifier is of, where two tiers have one name.

    Rows of one table stand together, most accurate in the mean over the grid first.
    """
    groups: dict[Hashable, list[_Read]] = defaultdict(list)
    left_out: list[LeftOut] = []
    first_file: dict[str, str] = {}
    records = list(records)
    forms = tier_forms(records)
    tiers = {one.sha256: tier_text(one.tier, forms.get(one.tier_sha256, "")) for one in records}
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
        key = _key(sweep, tiers.get(sweep.record_sha256, sweep.tier))
        recipe = key, sweep.method, sweep.protocol_sha256, _label(sweep, file), sweep.outcomes[0].n
        groups[recipe].append(_Read(file, sweep, key))
    rows = sorted((_row(swept) for swept in groups.values()), key=_order)
    return tuple(rows), left_out


def _key(sweep: Sweep, tier: str) -> SweepKey:
    return SweepKey(
        *(sweep.dataset, sweep.dataset_sha256, tier, sweep.fidelity),
        *(sweep.pretrained_on, precision_text(sweep.overrides), sweep.protocol, sweep.settings),
    )


def _is_local(file: str) -> bool:
    return file.startswith(f"{LOCAL}/")


def _label(sweep: Sweep, file: str) -> str:
    departures = [*([LOCAL] if _is_local(file) else []), *settings_text(sweep.overrides)]
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
        label=_label(sweeps[0], newest[seeds[0]].file) + mixed,
        scores=tuple(mean_score(outcomes) for outcomes in zip(*(s.outcomes for s in sweeps), strict=True)),
        seeds=tuple(seeds),
        files=tuple(newest[seed].file for seed in seeds),
    )


def _order(row: SweepRow) -> tuple[object, ...]:
    key = row.key
    place = (key.dataset, key.dataset_sha256, key.tier, key.fidelity, key.pretrained_on or "")
    mean = sum(score.accuracy for score in row.scores) / len(row.scores)
    return (*place, key.precision, key.protocol, key.settings.model_dump_json(), -mean, row.label, row.files)
