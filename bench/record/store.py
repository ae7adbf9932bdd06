"""Records and sweeps on disk: one file each, written once, never edited."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.files import inside
from bench.monitor import Monitor
from bench.record.record import IMPORTED, SCHEMA, Record
from bench.record.sealed import load_sealed, save_sealed
from bench.record.sweep import SWEEP_SCHEMA, Sweep

LOCAL = "local"
"""The folder below the results for a user's own records, apart from the published ones."""


class RecordName(NamedTuple):
    """What the file of a record is called after: fields of the record, which its run knows before it is made."""

    dataset: str
    method: str
    pretrained_on: str | None
    tier: str
    fidelity: str
    encoder_seed: int | None
    seed: int
    protocol: str
    protocol_sha256: str

    def under(self, folder: Path) -> Path:
        """Return where such a record belongs under ``folder``, whether or not it exists."""
        origin = [] if self.pretrained_on is None else ["from", self.pretrained_on]
        encoder = [] if self.encoder_seed is None else [f"e{self.encoder_seed}"]
        run = [self.method, *origin, self.tier, self.fidelity, *encoder, f"s{self.seed}", self.protocol]
        return inside(folder, self.dataset, f"{'-'.join(run)}-{self.protocol_sha256[:8]}.json")


def record_path(folder: Path, record: Record) -> Path:
    """Return where ``record`` belongs under ``folder``, whether or not it exists."""
    return RecordName(*(getattr(record, field) for field in RecordName._fields)).under(folder)


_NAMED = re.compile(r"(?P<recipe>.+-(uniform|native))(-e(?P<encoder>\d+))?-s(?P<seed>\d+)-.+-[0-9a-f]{8}(\.\d+)?")
"""The names that :class:`RecordName` gives, and those of copies."""


def may_be_of(path: Path, method: str) -> bool:
    """Return whether ``path`` may be a record of ``method``: its name begins so, or is not one that we give."""
    return path.stem.startswith(f"{method}-") or not _NAMED.fullmatch(path.stem)


def may_be_of_run(path: Path, run: str) -> bool:
    """Return whether ``path`` may be a record of ``run``, by its own name.

    ``run`` is the name of a folder, with or without the digests at its end.
    """
    named = _NAMED.fullmatch(path.stem)
    if named is None:
        return False
    recipe, seed = named["recipe"], named["encoder"] or named["seed"]
    if recipe.startswith(f"{IMPORTED}-"):  # its runs have the protocol's seeds alone
        seed = "0"
    if "-from-" in recipe:  # transfer: the name of the run begins with the data of pre-training
        return f"-{recipe.rpartition('-')[2]}-s{seed}-" in f"{run}-"
    return f"{run}-".startswith(f"{path.parent.name}-{recipe}-s{seed}-")


def save_record(folder: Path, record: Record, monitor: Monitor | None = None) -> Path:
    """Write ``record`` under ``folder`` and return its path, as :func:`bench.record.sealed.save_sealed` does."""
    return save_sealed(record_path(folder, record), record, monitor)


def load_record(path: Path) -> Record:
    """Return the record in ``path``; errors are those of :func:`bench.record.sealed.load_sealed`."""
    return load_sealed(path, Record, schema=SCHEMA)


def record_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be records, in a stable order."""
    return (path for path in _visible(folder) if path.parent.name != "published")


def sweep_path(folder: Path, sweep: Sweep) -> Path:
    """Return where ``sweep`` belongs under ``folder``, whether or not it exists."""
    run = f"{sweep.method}-{sweep.tier}-{sweep.fidelity}-s{sweep.seed}-{sweep.protocol}"
    return inside(folder, sweep.dataset, "sweeps", f"{run}-{sweep.identity[:8]}-{sweep.settings.kind}.json")


def save_sweep(folder: Path, sweep: Sweep, monitor: Monitor | None = None) -> Path:
    """Write ``sweep`` under ``folder`` and return its path, as :func:`bench.record.sealed.save_sealed` does."""
    return save_sealed(sweep_path(folder, sweep), sweep, monitor)


def load_sweep(path: Path) -> Sweep:
    """Return the sweep in ``path``; errors are those of :func:`bench.record.sealed.load_sealed`."""
    return load_sealed(path, Sweep, schema=SWEEP_SCHEMA)


def sweep_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be sweeps, in a stable order."""
    return _visible(folder, "sweeps")


def _visible(folder: Path, *below: str) -> Iterator[Path]:
    """Yield the visible JSON files of each folder in ``folder``, or of ``below`` in it, in a stable order."""
    for each in sorted(folder.glob("*/")):
        # Of ten thousand, names are sorted in 5 ms, paths in 100.
        files = sorted(each.joinpath(*below).glob("*.json"), key=lambda path: path.name)
        yield from (path for path in files if not path.name.startswith("."))
