"""From what the user types to records: a file, a record's or a run's name, or a method over its seeds."""

from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, unknown
from bench.leaderboard.groups import Group, read_groups
from bench.leaderboard.measured import Measured, load_measured
from bench.record import record_files


def find_record(name: str, results_dir: Path, *, protocol: str | None = None) -> Measured:
    """Return the record that ``name`` means.

    Args:
        name: a file; or, under ``results_dir``, a record's name without its ending, with or without its folder, or
            the beginning of just one; or a run's name, as `bench runs` lists it.
        results_dir: where names are looked up.
        protocol: which of a run's records to take.

    Raises:
        BenchError: nothing, or more than one record, has that name; or it cannot be trusted.
    """
    if Path(name).is_file():
        return load_measured(Path(name))
    names = {path.relative_to(results_dir).with_suffix("").as_posix(): path for path in record_files(results_dir)}
    wanted = name.removesuffix(".json")
    for matches in (
        [path for stem, path in names.items() if wanted in (stem, path.stem)],
        [path for path in names.values() if _is_of_run(path, wanted, protocol)],
        [path for stem, path in names.items() if stem.startswith(wanted) or path.stem.startswith(wanted)],
    ):
        if len(matches) == 1:
            return load_measured(matches[0])
        if matches:
            raise _ambiguous(name, matches)
    hint = "`bench leaderboard` links to every record; to compare methods over seeds, add --dataset."
    raise unknown("record", name, [path.stem for path in names.values()], hint)


def find_seeds(
    method: str,
    results_dir: Path,
    *,
    dataset: str,
    protocol: str = "slf",
    tier: str | None = None,
    fidelity: str = "uniform",
) -> Group:
    """Return the records of ``method`` on ``dataset`` under ``protocol``, one a seed.

    The recipe as it stands is taken before one that was changed, transferred or held to a budget.

    Raises:
        BenchError: there are none, or several recipes and nothing to choose by.
    """
    groups, _ = read_groups(results_dir, dataset)
    if not groups:
        raise unknown("dataset", dataset, {path.parent.name for path in record_files(results_dir)})
    fitting = [group for group in groups if _fits(group, protocol=protocol, tier=tier, fidelity=fidelity)]
    found = [group for group in fitting if group.seeds[0].record.method == method]
    if not found:
        where = ", ".join(filter(None, (dataset, protocol, tier, fidelity)))
        names = {group.seeds[0].record.method for group in fitting}
        raise unknown("method", method, names, f"Those are all with records of {where}.")
    chosen = [group for group in found if _as_it_stands(group)] or found
    if len(chosen) > 1:
        listing = "\n  - ".join(", ".join(str(one.path) for one in group.seeds) for group in chosen)
        raise BenchError(
            f"{method} has records of {len(chosen)} recipes there:\n  - {listing}\n"
            "Choose with --tier or --fidelity, or compare two of these files."
        )
    return chosen[0]


def _is_of_run(path: Path, name: str, protocol: str | None) -> bool:
    # The name of a file tells all of its run's but the digest, so few files have to be opened.
    if not name.startswith(f"{path.parent.name}-{path.stem.split('.')[0].rpartition('-')[0].rpartition('-')[0]}-"):
        return False
    measured = load_measured(path)
    return measured.run == name and protocol in (None, measured.record.protocol)


def _ambiguous(name: str, matches: Sequence[Path]) -> BenchError:
    listing = "\n  - ".join(path.as_posix() for path in matches)
    return BenchError(f"{name!r} means {len(matches)} records:\n  - {listing}\nName one of them, or add --protocol.")


def _fits(group: Group, *, protocol: str, tier: str | None, fidelity: str) -> bool:
    record = group.seeds[0].record
    return record.protocol == protocol and record.fidelity == fidelity and tier in (None, record.tier)


def _as_it_stands(group: Group) -> bool:
    record = group.seeds[0].record
    lent = record.pretrained_on is not None or record.encoder_seed is not None
    return not record.overrides and not lent and record.recipe.get("budget") is None
