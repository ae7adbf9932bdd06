"""``bench sweep-eps`` and ``bench sweep-steps``: accuracy of finished runs against the size of the attack."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli._devices import Devices, screen, together
from bench.cli._options import LOCAL_RESULTS, DataDir, Device, RunsDir
from bench.cli._progress import monitored
from bench.cli._streams import work_is_kept
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.record import Outcome, Record, Sweep
    from bench.results import SweepKey
    from bench.run import Finished, SweepRequest

Runs = Annotated[list[str] | None, typer.Argument(help="Runs, as `bench runs` lists them; default: all of the data.")]
OnDataset = Annotated[str | None, typer.Option("--dataset", help="Only runs on this dataset.")]
UnderProtocol = Annotated[str, typer.Option("--protocol", help="Which protocol to attack, such as slf or knn.")]
StepSize = Annotated[float, typer.Option("--step-size", help="Of PGD, in units of eps; 0.25 is 2/255 at 8/255.")]
Output = Annotated[Path | None, typer.Option("--output", help="Folder for the figure; default: none is drawn.")]
ResultsDir = Annotated[
    Path,
    typer.Option("--results-dir", help="Where sweeps go, beside the records; results publishes them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the sweeps as JSON on stdout.")]


def sweep_eps(
    runs: Runs = None,
    dataset: OnDataset = None,
    protocol: UnderProtocol = "slf",
    eps: Annotated[
        str | None,
        typer.Option(help="Radii as 0,2/255,4/255, under L2 as 0,0.25,0.5; default: nine, up to twice the default."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of PGD.")] = 20,
    step_size: StepSize = 0.25,
    output: Output = None,
    device: Device = None,
    devices: Devices = None,
    runs_dir: RunsDir = Path("runs"),
    results_dir: ResultsDir = LOCAL_RESULTS,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Attack finished runs by PGD at growing eps (DeACL, figure 3).

    Examples:
      bench sweep-eps
      bench sweep-eps --dataset digits --eps 0,8/255,16/255
      bench sweep-eps RUN-UNDER-L2 --eps 0,0.25,0.5,1
      bench sweep-eps --dataset cifar10 --devices 4
    """
    from bench.run import SweepRequest

    request = SweepRequest("eps", _grid("--eps", eps, "0,2/255,4/255"), (steps,), step_size)
    _carry_out(
        request,
        runs,
        dataset,
        protocol,
        runs_dir=runs_dir,
        results_dir=results_dir,
        data_dir=data_dir,
        device=device,
        devices=devices,
        output=output,
        as_json=as_json,
    )


def sweep_steps(
    runs: Runs = None,
    dataset: OnDataset = None,
    protocol: UnderProtocol = "slf",
    steps: Annotated[str | None, typer.Option(help="Numbers of steps; default: 1,2,5,10,20,50,100.")] = None,
    eps: Annotated[str | None, typer.Option(help="The one radius, as 8/255; default: the dataset's.")] = None,
    step_size: StepSize = 0.25,
    output: Output = None,
    device: Device = None,
    devices: Devices = None,
    runs_dir: RunsDir = Path("runs"),
    results_dir: ResultsDir = LOCAL_RESULTS,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Attack finished runs by PGD with a growing number of steps (DeACL, figure 3), all on one trajectory.

    Examples:
      bench sweep-steps
      bench sweep-steps --dataset digits --steps 1,5,20
    """
    from bench.run import SweepRequest

    request = SweepRequest(
        "steps",
        _grid("--eps", eps, "0,2/255,4/255"),
        _whole("--steps", _grid("--steps", steps, "1,2,5,10,20,50,100")),
        step_size,
    )
    _carry_out(
        request,
        runs,
        dataset,
        protocol,
        runs_dir=runs_dir,
        results_dir=results_dir,
        data_dir=data_dir,
        device=device,
        devices=devices,
        output=output,
        as_json=as_json,
    )


def _carry_out(
    request: "SweepRequest",
    runs: list[str] | None,
    dataset: str | None,
    protocol: str,
    *,
    runs_dir: Path,
    results_dir: Path,
    data_dir: Path,
    device: str | None,
    devices: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Sweep the chosen runs, and print or draw the results."""
    from bench.device import pick_device
    from bench.parallel import is_first, on_first
    from bench.results import counted
    from bench.run import one_a_classifier, select_finished, sweep_runs

    with together(devices, device, threads=None):
        request.check()
        select = partial(select_finished, runs_dir, runs or (), dataset=dataset, protocol=protocol)
        counts = on_first(lambda: counted(select(), results_dir))
        counts.refuse_none("these runs")
        chosen = one_a_classifier(counts.found)
        with monitored(screen()) as monitor:
            for record in counts.left_out:
                monitor.note(f"left out: {record}")
            found = sweep_runs(
                chosen,
                request,
                results_dir,
                data_dir=data_dir,
                device=pick_device(device),
                withdrawn=counts.withdrawn,
                monitor=monitor,
            )
        if is_first():
            _show(found, chosen, results_dir, output, as_json)


def _show(
    found: "Sequence[tuple[Sweep, Path]]",
    chosen: "Sequence[Finished]",
    results_dir: Path,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print the sweeps that were ``found`` of the runs ``chosen``, and draw them."""
    sweeps = [sweep for sweep, _ in found]
    figures = _drawn(sweeps[0], results_dir, output) if output else []
    if as_json:
        print(json.dumps([sweep.model_dump(mode="json") for sweep in sweeps], indent=1))
        return
    work_is_kept()
    show(*_tables([(sweep, one.record) for sweep, one in zip(sweeps, chosen, strict=True)]))
    for _, path in found:
        print(f"sweep: {path}")
    for path in figures:
        print(f"figure: {path}")


def _drawn(sweep: "Sweep", results_dir: Path, output: Path) -> list[Path]:
    from bench.report.figures import Choice, draw_sweeps

    return draw_sweeps(results_dir, output, sweep.settings.kind, Choice(sweep.dataset, sweep.protocol)).files


def _tables(found: "list[tuple[Sweep, Record]]") -> list[DataTable]:
    """Return the tables of sweeps, each with the record of its classifier: what the board holds apart is apart here."""
    from bench.results import grouped, sweep_key, sweep_label, tier_forms

    forms = tier_forms(record for _, record in found)
    columns = [
        (sweep_key(*one, forms), f"{sweep_label(*one, local=False)}, seed {one[0].seed}", one[0]) for one in found
    ]
    tables = []
    for same in grouped(columns, lambda column: column[0]):
        key = same[0][0]
        tables.append(_table(key, [(name, sweep.outcomes) for _, name, sweep in same], _attack(key)))
        if key.settings.kind == "steps":
            worst = [(name, sweep.worst or ()) for _, name, sweep in same]
            tables.append(_table(key, worst, "the same, right at every iterate up to there"))
    return tables


def _attack(key: "SweepKey") -> str:
    from bench.results import NORMS, radius_text

    settings = key.settings
    if settings.kind == "eps":
        return f"accuracy under {NORMS[settings.norm]} PGD-{settings.steps[0]}, step size {settings.step_size:g} eps"
    return f"accuracy under PGD at {radius_text(settings.norm, settings.eps[0])}, step size {settings.step_size:g} eps"


def _table(key: "SweepKey", columns: "list[tuple[str, tuple[Outcome, ...]]]", title: str) -> DataTable:
    settings = key.settings
    heading, unit = {"linf": ("Linf eps x 255", 255), "l2": ("L2 eps", 1)}[settings.norm]
    table = DataTable(
        Column(heading if settings.kind == "eps" else "steps", number=True),
        *(Column(name, number=True, prose=True) for name, _ in columns),
        title=f"{key.dataset}, {key.conditions}: {title}",
        caption="percent with 95 % interval",
    )
    for number, value in enumerate(settings.grid):
        size = f"{unit * value:.3g}" if settings.kind == "eps" else str(value)
        table.add(size, *(_cell(outcomes[number]) for _, outcomes in columns))
    return table


def _cell(outcome: "Outcome") -> str:
    low, high = outcome.interval
    return f"{100 * outcome.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _grid(option: str, text: str | None, example: str) -> tuple[float, ...] | None:
    """Return the numbers in ``text``, such as "0,2/255,0.03", in ascending order and each once; None for None."""
    from bench.record import grid_fault

    if text is None:
        return None
    values, wrong = [], []
    for part in text.split(","):
        try:
            above, slash, below = part.partition("/")
            value = float(above) / float(below) if slash else float(above)
        except (ValueError, ArithmeticError):
            value = math.nan
        if math.isfinite(value):
            values.append(value)
        else:
            wrong.append(repr(part.strip()))
    if wrong:
        what = "is not a number" if len(wrong) == 1 else "are no numbers"
        raise BenchError(f"{option}: {', '.join(wrong)} {what}. Type, for example, {option} {example}")
    if fault := grid_fault(values):
        raise BenchError(f"{option} {text}: the grid {fault}.")
    return tuple(values)


def _whole(option: str, numbers: tuple[float, ...] | None) -> tuple[int, ...] | None:
    if wrong := [f"{number:g}" for number in numbers or () if number != int(number)]:
        what = "is not a whole number" if len(wrong) == 1 else "are no whole numbers"
        raise BenchError(f"{option}: {', '.join(wrong)} {what}. Type, for example, {option} 1,5,20")
    return None if numbers is None else tuple(map(int, numbers))
