"""What ``bench run`` and ``bench evaluate`` share: announcing runs and showing their results."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from bench.cli._devices import screen
from bench.cli._progress import rough_time
from bench.cli._results import results_table
from bench.cli._streams import work_is_kept
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError, CheckFailedError, listed
from bench.own_code import to_load

if TYPE_CHECKING:
    from bench.cost import PhaseEstimate, Projector
    from bench.record import Diagnosis, Record
    from bench.run import Run


def reading() -> AbstractContextManager[object]:
    """Return a context in which the screen shows that the data are being read."""
    return screen().status("reading the data")


def say_inventory(console: Console, run: "Run") -> None:
    """Print how many images of the data of ``run`` were read, skipped, converted or doubtful."""
    for dataset in filter(None, (run.dataset, run.finetune)):
        if dataset.inventory:
            where = "; they stay on disk and are decoded batch by batch" if dataset.known else ""
            console.print(f"{dataset.name}: {dataset.inventory.described()}{where}", markup=False, highlight=False)


def say_weights(console: Console, run: "Run") -> None:
    """Print what was taken from the file of the weights of a network that is known by its name."""
    known = run.encoder.origin.imported if run.encoder else None
    if known is None or known.weights is None:
        return
    report = known.weights
    below = f" below {report.network}" if report.network else ""
    dropped = ", ".join(f"{name}: {what}" for name, what in report.dropped.items()) or "nothing"
    for line in (
        f"{report.file}: {report.tensors} tensors{below}, {report.features} features; left out: {dropped}",
        f"{report.input}; normalisation {report.normalisation} ({report.normalisation_from})",
    ):
        console.print(line, markup=False, highlight=False)


@contextmanager
def measuring(console: Console, runs: "Sequence[Run]", threads: int | None) -> Iterator[Callable[[str], None]]:
    """Show that this machine is being measured, choose CPU threads if ``threads`` is None, and show what was found.

    That is also whether other programs left this process too little of the CPU to measure.

    Yields a function to call with the part that is being measured.
    """
    from bench.device import crowding, starvation
    from bench.run import choose_threads

    if not console.is_terminal:
        console.print("measuring this machine")
    with console.status("measuring this machine") as status:
        chosen = choose_threads(runs) if threads is None else None
        crowded = crowding(runs[0].device)
        starved = starvation(runs[0].device)
        yield lambda part: status.update(Text(part))
    for said in filter(None, (chosen, crowded, starved())):
        console.print(said, markup=False, highlight=False)


def say_finished(console: Console) -> None:
    """Print that the records were made by an earlier command."""
    console.print("finished before: only what is damaged or lost is made again", markup=False, highlight=False)


def announce(
    runs: "Sequence[Run]",
    results_dir: Path,
    *,
    threads: int | None,
    estimate: bool = True,
    dry_run: bool,
    recipe: bool,
    as_json: bool,
) -> None:
    """Check that ``runs``, which differ in their seed alone, can start, and print what they will do and take.

    ``threads`` is the user's number of CPU threads; None: one is chosen. Without ``estimate`` nothing is measured, and
    the phases have no times; they are left out unless it is a ``dry_run``. With ``dry_run`` and ``recipe``, all
    settings come first; as JSON, the settings alone.
    """
    from bench.cost import Projector
    from bench.run import check_ready

    if recipe and not dry_run:
        raise BenchError("--recipe prints the settings of a run that is not started. Add --dry-run.")
    console = Console(stderr=True)
    pending = [run for run in runs if not run.finished] or [*runs[:1]] * dry_run
    for run in pending:
        check_ready(run, results_dir)
    if not pending:
        say_finished(console)
        return
    plan = None
    if estimate:
        with ExitStack() as reserved:
            for run in [] if dry_run else pending:  # so that no other command measures this machine for the same run
                reserved.enter_context(run.folder.reserved())
            with measuring(console, pending, threads) as said:
                plan = _plan(pending, _estimates(pending, Projector(pending[0].device, said)))
    elif dry_run:
        plan = _plan(pending, _estimates(pending, Projector(pending[0].device, timed=False)), timed=False)
    say_inventory(console, runs[0])
    if dry_run and (recipe or as_json):
        _print_recipe(runs[0], as_json)
    out = Console(stderr=as_json or not dry_run)
    if plan:
        show(plan, console=out)
    else:
        out.print(*_summary(pending), sep="\n", markup=False, highlight=False, soft_wrap=True)


def show_records(
    found: "Sequence[tuple[Record, Path]]", runs: "Sequence[Run]", results_dir: Path, *, as_json: bool
) -> None:
    """Print the results of ``runs`` and their paths; raises CheckFailedError if an evaluation failed a check.

    Records that were withdrawn or superseded are no results, and are said to be none.
    """
    from bench.recipe import protocol_title
    from bench.results import NEW_RECORD, corrections_by_record

    withdrawn = corrections_by_record(results_dir)
    records = [record for record, _ in found if record.sha256 not in withdrawn]
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record, _ in found], indent=1))
    else:
        work_is_kept()
        if records:
            show(results_table(records, results_dir))
        for _, path in found:
            print(f"record: {path}")
        for run in runs:
            print(f"encoder: {run.folder.encoder}")
    gone = [(record, withdrawn[record.sha256]) for record, _ in found if record.sha256 in withdrawn]
    for record, why in gone:
        typer.echo(f"no result: {protocol_title(record.protocol)}, seed {record.seed}, was {why.said}", err=as_json)
    if gone:
        typer.echo(NEW_RECORD, err=as_json)
    loading = to_load({name: kind for record in records for name, kind in record.own_code.items()})
    checked = " and ".join(shlex.join(["bench", *loading, "doctor", str(run.folder.path)]) for run in runs)
    refuse_failed([(record.protocol, record.doctor or ()) for record in records], f"What to do says: {checked}")


def refuse_failed(found: "Iterable[tuple[str, Sequence[Diagnosis]]]", advice: str, *, strict: bool = False) -> None:
    """Raise CheckFailedError, with ``advice``, if a check failed or, with ``strict``, ended in doubt.

    ``found`` is by protocol.
    """
    wrong = ("fail", "doubt") if strict else ("fail",)
    failed = [f"{protocol}, {one.said}" for protocol, checks in found for one in checks if one.verdict in wrong]
    if failed:
        raise CheckFailedError(f"{listed('the evaluation cannot be believed', failed)}\n{advice}")


def _estimates(runs: "Sequence[Run]", projector: "Projector") -> "list[list[PhaseEstimate]]":
    """Return the phases of each run; what runs have in common is measured once, for the first."""
    from bench.run import project

    estimates, known = [], set()
    for run in runs:
        phases = [each for each in project(run, projector) if each.identity not in known]
        known |= {each.identity for each in phases}
        estimates.append(phases)
    return estimates


def _plan(runs: "Sequence[Run]", estimates: "Sequence[Sequence[PhaseEstimate]]", *, timed: bool = True) -> DataTable:
    """Return the phases of the first of ``runs`` and, where they are ``timed``, how long each run takes."""
    title, caption = _summary(runs)
    time = Column("about" if timed else "left", number=True)
    table = DataTable("phase", "work", time, title=title, caption=caption)
    for estimate in estimates[0]:
        left = f"{estimate.left:.0%}"
        if timed:
            left = rough_time(estimate.seconds_left) + (f" ({left} left)" if estimate.left < 1 else "")
        table.add(estimate.phase, estimate.work, left if estimate.left else "done")
    if not timed:
        return table
    totals = [sum(estimate.seconds_left for estimate in each) for each in estimates]
    table.rule()
    if len(runs) > 1:
        for each, total in zip(runs, totals, strict=True):
            table.add(f"seed {each.seed}", "", rough_time(total))
    table.add("all", "", rough_time(sum(totals)))
    return table


def _summary(runs: "Sequence[Run]") -> tuple[str, str]:
    """Return what is run, and where."""
    run, recipe = runs[0], runs[0].recipe
    transfer = f", judged on {recipe.downstream.dataset.name}" if recipe.pretrained_on else ""
    seeds = f"seed{'s' * (len(runs) > 1)} {', '.join(str(each.seed) for each in runs)}"
    what = (
        f"{run.method.info.title} on {recipe.dataset.name}{transfer}, tier {recipe.tier}, "
        f"{recipe.fidelity} fidelity{f', precision {recipe.precision}' if recipe.precision else ''}, {seeds}"
    )
    budget = f"; epochs for {recipe.budget:.4g} operations of pre-training" if recipe.budget else ""
    where = run.folder.path if len(runs) == 1 else f"{run.folder.path.parent}, a folder for each seed"
    return what, f"on {run.device}; in {where}{_resizing(run)}{budget}"


def _resizing(run: "Run") -> str:
    recipe = run.recipe
    if not recipe.finetune or not recipe.finetune.resized_from:
        return ""
    before, after = recipe.finetune.resized_from, recipe.dataset.image_shape[1:]
    sizes = " to ".join(f"{height}x{width}" for height, width in (before, after))
    return f"; images of {recipe.finetune.dataset.name} resized from {sizes}"


def _print_recipe(run: "Run", as_json: bool) -> None:
    from bench.recipe import PROTOCOLS, flatten

    recipe = run.recipe.model_dump(mode="json")
    for protocol in PROTOCOLS:
        if protocol not in run.protocols and not as_json:
            del recipe[protocol]
    if as_json:
        print(json.dumps(recipe, indent=1))
        return
    for key, value in flatten({**recipe.pop("config"), **recipe}):
        print(f"{key} = {json.dumps(value)}")
