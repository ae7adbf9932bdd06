"""``bench matrix``: a grid of methods, datasets and seeds, on this machine or on a Slurm cluster."""

import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from bench.cli import _options as option
from bench.cli._app import App
from bench.cli._matrix import (
    Datasets,
    Methods,
    Seeds,
    fault_lines,
    matrix_request,
    run_options,
    show_jobs,
    show_scripts,
    status_tables,
)
from bench.cli._tables import show
from bench.errors import BenchError
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.grid import GridFolder

matrix = App(
    help="Run a grid of methods, datasets and seeds, on this machine or on a Slurm cluster.",
    no_args_is_help=True,
    invoke_without_command=True,
)
_GRID = Path("grid")
Folder = Annotated[
    Path | None, typer.Argument(metavar="GRID", help="The grid's folder; default: grid.", show_default=False)
]
GridOption = Annotated[Path | None, typer.Option("--grid", help="The same, as in the command that makes a grid.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
AtOnce = Annotated[
    int | None,
    typer.Option(min=1, help="Jobs at once on a device, as memory allows; default: 1 a GPU, 1 a core on a CPU."),
]
_WATCH_SECONDS = 5.0


@matrix.callback()
def start(
    ctx: typer.Context,
    methods: Methods = "",
    datasets: Datasets = "digits",
    seeds: Seeds = "0",
    protocols: option.Protocols = None,
    tier: option.Tier = None,
    fidelity: option.Fidelity = "uniform",
    preset: option.Preset = None,
    precision: option.Precision = None,
    set_: option.SetOfMethods = None,
    run_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="More options of bench run, such as devices=4 or budget=1e15; may be repeated."
        ),
    ] = None,
    on: Annotated[Literal["local", "slurm"], typer.Option(help="Where the jobs run.")] = "local",
    grid: Annotated[Path, typer.Option(help="Folder of the grid's state; on Slurm on a disk that all nodes see.")] = (
        _GRID
    ),
    retries: Annotated[int, typer.Option(min=0, help="How often a failed job is tried again.")] = 1,
    at_once: AtOnce = None,
    profile: Annotated[
        Path | None, typer.Option(help="TOML file of what jobs ask Slurm for, in sections for methods.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's account.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs a job, from Slurm.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs a job, from Slurm.")] = None,
    time_: Annotated[str | None, typer.Option("--time", help="Slurm's time limit of a job, as in 12:00:00.")] = None,
    slurm: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any other option of sbatch; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the jobs, on Slurm as scripts; write and start nothing.")
    ] = False,
    by_hand: Annotated[
        bool,
        typer.Option(
            "--by-hand", help="Write the grid and Slurm's scripts, and show what submits them; submit nothing."
        ),
    ] = False,
    device: option.Device = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a job; the results depend on it.")] = 1,
    runs_dir: option.RunsDir = Path("runs"),
    results_dir: option.ResultsDir = option.LOCAL_RESULTS,
    data_dir: option.DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Run a grid of methods, datasets and seeds, one job a cell; the same command continues it.

    A finished cell is not run again. On Slurm the command ends after submitting: all state is files.

    Examples:
      bench matrix --methods deacl,simclr --datasets digits --seeds 0,1,2 --protocols slf
      bench matrix --methods all --datasets cifar10,cifar100 --tier paper --on slurm --partition gpu --gpus 1
      bench matrix status
      bench matrix retry
    """
    if ctx.invoked_subcommand:
        _refuse_before(ctx)
        return
    from bench.grid import Grid, GridFolder, check_cluster, read_resources
    from bench.matrix import plan_matrix
    from bench.method import METHODS

    if not methods:
        raise BenchError("no method is named. Type, for example, bench matrix --methods deacl,simclr --datasets digits")
    given = {"partition": partition, "account": account, "gpus": gpus, "cpus": cpus, "time": time_}
    own = {name for method in methods.split(",") if (name := method.rpartition(".py:")[2]) != method}
    resources = read_resources(profile, given, slurm or [], own.union(METHODS))
    if on == "local" and resources.names:
        raise BenchError(
            f"{', '.join(sorted(resources.names))}: Slurm alone gives these. Add --on slurm, or leave them out."
        )
    if on == "local" and by_hand:
        raise BenchError("--by-hand: Slurm alone takes scripts. Add --on slurm, or type --dry-run to see the jobs.")
    if on == "slurm" and not (dry_run or by_hand):
        check_cluster(resources.of_all)
    words, chosen = run_options(run_option or [])
    request = matrix_request(
        *(methods, datasets, seeds, protocols),
        tier=tier,
        fidelity=fidelity,
        preset=preset,
        precision=precision,
        set_=set_,
        options=words,
        **chosen,
        device=device,
        elsewhere=on == "slurm" and ((device or "").startswith("cuda") or bool({"gpus", "gres"} & resources.names)),
        threads=threads,
        runs_dir=runs_dir,
        results_dir=results_dir,
        data_dir=data_dir,
    )
    console = Console(stderr=True)
    with console.status("reading the data and building every recipe"):
        planned = plan_matrix(request, grid, memory=on == "local" and (at_once or 2) > 1)
    for line in planned.left_out:
        console.print(f"left out {line}", markup=False, highlight=False)
    content = Grid(
        asked=request.asked,
        on=on,
        jobs=resources.given(planned.jobs),
        retries=retries,
        folders=request.folders,
        resources=resources.of_all,
    )
    if dry_run or by_hand:
        folder = GridFolder.planned(grid, content)
        if on == "local":
            show_jobs(planned.jobs, as_json)
        else:
            show_scripts(folder, as_json, write=by_hand and not dry_run)
        return
    _start(GridFolder.create(grid, content), at_once, as_json)


@matrix.command()
def status(
    ctx: typer.Context,
    grid: Folder = None,
    grid_option: GridOption = None,
    every: Annotated[bool, typer.Option("--all", help="One line a job, finished ones too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every few seconds, until all have ended.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Show what is queued, running, done and failed, and why.

    Examples:
      bench matrix status
      bench matrix status --all --json
    """
    from bench.grid import grid_status

    folder = _opened(ctx, grid, grid_option)
    console = Console()
    while True:
        found = grid_status(folder)
        if as_json:
            print(json.dumps([each.model_dump(mode="json") for each in found], indent=1))
            return
        if watch:
            console.clear()
        show(*status_tables(folder.path, found, every))
        for line in fault_lines(found):
            print(line)
        if not watch or not any(each.status in ("queued", "running") for each in found):
            return
        time.sleep(_WATCH_SECONDS)


@matrix.command()
def cancel(ctx: typer.Context, grid: Folder = None, grid_option: GridOption = None) -> None:
    """Cancel what is queued and stop what runs; its state is saved, and the command that started it continues.

    Examples:
      bench matrix cancel
      bench matrix cancel --grid other-grid
    """
    from bench.grid import cancel_queued, grid_status

    folder = _opened(ctx, grid, grid_option)
    counts = Counter(each.status for each in grid_status(folder))
    if not counts.keys() - {"done", "failed", "cancelled"}:
        ended = ", ".join(f"{count} {status}" for status, count in counts.items())
        print(f"nothing to cancel: of {plural(counts.total(), 'job')} none waits or runs ({ended}).")
        return
    folder.cancel()
    queued = f"{plural(cancel_queued(folder), 'job')} taken from Slurm's queue. " if folder.grid.on == "slurm" else ""
    running = f"{plural(counts['running'], 'running job')} will save and stop. " if counts["running"] else ""
    print(f"cancelled. {queued}{running}The command that started the grid continues it.")


@matrix.command()
def retry(
    ctx: typer.Context,
    grid: Folder = None,
    grid_option: GridOption = None,
    at_once: AtOnce = None,
    as_json: AsJson = False,
) -> None:
    """Start the jobs that failed again, and those that never began.

    Examples:
      bench matrix retry
    """
    from bench.grid import grid_status, to_start

    folder = _opened(ctx, grid, grid_option)
    found = grid_status(folder)
    for job in to_start(folder, found, again=True):
        if job.outdated:
            raise BenchError(job.outdated)
    for each in found:
        if each.status == "failed":
            folder.job(each.name).forget()
    _start(folder, at_once, as_json, again=True)


@matrix.command()
def work(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="The grid's folder.")],
    job: Annotated[str, typer.Argument(help="The job's name.")],
) -> None:
    """Run one job of a grid here: what every Slurm job does.

    Examples:
      bench matrix work grid digits-simclr-tiny-uniform-s0-1a2b3c4d
    """
    import os

    from bench.errors import InterruptedRunError
    from bench.grid import GridFolder, requeue, stop_on_signals
    from bench.grid import work as run_job

    folder = GridFolder.open(grid)
    with stop_on_signals() as stop:
        outcome = run_job(folder, job, stop)
        if outcome == "stopped" and not folder.cancelled and "SLURM_JOB_ID" in os.environ:
            requeue(stop)
    print(f"{job}: {outcome}")
    if outcome == "stopped":
        raise InterruptedRunError(f"{job} was stopped; its state is saved. The same command continues it.")
    if outcome == "failed":
        state = folder.job(job).state
        raise BenchError(f"{job} failed: {state.reason if state else ''}")


def _opened(ctx: typer.Context, *named: Path | None) -> "GridFolder":
    """Return the grid that was ``named`` after the command, as an argument or an option, or with --grid before it."""
    from bench.grid import GridFolder

    before = ctx.parent.params.get("grid") if ctx.parent else None
    folders = list(dict.fromkeys(path for path in (before, *named) if path not in (None, _GRID)))
    if len(folders) > 1:
        raise BenchError(f"{' and '.join(map(str, folders))} are two grids. Name one.")
    return GridFolder.open(next(iter(folders), _GRID))


def _refuse_before(ctx: typer.Context) -> None:
    """Raise BenchError for options before the name of a subcommand, which does not read them."""
    typed = [param.opts[0] for param in option.typed_params(ctx) if param.name != "grid"]
    if typed:
        name = ctx.invoked_subcommand
        raise BenchError(
            f"{', '.join(typed)} before {name}: options of {name} come after it; bench matrix {name} --help lists them."
        )


def _start(folder: "GridFolder", at_once: int | None, as_json: bool, again: bool = False) -> None:
    """Submit or run every job of ``folder`` that nobody works on."""
    from bench.grid import MAKE_ANEW, grid_status, run_local, stop_on_signals, submit, to_start

    console = Console(stderr=True)
    if folder.grid.on == "slurm":
        with folder.claimed():
            jobs = to_start(folder, grid_status(folder), again=again)
            folder.resume()
            numbers = submit(folder, jobs) if jobs else []
        if as_json:
            print(json.dumps({"grid": str(folder.path), "submitted": numbers, "jobs": [job.name for job in jobs]}))
        else:
            what = f" as {', '.join(numbers)}" if numbers else ""
            print(f"{plural(len(jobs), 'job')} submitted{what}. bench matrix status {folder.path} shows them.")
    else:
        from bench.errors import InterruptedRunError
        from bench.matrix import local_devices

        folder.resume()
        asked = folder.grid.asked
        words = asked.get("options", [])
        together = int(words[words.index("--devices") + 1]) if "--devices" in words else 1
        devices = local_devices(
            asked.get("device"), at_once=at_once, threads=asked.get("threads", 1), together=together
        )

        def tell(line: str) -> None:
            with suppress(OSError):  # a terminal that was closed
                console.print(line, markup=False, highlight=False)

        with stop_on_signals() as stop:
            run_local(folder, devices, stop, tell)
            if stop.is_set():
                raise InterruptedRunError("interrupted; the state of every job is saved. The same command continues.")
        found = grid_status(folder)
        if as_json:
            print(json.dumps([each.model_dump(mode="json") for each in found], indent=1))
        else:
            show(*status_tables(folder.path, found, every=False))
        if lines := fault_lines(found):
            outdated = any(folder.jobs[each.name].outdated for each in found if each.status == "failed")
            advice = f"{MAKE_ANEW}." if outdated else f"bench matrix retry {folder.path} tries these again."
            raise BenchError("\n".join([*lines, advice]))
        counts = Counter(each.status for each in found)
        if counts.keys() - {"done"}:
            what = "cancelled" if counts["cancelled"] else "not finished"
            ended = ", ".join(f"{count} {status}" for status, count in counts.items())
            raise InterruptedRunError(
                f"{what}: of {plural(counts.total(), 'job')} {ended}; the state of every job is saved. The same "
                "command continues."
            )
