"""Records that a run's folder keeps from earlier: believed only where they are this run's own, and whole."""

from collections.abc import Iterator

from bench.errors import DamagedFileError
from bench.files import set_aside
from bench.record import Record, load_record
from bench.reporting import Reporter
from bench.run.encoder import intact_encoder
from bench.run.prepare import Run


def kept_records(run: Run, reporter: Reporter) -> dict[str, Record]:
    """Return the finished records of ``run`` by protocol.

    One that is damaged, or of another run, is set aside, which ``reporter`` is told; its protocol is then taken up
    again from what else the folder keeps.

    Raises:
        BenchError: a record that a later version of the bench wrote, or a folder that cannot be written.
    """
    found: dict[str, Record] = {}
    paths = {name: path for name in run.protocols if (path := run.place(name).record).exists()}
    encoder = intact_encoder(run.folder.encoder, reporter) if paths else None
    for name, path in paths.items():
        try:
            record = load_record(path)
            faults = list(_faults(run, name, record, encoder.sha256 if encoder else None))
        except DamagedFileError as error:
            faults = [str(error)]
        if faults:
            aside = set_aside(path)
            reporter.note(f"{path} is damaged or of another run ({'; '.join(faults)}). It is now {aside.name}.")
        else:
            found[name] = record
    return found


def _faults(run: Run, protocol: str, record: Record, encoder_sha256: str | None) -> Iterator[str]:
    """Yield in what ``record`` is not what ``run`` would have written under ``protocol``."""
    recipe = run.recipe
    wanted = {
        "method": recipe.method,
        "dataset": recipe.downstream.dataset.name,
        "tier_sha256": recipe.tier_sha256,
        "fidelity": recipe.fidelity,
        "protocol": protocol,
        "seed": run.seed,
        "encoder_seed": None if run.folder.seed == run.seed else run.folder.seed,
        "pretraining_sha256": recipe.pretraining_digest(),
        "protocol_sha256": recipe.protocol_digest(protocol),
        # Weights that were deleted to save space leave nothing to compare with.
        **({} if encoder_sha256 is None else {"encoder_sha256": encoder_sha256}),
    }
    for key, value in wanted.items():
        if (held := getattr(record, key)) != value:
            yield f"{key} is {held}, not {value}"
