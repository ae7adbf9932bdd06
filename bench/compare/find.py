"""From what the user types to a record: a file, a record's or a run's name."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.errors import BenchError, unknown
from bench.record import LOCAL, may_be_of_run, published_from, record_files
from bench.results import Measured, load_measured, read_corrections

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
    return name in measured.runs and protocol in (None, measured.record.protocol)


def _ambiguous(name: str, matches: Sequence[Path], protocol: str | None) -> BenchError:
    listing = "\n  - ".join(path.as_posix() for path in matches[:_LISTED])
    rest = f"\n  - and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
    more = "" if protocol else "; `bench compare` also takes --protocol, and compares methods with --dataset"
    return BenchError(f"{name!r} means {len(matches)} records:\n  - {listing}{rest}\nName one of them{more}.")
