"""How to make a record again: the exact command, read back from the record."""

import shlex
from functools import cache
from typing import NamedTuple

from bench.data import DATASETS
from bench.recipe import load_tier, override_text, tier_names
from bench.record import Record


class Reproduction(NamedTuple):
    """What to type to make a record again."""

    commit: str | None
    """The code to check out; None: the record does not know it."""
    command: str
    notes: tuple[str, ...]
    """What the command cannot say by itself."""


def reproduction(record: Record) -> Reproduction:
    """Return the command that makes ``record`` again, on the machine of whoever has its data."""
    data, data_note = _dataset(record)
    tier, tier_note = _tier(record)
    words = ["bench", "run", record.method, "--dataset", data, "--tier", tier, "--fidelity", record.fidelity]
    words += ["--protocols", record.protocol, "--seed", str(record.seed)]
    for key, value in sorted(record.overrides.items()):
        words += ["--set", override_text(key, value)]
    notes = [data_note, tier_note]
    if record.environment.commit is None:
        notes.append(f"The code did not run from a checkout; it was version {record.environment.bench}.")
    if record.environment.dirty:
        notes.append("The code had uncommitted changes, so the commit alone may not give the same numbers.")
    return Reproduction(record.environment.commit, shlex.join(words), tuple(note for note in notes if note))


def _dataset(record: Record) -> tuple[str, str]:
    if record.dataset in DATASETS:
        return record.dataset, ""
    return "npz:PATH", (
        f"{record.dataset} is somebody's own data: npz:PATH, or folder:PATH, stands for your copy of it. "
        f"Its SHA-256, as the bench computes it, is {record.recipe['dataset']['sha256']}."
    )


def _tier(record: Record) -> tuple[str, str]:
    shipped = _shipped_tiers().get(record.tier)
    if shipped is None:
        return f"{record.tier}.toml", f"The tier is a file of somebody's own, of digest {record.tier_sha256}."
    changed = shipped != record.tier_sha256
    return record.tier, "This tier is another one by now: check out the commit of the record." if changed else ""


@cache
def _shipped_tiers() -> dict[str, str]:
    """Return the digest of each tier that comes with the bench."""
    return {name: load_tier(name).digest() for name in tier_names()}
