"""``bench run``: one method from raw images to records."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from bench.cli._format import duration, percent
from bench.cli._progress import reporting

if TYPE_CHECKING:
    from bench.record import Record
    from bench.run import PhaseEstimate, Run


def run(
    method: Annotated[str, typer.Argument(help="The method; `bench methods` lists them.")],
    dataset: Annotated[
        str,
        typer.Option(help="digits, cifar10, cifar100, stl10, npz:PATH or folder:PATH."),
    ] = "digits",
    tier: Annotated[
        str | None,
        typer.Option(help="How far to scale the published recipe; default: tiny, mini or short by data and device."),
    ] = None,
    fidelity: Annotated[
        Literal["uniform", "native"],
        typer.Option(help="uniform: one encoder for all methods; native: the paper's own."),
    ] = "uniform",
    protocols: Annotated[
        str | None,
        typer.Option(help="Which of slf, alf, aff to evaluate under, with commas; default: slf, where it applies."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Whose SLF, ALF and AFF: uniform, advcl, deacl-2024 or robustssl-benchmark."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The one seed that everything random derives from.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a number of the recipe; may be repeated."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="FLOPS|like:METHOD",
            help="Choose the epochs so that pre-training spends so many operations, or as many as another method's.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, recipe and projected time; stop.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the best there is.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where runs keep weights and state.")] = Path("runs"),
    results_dir: Annotated[Path, typer.Option(help="Where records go.")] = Path("results"),
    data_dir: Annotated[Path, typer.Option(help="Where datasets are downloaded to.")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON on stdout.")] = False,
) -> None:
    """Pre-train a method, evaluate it, and write one record a protocol.

    A run that was interrupted, in whatever way, is continued by the same command.

    Examples:
      bench run deacl --dataset digits
      bench run deacl --dataset cifar100 --tier paper --dry-run
      bench run deacl --dataset digits --protocols slf,alf,aff --preset deacl-2024
      bench run deacl --dataset npz:my.npz --set stage2.lam=3 --set threat.eps=4/255
      bench run acl --dataset digits --budget like:deacl
    """
    from bench.recipe import parse_overrides, preset_overrides
    from bench.run import RunRequest, execute, prepare, project
    from bench.stop import stop_on_signals

    request = RunRequest(
        method=method,
        dataset=dataset,
        tier=tier,
        fidelity=fidelity,
        protocols=None if protocols is None else [name.strip() for name in protocols.split(",")],
        seed=seed,
        overrides={**(preset_overrides(preset) if preset else {}), **parse_overrides(set_ or [])},
        budget=budget,
        runs_dir=runs_dir,
        data_dir=data_dir,
        device=device,
    )
    console = Console(stderr=True)
    with console.status("reading the data"):
        ready = prepare(request)
    if dry_run or not ready.finished:
        with console.status("measuring this machine"):
            estimates = project(ready)
        console.print(_plan(ready, estimates))
    if dry_run:
        _print_recipe(ready, console, as_json)
        return
    with stop_on_signals() as stop, reporting(console) as reporter:
        records = execute(ready, results_dir, reporter=reporter, stop=stop)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record, _ in records], indent=1))
        return
    Console().print(_results([record for record, _ in records], results_dir))
    for _, path in records:
        print(f"record: {path}")
    print(f"encoder: {ready.folder.encoder}")


def _plan(run: "Run", estimates: "list[PhaseEstimate]") -> Table:
    recipe = run.recipe
    table = Table(
        title=f"{run.method.info.title} on {recipe.dataset.name}, tier {recipe.tier}, "
        f"{recipe.fidelity} fidelity, seed {run.seed}",
        caption=f"on {run.device}; in {run.folder.path}"
        + (f"; epochs for {recipe.budget:.4g} operations of pre-training" if recipe.budget else ""),
    )
    table.add_column("phase")
    table.add_column("work")
    table.add_column("about", justify="right")
    for estimate in estimates:
        left = "" if estimate.left == 1 else f" ({estimate.left:.0%} left)"
        about = duration(estimate.seconds * estimate.left) + left if estimate.left else "done"
        table.add_row(estimate.phase, estimate.work, about)
    total = sum(estimate.seconds * estimate.left for estimate in estimates)
    table.add_section()
    table.add_row("all", "", duration(total))
    return table


def _print_recipe(run: "Run", console: Console, as_json: bool) -> None:
    recipe = run.recipe.model_dump(mode="json")
    if as_json:
        print(json.dumps(recipe, indent=1))
        return
    from bench.recipe.overrides import flatten

    for key, value in flatten({**recipe.pop("config"), **recipe}):
        print(f"{key} = {json.dumps(value)}")


def _results(records: "list[Record]", results_dir: Path) -> Table:
    from bench.leaderboard import published_reference

    first = records[0]
    table = Table(
        title=f"{first.title} on {first.dataset}, tier {first.tier}, {first.fidelity} fidelity, seed {first.seed}",
        caption="percent with 95 % interval",
    )
    for column in ("protocol", "measure", "accuracy", "paper"):
        table.add_column(column)
    for record in records:
        paper = published_reference(
            results_dir,
            title=record.title,
            dataset=record.recipe["dataset"]["published_as"],
            protocol=record.protocol,
        )
        rows = [
            ("SA", record.sa, paper and paper.sa),
            (
                f"RA, PGD-{record.ra.steps} at {255 * record.ra.eps:.3g}/255",
                record.ra.outcome,
                paper and paper.ra,
            ),
        ]
        if record.aa:
            rows.append((f"AA at {255 * record.aa.eps:.3g}/255", record.aa.outcome, paper and paper.aa))
        for measure, outcome, number in rows:
            known = "" if number is None else f"{number:.2f} %"
            table.add_row(record.protocol.upper(), measure, percent(outcome), known)
        for warning in record.aa.warnings if record.aa else []:
            table.add_row("", "AutoAttack warns", warning, "")
    return table
