"""``bench plot``: figures from sweeps, records and runs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bench.cli._app import App
from bench.cli._options import RESULTS, DataDir, Device, Results, RunsDir, method_name, recorded_name
from bench.cli._progress import monitored, reporting
from bench.monitor import Monitor

if TYPE_CHECKING:
    from bench.record import SweepKind
    from bench.report.figures import Drawn

plot = App(
    help="Draw figures as PNG and SVG: bench plot eps, steps, minimal, cost, curves or tsne.", no_args_is_help=True
)

OnDataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Only results on this dataset; default: all.", callback=recorded_name),
]
UnderProtocol = Annotated[
    str | None, typer.Option("--protocol", help="Only under this protocol, such as slf or knn; default: all.")
]
Output = Annotated[Path, typer.Option("--output", help="Folder for the figures.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures' paths as JSON on stdout.")]

_FIGURES = Path("figures")


def _of_sweeps(kind: "SweepKind", what: str) -> None:
    """Add the command that draws the sweeps of ``kind``."""

    def draw(
        dataset: OnDataset = None,
        protocol: UnderProtocol = None,
        results_dir: Results = RESULTS,
        output: Output = _FIGURES,
        as_json: AsJson = False,
    ) -> None:
        from bench.report.figures import Choice, draw_sweeps

        _say(draw_sweeps(results_dir, output, kind, Choice(dataset, protocol)), as_json)

    examples = f"`bench plot {kind}`, `bench plot {kind} --dataset digits --output results/digits/sweeps`"
    plot.command(
        kind, help=f"Accuracy against {what}, from `bench sweep-{kind}` (DeACL, figure 3).\n\nExamples: {examples}"
    )(draw)


_of_sweeps("eps", "the radius of the attack")
_of_sweeps("steps", "the steps of the attack")


@plot.command()
def minimal(
    dataset: OnDataset = None,
    protocol: UnderProtocol = None,
    results_dir: Results = RESULTS,
    output: Output = _FIGURES,
    as_json: AsJson = False,
) -> None:
    """Accuracy at every radius, from records of runs with `--attacks min-norm`.

    Examples: `bench plot minimal`, `bench plot minimal --dataset digits --protocol slf`
    """
    from bench.report.figures import Choice, draw_minimal

    _say(draw_minimal(results_dir, output, Choice(dataset, protocol)), as_json)


@plot.command()
def cost(
    dataset: OnDataset = None,
    protocol: UnderProtocol = None,
    short: Annotated[
        bool, typer.Option("--short", help="One mark a method, its tier's own recipe, as in the short leaderboard.")
    ] = False,
    time: Annotated[
        bool, typer.Option("--time", help="Wall-clock instead of operations: one figure for each kind of machine.")
    ] = False,
    results_dir: Results = RESULTS,
    output: Output = _FIGURES,
    as_json: AsJson = False,
) -> None:
    """Robustness against what pre-training cost, from the records (DeACL, figure 1).

    Examples: `bench plot cost`, `bench plot cost --short --dataset digits`, `bench plot cost --protocol slf --time`
    """
    from bench.report.figures import Choice, draw_cost

    _say(draw_cost(results_dir, output, Choice(dataset, protocol), short=short, time=time), as_json)


@plot.command()
def curves(
    dataset: OnDataset = None,
    protocol: UnderProtocol = None,
    method: Annotated[str | None, typer.Option("--method", help="Only of this method; default: all.")] = None,
    results_dir: Results = RESULTS,
    output: Output = _FIGURES,
    as_json: AsJson = False,
) -> None:
    """Losses, accuracies and learning rates of training, epoch by epoch, from the records.

    Examples: `bench plot curves --method deacl --protocol slf`, `bench plot curves --dataset digits`
    """
    from bench.report.figures import Choice, draw_curves

    choice = Choice(dataset, protocol, method and method_name(method))
    with reporting(Console(stderr=True)) as reporter:
        drawn = draw_curves(results_dir, output, choice, monitor=Monitor(reporter))
    _say(drawn, as_json)


@plot.command()
def tsne(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs, as `bench runs` lists them; default: all of the data.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only runs on this dataset.")] = None,
    protocol: Annotated[str, typer.Option(help="Of which finished protocol, such as slf.")] = "slf",
    adversarial: Annotated[
        bool, typer.Option("--adversarial", help="Show the images attacked as for RA, too, in a row below.")
    ] = False,
    images: Annotated[int, typer.Option(min=4, help="How many test images to show at most.")] = 2000,
    output: Output = _FIGURES,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    results_dir: Results = RESULTS,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Draw the features of test images in the plane, one panel a run (DeACL, figure 4).

    Examples: `bench plot tsne`, `bench plot tsne --dataset digits --adversarial`
    """
    from bench.device import pick_device
    from bench.report.figures import Drawn, draw_tsne
    from bench.results import counted
    from bench.run import one_a_classifier, select_finished

    counts = counted(select_finished(runs_dir, runs or (), dataset=dataset, protocol=protocol), results_dir)
    counts.refuse_none("these runs")
    with monitored(Console(stderr=True)) as monitor:
        for record in counts.left_out:
            monitor.note(f"left out: {record}")
        files = draw_tsne(
            one_a_classifier(counts.found),
            output,
            data_dir=data_dir,
            device=pick_device(device),
            images=images,
            adversarial=adversarial,
            monitor=monitor,
        )
    _say(Drawn(files, ()), as_json)


def _say(drawn: "Drawn", as_json: bool) -> None:
    """Print where the figures are, and on stderr what had to be left out of them."""
    for bad in drawn.left_out:
        print(f"left out {bad.file}: {bad.reason}", file=sys.stderr)
    if as_json:
        print(json.dumps([str(path) for path in drawn.files], indent=1))
        return
    for path in drawn.files:
        print(f"figure: {path}")
