"""``bench ablate``: a table of the paper, or the user's own grid, as one command."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bench.cli import _options as option
from bench.cli._progress import monitored, rough_time
from bench.cli._runs import measuring, say_finished, say_inventory
from bench.cli._streams import work_is_kept
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.ablate import Ablation, AblationReport, Projection
    from bench.results import PublishedNumber, Score

_MEASURES = ("AA", "RA", "SA")


def ablate(
    method: option.Method,
    table: Annotated[
        str | None,
        typer.Option(help="A table of the method's paper; for deacl: 1, 3, 4, 5, 6, 9, lambda, loss."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2", help="Vary a setting; may be repeated, for all combinations."),
    ] = None,
    dataset: option.Data = "digits",
    tier: option.Tier = None,
    fidelity: option.Fidelity = "uniform",
    protocols: Annotated[
        str | None,
        typer.Option(help="Protocols to evaluate under, with commas; default: slf, where it applies."),
    ] = None,
    preset: option.Preset = None,
    precision: option.Precision = None,
    seeds: Annotated[str, typer.Option(help="Seeds to run every cell with, with commas.")] = "0",
    set_: option.Set = None,
    dry_run: option.DryRun = False,
    device: option.Device = None,
    threads: option.Threads = None,
    runs_dir: option.RunsDir = Path("runs"),
    results_dir: option.ResultsDir = option.LOCAL_RESULTS,
    data_dir: option.DataDir = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON on stdout.")] = False,
) -> None:
    """Run a grid of settings, and print it as a table beside the paper's numbers.

    Stages that cells share are trained once. The same command continues what was interrupted.

    Examples:
      bench ablate deacl --table 3
      bench ablate deacl --table 9 --dataset cifar10 --tier short --seeds 0,1,2
      bench ablate deacl --grid stage2.weight_decay=1e-6,1e-5 --grid stage2.lam=1,2
    """
    from bench.ablate import carry_out, choose_table, plan_ablation, project_ablation, report_ablation
    from bench.device import use_threads
    from bench.run import RunRequest, threads_open

    use_threads(threads)
    base = RunRequest(
        method=method,
        dataset=dataset,
        tier=tier,
        fidelity=fidelity,
        protocols=option.names(protocols),
        overrides=option.overrides(preset, set_, precision),
        runs_dir=runs_dir,
        data_dir=data_dir,
        device=device,
    )
    chosen = choose_table(method, table, grid or [])
    console = Console(stderr=True)
    with console.status("reading the data and building every recipe"):
        ablation = plan_ablation(base, chosen, option.parse_seeds(seeds))
    is_open = threads is None and threads_open(ablation.cells[0].runs[0])
    if dry_run or not ablation.finished:
        with measuring(console, ablation.cells[0].runs, threads):
            projection = project_ablation(ablation)
        say_inventory(console, ablation.cells[0].runs[0])
        show(_plan(ablation, projection), console=console)
    else:
        say_finished(console)
    if dry_run:
        if as_json:
            print(json.dumps({**asdict(projection), "seconds": projection.seconds}, indent=1))
        return
    with monitored(console) as monitor:
        results = carry_out(ablation, results_dir, monitor, threads_open=is_open)
    found = report_ablation(ablation, results, results_dir)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
    else:
        work_is_kept()
        _print_report(found)
    if found.faults:
        raise BenchError("\n- ".join([f"{plural(len(found.faults), 'run')} could not be finished:", *found.faults]))


def _plan(ablation: "Ablation", projection: "Projection") -> DataTable:
    cells = len(ablation.cells)
    run = ablation.cells[0].runs[0]
    runs = sum(len(cell.runs) for cell in ablation.cells)
    table = DataTable(
        *("to do", Column("about", number=True)),
        title=f"{run.method.info.title}: {ablation.table.title}, on {run.recipe.dataset.name}, tier {run.recipe.tier}",
        caption=f"{plural(cells, 'cell')}, {plural(runs, 'run')}, on {run.device}; in {run.folder.path.parent}",
    )
    for what, seconds in projection.shared.items():
        table.add(f"once: {what}", _about(seconds))
    for label, seconds in projection.cells.items():
        table.add(label, _about(seconds))
    table.rule()
    table.add("all", _about(projection.seconds))
    return table


def _about(seconds: float) -> str:
    return rough_time(seconds) if seconds else "done"


def _print_report(found: "AblationReport") -> None:
    from bench.recipe import protocol_title
    from bench.results import NEW_RECORD

    several = len({row.protocol for row in found.rows}) > 1
    seeds = sorted({seed for row in found.rows for seed in row.seeds})
    scores = [*_MEASURES, *(f"paper {measure}" for measure in _MEASURES if found.paper)]
    table = DataTable(
        "cell",
        *(["protocol"] if several else []),
        *(Column(score, number=True) for score in scores),
        title=f"{found.method}: {found.title}, on {found.dataset}, tier {found.tier}, {found.fidelity} fidelity, "
        f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds)) or 'none'}",
        caption=_precision(found),
    )
    for row in found.rows:
        protocol = [protocol_title(row.protocol)] if several else []
        ours = [_score(score) for score in (row.aa, row.ra, row.sa)]
        if row.faults and not row.seeds:
            ours = ["failed", "", ""]
        table.add(row.label, *protocol, *ours, *(_published(row.paper) if found.paper else []))
    if found.unplaced:
        table.rule()
        for label, number in found.unplaced.items():
            table.add(f"paper: {label}", *([""] if several else []), "", "", "", *_published(number))
    show(table)
    for note in found.notes:
        print(f"- {note}")
    for record in found.left_out:
        print(f"left out: {record}")
    if found.left_out:
        print(NEW_RECORD)


def _score(score: "Score | None") -> str:
    if score is None:
        return "–"
    spread = "" if score.std is None else f" ± {_percent(score.std, score.n)}"
    return f"{_percent(score.accuracy, score.n)}{spread}"


def _published(number: "PublishedNumber | None") -> list[str]:
    values = (number.aa, number.ra, number.sa) if number else (None, None, None)
    return ["n/a" if value is None else f"{value:.2f}" for value in values]


def _precision(found: "AblationReport") -> str:
    """Return the precision of the scores: how far intervals reach from them at most, or what ± means."""
    if any(len(row.seeds) > 1 for row in found.rows):
        return "percent; mean ± standard deviation over the seeds"
    widest = []
    for measure in _MEASURES:
        scores = [score for row in found.rows if (score := getattr(row, measure.lower())) and score.interval]
        if scores:
            # Wilson's interval is not around the score: of 0 correct images it is all above.
            reach = max(abs(end - score.accuracy) for score in scores for end in score.interval)
            widest.append(f"{measure} ± {100 * reach:.1f} (n = {scores[0].n})")
    return f"percent; 95 % intervals at most: {', '.join(widest)}" if widest else ""


def _percent(share: float, n: int) -> str:
    from bench.results import percent

    return percent(share, n)
