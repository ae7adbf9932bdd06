"""Which records belong together: the seeds of one recipe under one protocol."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.errors import BenchError, unknown
from bench.recipe import ALL_PROTOCOLS, SECTIONS, Settings, TrainPlan, canonical_digest, tier_names
from bench.record import LOCAL, Correction, Record, may_be_of, record_files
from bench.results.corrections import read_corrections
from bench.results.measured import Measured, load_all
from bench.results.wording import conditions_text, named, settings_text

T = TypeVar("T")


class LeftOut(Settings):
    """A file among the results that cannot be trusted, and why."""

    file: str
    """Its path below the results folder."""
    reason: str


def left_out_of(left_out: Iterable[LeftOut], dataset: str | None) -> list[LeftOut]:
    """Return those of ``left_out`` that lie in the folder of ``dataset``; None: all."""
    return [bad for bad in left_out if dataset in (None, *Path(bad.file).parts)]


class Failed(LeftOut):
    """A record whose evaluation failed a check of the doctor: no result, but named below the tables."""

    sha256: str
    """Digest of the record."""
    dataset: str
    protocol: str
    tier: str
    settings: tuple[str, ...]
    """How its recipe departs from the tier's, as a user would type it."""
    row: str
    """Method, settings, conditions and seed, in words."""

    @property
    def said(self) -> str:
        """What to say of it beside the results."""
        return f"not shown as a result: {self.row}: the evaluation {self.reason} ({self.file})"


class Group(NamedTuple):
    """One recipe under one protocol, over all seeds it was run with."""

    seeds: tuple[Measured, ...]
    """The newest record of each seed, by seed."""
    superseded: tuple[Measured, ...]
    """Older records of the same runs, which do not count."""

    @property
    def every(self) -> tuple[Measured, ...]:
        """All its records, those that count first."""
        return self.seeds + self.superseded


class Found(NamedTuple):
    """The records under a results folder: those that count, and what had to be left out."""

    groups: list[Group]
    """By recipe and protocol."""
    left_out: list[LeftOut]
    """Files that cannot be trusted, among them records whose evaluation failed a check, as :class:`Failed`."""
    corrections: tuple[Correction, ...]
    """Of records that were withdrawn or superseded, which are among neither."""
    hidden: frozenset[str]
    """Digests of the records that are sound files but no results: corrected, failed, or older ones of a failed seed."""


def refuse_missing(results_dir: Path, *, named: str = "--results-dir") -> None:
    """Raise BenchError if there is no such results folder; it can be ``named`` by that option or argument."""
    if not results_dir.is_dir():
        file = f"{results_dir} is a file, not a results folder"
        raise BenchError(
            f"{file if results_dir.exists() else f'there is no results folder {results_dir}'}. Name one with {named}, "
            "or let `bench run deacl --dataset digits` make the first record."
        )


def no_records(
    kind: str, name: str, held: Iterable[str], *, what: str = "records", on: str = "", hint: str = ""
) -> BenchError:
    """Return the error for a ``name`` that no record has: one that exists lacks records, and another is unknown.

    Args:
        kind: "dataset", "protocol", "tier" or "method"; of a method also one that begins with ``local/``.
        name: what the user wrote.
        held: the names of that kind that have records.
        what: the kind of records, in the plural.
        on: which records these are, such as "digits, slf".
        hint: a closing sentence for a name that exists.
    """
    names, where = sorted(held), f" on {on}" if on else ""
    if names and not _exists(kind, name):
        told = f"Those are all with {what}{where}." if on else ""
        own = kind == "dataset" and ":" in name
        return unknown(kind, name, names, "Own data are named after their file or folder." if own else told)
    there = f"; there are of: {', '.join(names)}" if names else ""
    hint = hint or ("" if names else "`bench run deacl --dataset digits` makes one.")
    return BenchError(f"there are no {what} of {kind} {name}{where}{there}. {hint}".rstrip())


def _exists(kind: str, name: str) -> bool:
    if kind in ("protocol", "tier"):
        return name in (ALL_PROTOCOLS if kind == "protocol" else tier_names())
    from bench.data import DATASETS  # these import torch, which reading records does without
    from bench.method import METHODS

    return name in DATASETS if kind == "dataset" else name.removeprefix(f"{LOCAL}/") in METHODS


def read_groups(
    results_dir: Path,
    dataset: str | None = None,
    method: str | None = None,
    *,
    local: bool = True,
    history: bool = False,
) -> Found:
    """Return the records under ``results_dir`` by recipe and protocol, and what had to be left out.

    Published and local records of one recipe are two groups, so that neither replaces the other.

    Args:
        results_dir: the results folder.
        dataset: read that dataset's folder only.
        method: do not read files that are named as another method's.
        local: whether to read the user's own records too.
        history: whether the records keep their histories of training.
    """
    folders = [results_dir, results_dir / LOCAL][: 1 + local]
    files = [(path, folder != results_dir) for folder in folders for path in record_files(folder)]
    wanted = [
        (path, own)
        for path, own in files
        if dataset in (None, path.parent.name) and (method is None or may_be_of(path, method))
    ]
    measured, faults = load_all(wanted, history=history)
    corrections = read_corrections(results_dir, measured, local=local)
    trusted, doubles = _without_doubles(_with_commits(corrections.counting(measured)))
    left_out = [
        LeftOut(file=path.relative_to(results_dir).as_posix(), reason=reason)
        for path, reason in (*faults, *corrections.faults, *doubles)
    ]
    groups = [_group(runs) for runs in grouped(trusted, _recipe_key)]
    failed = [_failed(one, results_dir) for group in groups for one in group.seeds if one.record.diagnosed("fail")]
    sound = [group for group in map(_sound, groups) if group.seeds]
    hidden = corrections.withdrawn | (_digests(groups) - _digests(sound))
    left_out = sorted((*left_out, *failed), key=lambda bad: bad.file)
    return Found(sound, left_out, corrections.found, hidden)


def _digests(groups: Iterable[Group]) -> set[str]:
    return {one.record.sha256 for group in groups for one in group.every}


def _sound(group: Group) -> Group:
    """Return ``group`` without the seeds that failed a check: no older record takes the place of one that did."""
    seeds = {one.record.seed: one for one in group.seeds if not one.record.diagnosed("fail")}
    return Group(tuple(seeds.values()), tuple(one for one in group.superseded if one.record.seed in seeds))


def _failed(one: Measured, results_dir: Path) -> Failed:
    record, settings = one.record, settings_text(one.record.overrides)
    conditions = conditions_text(record.protocol, record.tier, record.fidelity, ())
    return Failed(
        file=one.path.relative_to(results_dir).as_posix(),
        reason="; ".join(failed.said for failed in record.diagnosed("fail")),
        sha256=record.sha256,
        dataset=record.dataset,
        protocol=record.protocol,
        tier=record.tier,
        settings=tuple(settings),
        row=f"{named(f'{record.title} {record.year}', settings)}, {conditions}, seed {record.seed}",
    )


def _without_doubles(measured: Sequence[Measured]) -> tuple[list[Measured], list[tuple[Path, str]]]:
    """Return the records to keep, and the paths of duplicates, each with the reason."""
    kept, doubles = [], []
    for same in grouped(measured, lambda one: one.record.sha256):
        first, *others = same
        kept.append(first)
        doubles += [
            (one.path, f"the same record as {first.path.name}. Remove one of the two.")
            for one in others
            if one.local == first.local  # a local record that was published later is the same one, and counts once
        ]
    trusted = []
    for same in grouped(kept, lambda one: (_recipe_key(one), one.record.seed, one.record.finished)):
        if len(same) == 1:
            trusted += same
            continue
        # The newest record of a run counts, but none of these is the newest: either might be wrong.
        for one in same:
            names = " and ".join(other.path.name for other in same if other is not one)
            doubles.append((one.path, f"the same run, finished at the same moment, as {names}. Keep the right one."))
    trusted, copied = _without_copied_seeds(trusted)
    return trusted, [*doubles, *copied]


def _without_copied_seeds(measured: Sequence[Measured]) -> tuple[list[Measured], list[tuple[Path, str]]]:
    """Return the records to keep, and those of several seeds that share one trained classifier, each with the reason.

    Training never ends with the same weights twice.
    """
    kept, copied = [], []
    for same in grouped(measured, lambda one: (_recipe_key(one), one.record.classifier_sha256)):
        seeds = {one.record.seed for one in same}
        if len(seeds) == 1 or not _is_trained(same[0].record.protocol):
            kept += same
            continue
        said = f"its classifier is that of seeds {', '.join(map(str, sorted(seeds)))}, and no two seeds train the same"
        copied += [(one.path, f"{said}. Keep the right one.") for one in same]
    return kept, copied


def _is_trained(protocol: str) -> bool:
    """Return whether the classifier is trained by the protocol, so that its seed shows in the weights."""
    return protocol in SECTIONS and issubclass(SECTIONS[protocol], TrainPlan)


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Return ``items`` in groups of equal ``key``, in the order in which the keys and the items first appear."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _recipe_key(measured: Measured) -> Hashable:
    record = measured.record
    return (
        measured.local,
        *(record.method, record.dataset, measured.facts.sha256, record.tier, record.fidelity, record.protocol),
        *(record.tier_sha256, record.protocol_sha256, record.pretrained_on, canonical_digest(record.overrides)),
        # Seeds of the protocol alone, on one encoder, do not show the variation of pre-training.
        record.encoder_seed,
        # Seeds that were measured on different numbers of images have no common mean.
        *(record.sa.n, record.ra.outcome.n, record.aa.outcome.n if record.aa else None),
    )


def _group(runs: Sequence[Measured]) -> Group:
    in_time = sorted(runs, key=lambda one: (one.record.finished, one.path))
    newest = {one.record.seed: one for one in in_time}
    superseded = [one for one in in_time if newest[one.record.seed] is not one]
    return Group(tuple(newest[seed] for seed in sorted(newest)), tuple(superseded))


def _with_commits(measured: Sequence[Measured]) -> list[Measured]:
    """Return ``measured``, each with the commits that records name for its trainings, where there are several.

    Before schema version 3 a record named the commit of the process that wrote it, whichever commit had trained its
    stages. A training is recognised by its stage, its seconds to the last digit and its images.
    """
    commits: dict[Hashable, set[str]] = defaultdict(set)
    for one in measured:
        for _, training in _trainings(one.record):
            commits[training].add(one.record.environment.commit or "unknown")
    return [
        one._replace(
            commits={
                stage: tuple(sorted(commits[training]))
                for stage, training in _trainings(one.record)
                if len(commits[training]) > 1
            }
        )
        for one in measured
    ]


def _trainings(record: Record) -> Iterator[tuple[str, Hashable]]:
    if record.environments:
        return
    for stage, cost in record.stage_costs.items():
        if cost.seconds:
            yield stage, (record.dataset, stage, cost.seconds, cost.images)
