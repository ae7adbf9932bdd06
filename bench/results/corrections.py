"""Corrections among the results: the records that no longer count."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from bench.errors import BenchError
from bench.record import LOCAL, Correction, Record, correction_files, load_correction
from bench.results.measured import Fault, Measured

NEW_RECORD = (
    "The command that made it only reads it again. Add another --runs-dir to it to train everything anew, or move the "
    "protocol's folder out of that of the run to keep the encoder; either writes a new record."
)
"""How to get a record that counts in the place of one that was withdrawn."""


class _Recorded(Protocol):
    @property
    def record(self) -> Record: ...


R = TypeVar("R", bound=_Recorded)


class Corrections(NamedTuple):
    """The corrections under a results folder, and the files among them that cannot be trusted."""

    found: tuple[Correction, ...]
    """By the record's path."""
    faults: tuple[Fault, ...]

    def counting(self, found: Iterable[R]) -> list[R]:
        """Return those of ``found`` whose record is not corrected."""
        withdrawn = self.withdrawn
        return [one for one in found if one.record.sha256 not in withdrawn]

    @property
    def withdrawn(self) -> frozenset[str]:
        """The digests of the records that are corrected."""
        return frozenset(correction.record_sha256 for correction in self.found)


def read_corrections(results_dir: Path, measured: Sequence[Measured], *, local: bool = True) -> Corrections:
    """Return the corrections under ``results_dir``.

    One of a record in ``measured`` that has changed is a fault, and so is one that names a record to count instead
    which is not there, or is itself superseded by the same one.
    """
    held = {one.path.relative_to(results_dir).as_posix(): one.record.sha256 for one in measured}
    found, faults = dict[Path, Correction](), list[Fault]()
    for folder in [results_dir, results_dir / LOCAL][: 1 + local]:
        for path in correction_files(folder):
            try:
                correction = load_correction(path)
            except BenchError as error:
                faults.append(Fault(path, str(error).removeprefix(f"{path}: ")))
                continue
            if held.get(correction.record, correction.record_sha256) != correction.record_sha256:
                reason = f"it corrects another record than {correction.record} holds now. Remove it, or restore that."
                faults.append(Fault(path, reason))
            else:
                found[path] = correction
    by_record = {one.record: one for one in found.values()}
    nothing_instead = {path: _nothing_instead(one, by_record, results_dir) for path, one in found.items()}
    faults += [
        Fault(path, f"{reason}. Remove it, or restore that.") for path, reason in nothing_instead.items() if reason
    ]
    sound = [one for path, one in found.items() if not nothing_instead[path]]
    return Corrections(tuple(sorted(sound, key=lambda one: one.record)), tuple(faults))


def _nothing_instead(one: Correction, by_record: Mapping[str, Correction], results_dir: Path) -> str:
    """Return why the record that ``one`` names to count instead does not; empty: it does, or none is named."""
    newer, passed = one.superseded_by, [one.record]
    while newer:
        if newer in passed:
            return f"{one.record} is superseded by {one.superseded_by}, which is superseded by it in turn"
        if {"..", "/"} & {*Path(newer).parts} or not (results_dir / newer).is_file():
            return f"the record that it names to count instead, {newer}, is not there"
        passed.append(newer)
        newer = by_record[newer].superseded_by if newer in by_record else None
    return ""


def corrections_by_record(results_dir: Path) -> Mapping[str, Correction]:
    """Return the corrections under ``results_dir``, or beside it if it is the local one, by their records' digests."""
    found = read_corrections(results_dir.parent if results_dir.name == LOCAL else results_dir, ()).found
    return {correction.record_sha256: correction for correction in found}


def find_correction(one: Measured, results_dir: Path | None = None) -> Correction | None:
    """Return the correction of the record ``one``, from its own results folder or ``results_dir``; None: it counts."""
    folders = dict.fromkeys((one.path.resolve().parents[1], *([results_dir.resolve()] if results_dir else [])))
    return next(filter(None, (corrections_by_record(folder).get(one.record.sha256) for folder in folders)), None)


class Counted(NamedTuple, Generic[R]):
    """Evaluations of runs, by whether their records count."""

    found: list[R]
    left_out: tuple[str, ...]
    """What to say of each record that does not."""
    withdrawn: frozenset[str]
    """The digests of all records that do not count, of these runs and of others."""

    def refuse_none(self, what: str) -> None:
        """Raise BenchError if ``what`` has records, but none that counts."""
        if self.left_out and not self.found:
            each = "".join(f"\n  - {said}" for said in self.left_out)
            raise BenchError(f"every record of {what} was withdrawn or superseded:{each}\n{NEW_RECORD}")


def counted(every: Sequence[R], results_dir: Path) -> Counted[R]:
    """Return which of ``every`` count by the corrections under ``results_dir``, or beside it if it is the local one."""
    withdrawn = corrections_by_record(results_dir)
    found = [one for one in every if one.record.sha256 not in withdrawn]
    gone = [(one.record, withdrawn[one.record.sha256]) for one in every if one.record.sha256 in withdrawn]
    left_out = tuple(f"{one.protocol} on {one.dataset}, seed {one.seed}: {why.said}" for one, why in gone)
    return Counted(found, left_out, frozenset(withdrawn))
