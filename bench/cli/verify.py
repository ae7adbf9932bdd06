"""``bench verify``: the numbers of a record, measured again from its weights."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import _options as option
from bench.cli._devices import Devices, screen, together
from bench.cli._progress import monitored
from bench.cli._streams import work_is_kept
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError, CheckFailedError
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.record import Environment, Flip, Record
    from bench.run import Finished, Verified

_MOST = 20
"""Images of one measurement that are listed."""
_REASONS = {
    "rounding": "The weights are the same. Another machine or version rounds sums differently, which moves images that "
    "lie on the boundary between two classes.",
    "other starts": "The weights are the same. The record is of a version that drew PGD's random starts in another "
    "way, so RA has other starts; SA and AA differ by rounding alone.",
    "other classifier": "Only the encoder is the same: the protocol ran again here, and its classifier has other "
    "weights.",
}

_UNEXPLAINED = (
    "The weights are the same, and so are machine, packages and code: rounding explains nothing here. Either the "
    "arithmetic of this device varies from run to run, or the outcomes in the record are not those of these weights."
)


def verify(
    record: Annotated[str, typer.Argument(help="A record: its file, or its name below the results.")],
    by: Annotated[str, typer.Option(help="Your name, which the verification holds.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The classifier (slf.safetensors of its run), or the encoder (encoder.safetensors). "
            "Left out: what the record's run keeps in --runs-dir."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Where the record's data are, if they are its author's own.")
    ] = None,
    device: option.Device = None,
    devices: Devices = None,
    threads: option.Threads = None,
    runs_dir: Annotated[
        Path, typer.Option(help="Where an unfinished verification is kept, and its run looked for.")
    ] = Path("runs"),
    results_dir: option.Results = option.RESULTS,
    data_dir: option.DataDir = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the verification as JSON.")] = False,
) -> None:
    """Measure a record again from its weights, say which images differ, and write a verification beside it.

    Exits with 3 if an accuracy differs by more than the verification allows; it is written all the same.

    Examples:
      bench verify results/digits/RECORD.json --weights slf.safetensors --by "Ada Lovelace"
      bench verify RECORD --weights encoder.safetensors --by "Ada Lovelace" --devices 4
    """
    from bench.compare import find_record
    from bench.device import pick_device
    from bench.parallel import is_first
    from bench.results import find_correction
    from bench.run import VerificationRequest
    from bench.run import verify as measured_again

    with together(devices, device, threads):
        found = find_record(record, results_dir)
        if weights is None:
            kept = _kept(found.path, found.record, runs_dir)
            weights, dataset = kept.weights, dataset or kept.source
            screen().print(f"weights: {weights}", markup=False, soft_wrap=True)
        if why := find_correction(found, results_dir):
            screen().print(f"{found.path} is measured, although it was {why.said}", markup=False, soft_wrap=True)
        request = VerificationRequest(found.path, weights, by, dataset, runs_dir, data_dir)
        with monitored(screen()) as monitor:
            done = measured_again(request, pick_device(device), monitor)
        if is_first():
            _show(done, as_json)


def _kept(path: Path, record: "Record", runs_dir: Path) -> "Finished":
    from bench.run import kept_of

    if kept := kept_of(record, runs_dir):
        return kept
    raise BenchError(
        f"{path} comes without weights, and no run in {runs_dir} keeps them. Type --runs-dir and where its run is, "
        f"or --weights and the path of {record.protocol}.safetensors or encoder.safetensors."
    )


def _show(done: "Verified", as_json: bool) -> None:
    """Print the verification; raises CheckFailedError if an accuracy differs by more than it allows."""
    if as_json:
        print(json.dumps(done.verification.model_dump(mode="json"), indent=1))
    else:
        _print(done)
    work_is_kept()
    if apart := done.verification.apart(done.record):
        raise CheckFailedError(
            f"{', '.join(apart).upper()} differs by more than the verification allows. The board will say so below the "
            f"row. The verification: {done.path}"
        )


def _print(done: "Verified") -> None:
    record, verification = done.record, done.verification
    table = DataTable(
        *("measure", Column("record", number=True), Column("here", number=True)),
        *(Column("images that differ", number=True), Column("allowed difference", number=True)),
        title=f"{record.title} {record.year}, {record.protocol}, seed {record.seed}: measured again from the "
        f"{verification.weights}",
    )
    before = {"sa": record.sa, "ra": record.ra.outcome, **({"aa": record.aa.outcome} if record.aa else {})}
    after = {"sa": verification.sa, "ra": verification.ra, **({"aa": verification.aa} if verification.aa else {})}
    for name, count in verification.differ.items():
        n = before[name].n
        cells = [f"{each[name].correct} of {n}" for each in (before, after)]
        table.add(name.upper(), *cells, f"{count} of {n}", plural(int(verification.allowed(name, n)), "image"))
    show(table)
    flips = verification.flips(record)
    for name, each in flips.items():
        print("\n".join(_lines(name.upper(), each)))
    conditions = list(_conditions(record, verification.environment))
    if any(flips.values()):
        print(_reason(done, bool(conditions)))
    for line in conditions:
        print(line)
    print(f"verification: {done.path}")


def _reason(done: "Verified", elsewhere: bool) -> str:
    """Return why images differ; ``elsewhere``: whether the machine, packages or code are not those of the record."""
    verification = done.verification
    if verification.reason == "rounding" and not elsewhere:
        return _UNEXPLAINED
    more = " More than is allowed is not explained by that." if verification.apart(done.record) else ""
    return _REASONS[verification.reason] + more


def _lines(name: str, flips: "Sequence[Flip]") -> Iterator[str]:
    for right, words in ((True, "right in the record, wrong here"), (False, "wrong in the record, right here")):
        positions = [flip.position for flip in flips if flip.right == right]
        if positions:
            more = f" and {len(positions) - _MOST} more" if len(positions) > _MOST else ""
            yield f"{name}, {words}: image {', '.join(map(str, positions[:_MOST]))}{more}"
    if not flips:
        yield f"{name}: every image has the outcome of the record"


def _conditions(record: "Record", here: "Environment") -> Iterator[str]:
    """Yield each difference between the machine, packages and code of the record and those here."""
    from bench.results import machine_text

    there = record.environment
    pairs = {
        "commit": (there.commit, here.commit),
        "device": (machine_text(there.device), machine_text(here.device)),
        "threads": (there.threads, here.threads),
        "platform": (there.platform, here.platform),
        **{name: (there.packages.get(name), version) for name, version in here.packages.items()},
    }
    for name, (before, after) in pairs.items():
        if before != after:
            yield f"{name}: {before} in the record, {after} here"
