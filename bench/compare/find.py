"""From what the user types to records: a file, a record's or a run's name, or a method over its seeds."""

import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.errors import BenchError, unknown
from bench.own_code import typed
from bench.record import LOCAL, may_be_of, may_be_of_run, published_from, record_files
from bench.results import (
    Failed,
    Group,
    Measured,
    budget_text,
    counted,
    departures_text,
    load_measured,
    named,
    no_records,
    read_corrections,
    read_groups,
    settings_text,
    tier_called,
    tier_forms,
    tier_text,
)

_LISTED = 10
"""Records that a message lists at most."""
_LOCAL = f"{LOCAL}/"
"""The beginning of a name that means only the user's own records."""


def find_record(name: str, results_dir: Path, *, protocol: str | None = None) -> Measured:
    """Return the record that ``name`` means.

    Args:
        name: a file, also as the card of a submission calls one that was published since; or, under ``results_dir``, a
            record's name without its ending, with or without its folder, or the beginning of exactly one; or a run's
            name, as `bench runs` lists it. Published records are searched before the local ones, unless it starts with
            ``local/``; and of several, those that were withdrawn or superseded do not count.
        results_dir: where names are looked up.
        protocol: which of a run's records to take.

    Raises:
        BenchError: nothing, or more than one record, has that name; or it cannot be trusted.
    """
    if not name:
        raise BenchError("the name of a record is empty. `bench compare` takes a file, a record, a run or a method.")
    for path in (Path(name), published_from(Path(name))):
        if path.is_file():
            return load_measured(path)
    wanted = name.removesuffix(".json").removeprefix(_LOCAL)
    folders = [results_dir / LOCAL] if name.startswith(_LOCAL) else [results_dir, results_dir / LOCAL]
    files = [(folder, list(record_files(folder))) for folder in folders]
    for fits in (_is_named, partial(_is_of_run, protocol=protocol), _is_named_without_digest, _begins):
        for folder, paths in files:
            matches = [path for path in paths if fits(path, wanted)]
            if len(matches) > 1:
                matches = _counting(matches, results_dir) or matches
            if len(matches) == 1:
                return load_measured(matches[0], local=folder != results_dir)
            if matches:
                raise _ambiguous(name, matches, protocol)
    names = [path for _, paths in files for path in paths]
    if not names:
        raise BenchError(f"there are no records in {results_dir}. `bench run deacl --dataset digits` makes one.")
    if protocol and (of_run := [path for path in names if _is_of_run(path, wanted, None)]):
        held = sorted({load_measured(path).record.protocol for path in of_run})
        raise BenchError(f"the run {name} has no record of {protocol}. Type --protocol {' or '.join(held)}")
    hint = f"`bench runs` lists the runs, and {results_dir} holds the records; to compare methods, add --dataset."
    raise unknown("record", name, [path.stem for path in names], hint)


def find_seeds(
    method: str,
    results_dir: Path,
    *,
    dataset: str,
    protocol: str = "slf",
    tier: str | None = None,
    fidelity: str = "uniform",
    precision: str | None = None,
) -> Group:
    """Return the records of ``method`` on ``dataset`` under ``protocol``, one a seed.

    Published records are preferred to local ones, unless ``method`` starts with ``local/``; and the tier's own recipe,
    but for its ``precision`` where one is named, to one with overrides, transfer or a budget.

    Raises:
        BenchError: there are none, none that counts, or several recipes and nothing to choose by.
    """
    fits = partial(_fits, protocol=protocol, tier=tier, fidelity=fidelity, precision=precision)
    name, own = method.removeprefix(_LOCAL), method.startswith(_LOCAL)
    groups, left_out, corrections, _ = read_groups(results_dir, dataset, name)
    every = [group for group in groups if fits(group) and group.seeds[0].record.method == name]
    local = [group for group in every if group.seeds[0].local]
    found = local if own else [group for group in every if group not in local] or local
    failed = [
        one for one in left_out if isinstance(one, Failed) and one.protocol == protocol and tier in (None, one.tier)
    ]
    if not found and failed:
        raise BenchError(
            f"{method} has no record to compare: the evaluation in {failed[0].file} {failed[0].reason}. "
            "`bench doctor` says what to do."
        )
    if not found:
        where = ", ".join(filter(None, (dataset, protocol, tier, fidelity, precision)))
        corrected = [one.record for one in corrections if one.dataset == dataset]
        paths = [results_dir / record for record in corrected if own <= record.startswith(_LOCAL)]
        known = [load_measured(path) for path in paths if path.is_file() and may_be_of(path, name)]
        gone = [one for one in known if one.record.method == name and fits(Group((one,), ()))]
        counted(gone, results_dir).refuse_none(f"{method} on {where}")
        groups = read_groups(results_dir, dataset).groups
        if not groups:
            folders = (results_dir, results_dir / LOCAL)
            held = {path.parent.name for folder in folders for path in record_files(folder)} - {dataset}
            raise no_records("dataset", dataset, held)
        records = [group.seeds[0].record for group in groups]
        forms = tier_forms(records)
        tiers = {
            name for each in records for name in (each.tier, tier_text(each.tier, forms.get(each.tier_sha256, "")))
        }
        if tier not in (None, *tiers):
            raise no_records("tier", str(tier), tiers, on=dataset)
        names = {_LOCAL * one.local + one.record.method for group in filter(fits, groups) for one in group.seeds[:1]}
        from bench.data import typed_source  # imports torch, which reading records does without

        words = ["bench", "run", typed(name), "--dataset", typed_source(dataset), "--protocols", protocol]
        hint = f"`{shlex.join(words)}` makes one"
        of_method = [one for group in groups for one in group.seeds if one.record.method == name and own <= one.local]
        if others := sorted({one.record.protocol for one in of_method} - {protocol}):
            hint += f"; there are some under {' and '.join(others)}: type --protocol {others[0]}"
        raise no_records("method", method, names, on=where, hint=f"{hint}.")
    chosen = [group for group in found if _as_it_stands(group, precision)] or found
    forms = tier_forms(group.seeds[0].record for group in chosen)
    chosen = [group for group in chosen if not forms.get(group.seeds[0].record.tier_sha256)] or chosen
    if len(chosen) > 1:
        raise _several(method, [group.seeds for group in chosen])
    return chosen[0]


def _several(method: str, recipes: Sequence[Sequence[Measured]]) -> BenchError:
    """Return the error for a ``method`` whose records are of several ``recipes``, with the options that tell them."""
    listing, told = [], {"--tier": set[str | None](), "--precision": set[str | None]()}
    for seeds in recipes:
        record, budget = seeds[0].record, budget_text(seeds[0].recipe.budget)
        own = departures_text(*settings_text(record.overrides), pretrained_on=record.pretrained_on, budget=budget)
        listing.append(named(", ".join(str(one.path) for one in seeds), own))
        told["--tier"].add(record.tier)
        told["--precision"].add(record.overrides.get("precision"))
    options = " or ".join(option for option, values in told.items() if len(values) > 1)
    choice = f"Choose with {options}, or compare" if options else "Compare"
    lines = "".join(f"\n  - {line}" for line in listing)
    return BenchError(f"{method} has records of {len(recipes)} recipes there:{lines}\n{choice} two of these files.")


def _counting(paths: Sequence[Path], results_dir: Path) -> list[Path]:
    """Return those of ``paths`` whose record was neither withdrawn nor superseded."""
    measured = [load_measured(path) for path in paths]
    return [one.path for one in read_corrections(results_dir, measured).counting(measured)]


def _names(path: Path) -> tuple[str, str]:
    return path.stem, f"{path.parent.name}/{path.stem}"


def _is_named(path: Path, name: str) -> bool:
    return name in _names(path)


def _is_named_without_digest(path: Path, name: str) -> bool:
    return any(re.fullmatch(r"-[0-9a-f]{8}(\.\d+)?", each.removeprefix(name)) for each in _names(path))


def _begins(path: Path, name: str) -> bool:
    return any(each.startswith(name) for each in _names(path))


def _is_of_run(path: Path, name: str, protocol: str | None) -> bool:
    if not may_be_of_run(path, name):  # so that few files have to be opened
        return False
    measured = load_measured(path)
    return name in _with_and_without_digest(measured.run) and protocol in (None, measured.record.protocol)


def _with_and_without_digest(run: str) -> tuple[str, str]:
    return run, run.rpartition("-")[0]


def _ambiguous(name: str, matches: Sequence[Path], protocol: str | None) -> BenchError:
    listing = "\n  - ".join(path.as_posix() for path in matches[:_LISTED])
    rest = f"\n  - and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
    more = "" if protocol else "; `bench compare` also takes --protocol, and compares methods with --dataset"
    return BenchError(f"{name!r} means {len(matches)} records:\n  - {listing}{rest}\nName one of them{more}.")


def _fits(group: Group, *, protocol: str, tier: str | None, fidelity: str, precision: str | None) -> bool:
    record = group.seeds[0].record
    same = record.protocol == protocol and record.fidelity == fidelity
    return same and tier in (None, *tier_called(record)) and precision in (None, record.overrides.get("precision"))


def _as_it_stands(group: Group, precision: str | None) -> bool:
    first = group.seeds[0]
    record = first.record
    lent = record.pretrained_on is not None or record.encoder_seed is not None
    named = {} if precision is None else {"precision": precision}
    return record.overrides == named and not lent and first.recipe.budget is None
