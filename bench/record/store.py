"""Records and sweeps on disk: one file each, written once, never edited."""

from collections.abc import Iterator
from pathlib import Path

from bench.files import inside
from bench.monitor import Monitor
from bench.record.record import SCHEMA, Record
from bench.record.sealed import load_sealed, save_sealed
from bench.record.sweep import SWEEP_SCHEMA, Sweep

LOCAL = "local"
"""The folder below the results for a user's own records, apart from the published ones."""


def record_path(folder: Path, record: Record) -> Path:
    """Return where ``record`` belongs under ``folder``, whether or not it exists."""
    name = "-".join(
        [
            record.method,
            *([] if record.pretrained_on is None else ["from", record.pretrained_on]),
            record.tier,
            record.fidelity,
            *([] if record.encoder_seed is None else [f"e{record.encoder_seed}"]),
            f"s{record.seed}",
            record.protocol,
            record.protocol_sha256[:8],
        ]
    )
    return inside(folder, record.dataset, f"{name}.json")


def save_record(folder: Path, record: Record, monitor: Monitor | None = None) -> Path:
    """Write ``record`` under ``folder`` and return its path.

    An existing record of the same run stays: the new one gets a number behind its name. A damaged file of that name
    is set aside and reported to ``monitor``.

    Raises:
        BenchError: the folder cannot be written.
    """
    return save_sealed(record_path(folder, record), record, monitor)


def load_record(path: Path) -> Record:
    """Return the record in ``path``.

    Raises:
        DamagedFileError: not JSON, incomplete, or edited after it was written.
        BenchError: missing, or of an unknown schema version.
    """
    return load_sealed(path, Record, schema=SCHEMA)


def record_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be records, in a stable order."""
    for path in sorted(folder.glob("*/*.json")):
        if path.parent.name != "published" and not path.name.startswith("."):
            yield path


def sweep_path(folder: Path, sweep: Sweep) -> Path:
    """Return where ``sweep`` belongs under ``folder``, whether or not it exists."""
    run = f"{sweep.method}-{sweep.tier}-{sweep.fidelity}-s{sweep.seed}-{sweep.protocol}"
    return inside(folder, sweep.dataset, "sweeps", f"{run}-{sweep.identity[:8]}-{sweep.settings.kind}.json")


def save_sweep(folder: Path, sweep: Sweep, monitor: Monitor | None = None) -> Path:
    """Write ``sweep`` under ``folder`` and return its path; an existing one stays.

    A damaged file of that name is set aside and reported to ``monitor``.

    Raises:
        BenchError: the folder cannot be written.
    """
    return save_sealed(sweep_path(folder, sweep), sweep, monitor)


def load_sweep(path: Path) -> Sweep:
    """Return the sweep in ``path``.

    Raises:
        DamagedFileError: not JSON, incomplete, or edited after it was written.
        BenchError: missing, or of an unknown schema version.
    """
    return load_sealed(path, Sweep, schema=SWEEP_SCHEMA)


def sweep_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be sweeps, in a stable order."""
    for path in sorted(folder.glob("*/sweeps/*.json")):
        if not path.name.startswith("."):
            yield path
