"""Which records belong together: seeds of one recipe under one protocol, the newest record of each run."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import Settings, canonical_digest
from bench.record import LOCAL, record_files
from bench.results.measured import Measured, load_measured
from bench.results.provenance import with_commits


class LeftOut(Settings):
    """A file among the results that cannot be trusted, and why."""

    file: str
    """Its path below the results folder."""
    reason: str


class Group(NamedTuple):
    """One recipe under one protocol, over all seeds it was run with."""

    seeds: tuple[Measured, ...]
    """The newest record of each seed, by seed."""
    superseded: tuple[Measured, ...]
    """Older records of the same runs, which do not count."""


def read_groups(
    results_dir: Path, dataset: str | None = None, *, local: bool = True
) -> tuple[list[Group], list[LeftOut]]:
    """Return the records under ``results_dir`` by recipe and protocol, and the files that had to be left out.

    Published and local records of one recipe are two groups, so that neither replaces the other.

    Args:
        results_dir: the results folder.
        dataset: read that dataset's folder only.
        local: whether to read the user's own records too.
    """
    measured, left_out = [], []
    own = record_files(results_dir / LOCAL) if local else ()
    for path in (*record_files(results_dir), *own):
        if dataset is not None and path.parent.name != dataset:
            continue
        try:
            measured.append(load_measured(path, local=path.parent.parent != results_dir))
        except BenchError as error:
            left_out.append(_left_out(results_dir, path, str(error).removeprefix(f"{path}: ")))
    trusted, doubles = _without_doubles(with_commits(measured))
    left_out += [_left_out(results_dir, path, reason) for path, reason in doubles]
    return [_group(runs) for runs in _grouped(trusted, _recipe_key)], sorted(left_out, key=lambda bad: bad.file)


def _left_out(results_dir: Path, path: Path, reason: str) -> LeftOut:
    return LeftOut(file=path.relative_to(results_dir).as_posix(), reason=reason)


def _without_doubles(measured: Sequence[Measured]) -> tuple[list[Measured], list[tuple[Path, str]]]:
    """Return the records to keep, and the paths of those that are there twice, each with the reason."""
    kept, doubles = [], []
    for same in _grouped(measured, lambda one: one.record.sha256):
        first, *others = same
        kept.append(first)
        doubles += [
            (one.path, f"the same record as {first.path.name}. Remove one of the two.")
            for one in others
            if one.local == first.local  # a local record that was published later is the same one, and counts once
        ]
    trusted = []
    for same in _grouped(kept, lambda one: (_recipe_key(one), one.record.seed, one.record.finished)):
        if len(same) == 1:
            trusted += same
            continue
        # The newest record of a run counts, and of these none is the newest: whichever was shown might be wrong.
        for one in same:
            names = " and ".join(other.path.name for other in same if other is not one)
            doubles.append((one.path, f"the same run, finished at the same moment, as {names}. Keep the right one."))
    return trusted, doubles


def _grouped(measured: Iterable[Measured], key: Callable[[Measured], Hashable]) -> Iterable[list[Measured]]:
    groups: dict[Hashable, list[Measured]] = defaultdict(list)
    for one in measured:
        groups[key(one)].append(one)
    return groups.values()


def _recipe_key(measured: Measured) -> Hashable:
    record = measured.record
    return (
        measured.local,
        *(record.method, record.dataset, measured.facts.sha256, record.tier, record.fidelity, record.protocol),
        *(record.tier_sha256, record.protocol_sha256, record.pretrained_on, canonical_digest(record.overrides)),
        # Seeds of the protocol alone, on one encoder, say nothing about the chance of pre-training.
        record.encoder_seed,
        # Seeds that were measured on different numbers of images have no common mean.
        *(record.sa.n, record.ra.outcome.n, record.aa.outcome.n if record.aa else None),
    )


def _group(runs: Sequence[Measured]) -> Group:
    in_time = sorted(runs, key=lambda one: (one.record.finished, one.path))
    newest = {one.record.seed: one for one in in_time}
    superseded = [one for one in in_time if newest[one.record.seed] is not one]
    return Group(tuple(newest[seed] for seed in sorted(newest)), tuple(superseded))
