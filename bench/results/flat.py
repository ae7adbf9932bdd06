"""Records as flat rows of plain values, ready for a data frame."""

from pathlib import Path
from typing import Any

from bench.errors import warn
from bench.recipe import override_text, with_checked_arguments
from bench.record import LOCAL, Outcome, record_files
from bench.results.corrections import read_corrections
from bench.results.groups import refuse_missing
from bench.results.measured import Measured, load_all


@with_checked_arguments
def load_records(results_dir: str | Path = "results", *, local: bool = True) -> list[dict[str, Any]]:
    """Return one dict a record, all with the same keys, for ``pandas.DataFrame``; what was not measured is None.

    Accuracies and intervals are shares of 1, eps is on the [0, 1] scale of pixels, times are in seconds. A record
    that cannot be trusted is left out with a warning, and one that was withdrawn or superseded without.

    Args:
        results_dir: the folder of the records.
        local: whether to read the user's own records, in its folder ``local``, too.

    Raises:
        BenchError: there is no such folder.
    """
    folder = Path(results_dir)
    refuse_missing(folder, named="results_dir")
    paths = [(path, False) for path in record_files(folder)]
    paths += [(path, True) for path in record_files(folder / LOCAL)] if local else []
    measured, faults = load_all(paths)
    corrections = read_corrections(folder, measured, local=local)
    for fault in (*faults, *corrections.faults):
        warn(f"left out {fault.path}: {fault.reason}")
    # A local record that was published later is the same one.
    once = {one.record.sha256: one for one in reversed(corrections.counting(measured))}
    return [_flat(one, folder) for one in reversed(once.values())]


def _flat(one: Measured, folder: Path) -> dict[str, Any]:
    record, threat = one.record, one.threat
    aa, corruptions = record.aa, record.corruptions
    return {
        "path": one.path.relative_to(folder).as_posix(),
        "local": one.local,
        "method": record.method,
        "title": record.title,
        "year": record.year,
        "dataset": record.dataset,
        "pretrained_on": record.pretrained_on,
        "tier": record.tier,
        "fidelity": record.fidelity,
        "known": record.known,
        "protocol": record.protocol,
        "seed": record.seed,
        "encoder_seed": record.encoder_seed,
        "settings": " ".join(override_text(key, value) for key, value in sorted(record.overrides.items())),
        "budget": one.recipe.budget,
        "norm": threat.norm,
        "eps": record.ra.eps,
        "attack": record.ra.attack,
        "steps": record.ra.steps,
        "restarts": record.ra.restarts,
        **_accuracy("sa", record.sa),
        **_accuracy("ra", record.ra.outcome),
        **_accuracy("aa", aa.outcome if aa else None),
        **_accuracy("attacks", record.attacks.outcome if record.attacks else None),
        "aa_eps": aa.eps if aa else None,
        "aa_version": aa.version if aa else None,
        "corruptions": corruptions.accuracy if corruptions else None,
        "doubts": "; ".join([*record.doubts, *(each.check for each in record.diagnosed("doubt"))]),
        "failed": "; ".join(each.check for each in record.diagnosed("fail")),
        "pretraining_seconds": record.pretraining_seconds or None,
        "pretraining_flops": record.pretraining_flops,
        "seconds": sum(cost.seconds for cost in record.cost.values()),
        "device": record.environment.device,
        "threads": record.environment.threads,
        "commit": record.environment.commit,
        "started": record.started,
        "finished": record.finished,
        "encoder_sha256": record.encoder_sha256,
        "pretraining_sha256": record.pretraining_sha256,
        "protocol_sha256": record.protocol_sha256,
    }


def _accuracy(name: str, outcome: Outcome | None) -> dict[str, float | int | None]:
    low, high = outcome.interval if outcome else (None, None)
    return {
        name: outcome.accuracy if outcome else None,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_n": outcome.n if outcome else None,
    }
