"""Verifications among the results: whose check each record has passed, and whose it has not."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.record import LOCAL, Record, Verification, load_verification, person, verification_files
from bench.results.groups import Group, LeftOut
from bench.results.wording import machine_text


class Verifications(NamedTuple):
    """The verifications of records, by the records' digests."""

    found: Mapping[str, Sequence[Verification]] = {}
    submitters: Mapping[str, str] = {}
    """Who submitted each record, where that is known: their own verification is shown and not counted."""

    def of(self, record: Record) -> Sequence[Verification]:
        """Return those of ``record``."""
        return self.found.get(record.sha256, ())


def read_verifications(
    results_dir: Path,
    groups: Sequence[Group],
    hidden: Collection[str],
    submitters: Mapping[str, str],
    *,
    local: bool = True,
) -> tuple[Verifications, list[LeftOut]]:
    """Return the verifications of the records of ``groups``, and the files that cannot be trusted.

    A verification of a record that has changed, or is not there, is such a file; unless the record's digest is among
    ``hidden``, those of records that the board does not show.
    """
    records = {one.record.sha256: one.record for group in groups for one in group.every}
    found: dict[str, list[Verification]] = defaultdict(list)
    left_out = []
    for folder in [results_dir, results_dir / LOCAL][: 1 + local]:
        for path in verification_files(folder):
            try:
                verification = load_verification(path)
                fault = _fault(verification, records.get(verification.record_sha256), hidden)
            except BenchError as error:
                fault = str(error).removeprefix(f"{path}: ")
            if fault:
                left_out.append(LeftOut(file=path.relative_to(results_dir).as_posix(), reason=fault))
            else:
                found[verification.record_sha256].append(verification)
    return Verifications(found, submitters), left_out


def _fault(verification: Verification, record: Record | None, hidden: Collection[str]) -> str | None:
    sha256 = verification.record_sha256
    if record is None:
        return None if sha256 in hidden else f"no record here has the digest {sha256[:12]} that it verifies"
    return verification.fault(record)


def verifiers(group: Group, verifications: Verifications) -> tuple[int, ...]:
    """Return, by seed, how many people besides its submitter have verified the record."""

    def others(record: Record) -> set[str]:
        found = {person(each.by) for each in verifications.of(record) if not each.apart(record)}
        return found - {person(verifications.submitters.get(record.sha256, ""))}

    return tuple(len(others(one.record)) for one in group.seeds)


def checks(group: Group, verifications: Verifications) -> tuple[tuple[str, ...], ...]:
    """Return, by seed, a line for each verification: who, when, where, and how many images differ."""
    return tuple(tuple(map(_line, verifications.of(one.record))) for one in group.seeds)


def _line(verification: Verification) -> str:
    measured = {"sa": verification.sa, "ra": verification.ra, "aa": verification.aa}
    differ = [
        f"{name.upper()} {verification.differ[name]} of {outcome.n}" for name, outcome in measured.items() if outcome
    ]
    where = verification.environment
    torch = where.packages.get("torch")
    machine = machine_text(where.device) + (f", torch {torch}" if torch else "")
    return (
        f"{verification.by}, {verification.finished.date()}, from the {verification.weights}, on {machine}: "
        f"images that differ: {', '.join(differ)}"
    )


def contested(group: Group, verifications: Verifications) -> Iterator[str]:
    """Yield a sentence for each verification that a record of ``group`` has not passed."""
    for one in group.seeds:
        for each in verifications.of(one.record):
            if apart := each.apart(one.record):
                what = " and ".join(apart).upper()
                yield f"{each.by} measured another {what} from the same weights (seed {one.record.seed})"
