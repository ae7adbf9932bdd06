"""``bench plan``: what a grid will take, before anything is trained."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import _options as option
from bench.cli._matrix import Datasets, Methods, Seeds, matrix_request
from bench.cli._progress import rough_time, saying
from bench.cli._tables import Column, DataTable, digits, show

if TYPE_CHECKING:
    from bench.matrix import GridPlan


def plan(
    methods: Methods = "all",
    datasets: Datasets = "cifar10",
    seeds: Seeds = "0",
    protocols: option.Protocols = None,
    tier: Annotated[str, typer.Option(help="How far to scale the published recipe.")] = "paper",
    fidelity: option.Fidelity = "uniform",
    preset: option.Preset = None,
    precision: option.Precision = None,
    set_: option.SetOfMethods = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many devices work at once.")] = 1,
    profile: Annotated[
        list[Path] | None,
        typer.Option(
            help="Steps measured elsewhere, by `make gpu-check` or `bench timing --output`; may be repeated. "
            "Default: steps are timed here."
        ),
    ] = None,
    device: option.Device = None,
    data_dir: option.DataDir = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON on stdout.")] = False,
) -> None:
    """Project the jobs, device-hours, time, disk and energy of a grid, from measured steps.

    Included are training (a stage that cells share counts once a seed), the protocols with their selection of an
    epoch, SA, RA, AA, further attacks, corruptions and the doctor's checks. Not included are reading data, what a stage
    prepares before its first step (pseudo-labels), sweeps and figures. Without --profile each kind of step is timed
    here, on 2 to 8 images and for about two seconds, and attacks on 16 images.

    Examples:
      bench plan --methods deacl,simclr --datasets digits --tier tiny --seeds 0,1,2
      bench plan --tier paper --methods all --datasets cifar10,cifar100 --seeds 0,1,2 --gpus 8
    """
    from bench.matrix import plan_costs

    request = matrix_request(
        *(methods, datasets, seeds, protocols),
        tier=tier,
        fidelity=fidelity,
        preset=preset,
        precision=precision,
        set_=set_,
        device=device,
        data_dir=data_dir,
    )
    with saying("reading the data and building every recipe") as said:
        found = plan_costs(request, gpus, profile or (), said)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    show(_table(found))
    for line in _lines(found):
        print(line)


def _table(found: "GridPlan") -> DataTable:
    from bench.results import machine_text  # imports numpy, which --help does without

    table = DataTable(
        *("method", "dataset", Column("jobs", number=True), Column("each", number=True), Column("all", number=True)),
        Column("not measured", prose=True, drop=1),
        title=f"tier {found.tier}, {found.fidelity} fidelity; "
        f"steps measured on {machine_text(found.measured_on)} ({found.source})",
        caption=f"device time of: {_included(found)}\n{_timed(found)}",
    )
    for row in found.rows:
        table.add(
            row.method, row.dataset, row.jobs, _time(row.hours_each), _time(row.hours), ", ".join(row.not_measured)
        )
    table.rule()
    table.add("all", "", found.jobs, "", _time(found.hours), "")
    return table


def _included(found: "GridPlan") -> str:
    """Return what the projection includes, and what it does not."""
    phases = ["training" if phase.startswith("stage ") else phase for phase in found.includes]
    return f"{'; '.join(dict.fromkeys(phases))}. Not included: reading data, pseudo-labels, sweeps, figures."


def _timed(found: "GridPlan") -> str:
    """Return which numbers were measured, and which follow from them."""
    images, batches = ({getattr(step, key) for step in found.steps.values()} for key in ("images", "batch"))
    if not images:
        return "No step was measured."
    span = [f"{min(each)}" if len(each) == 1 else f"{min(each)} to {max(each)}" for each in (images, batches)]
    kinds = {phase.partition(",")[0] for phase in found.includes}
    attacks = ", and attacks" if "RA" in kinds else ""
    surviving = ", half of which are taken to survive AA" if "AA" in kinds else ""
    return (
        f"Measured: steps of {span[0]} images, each kind once{attacks}. Scaled: on a line to the batches of "
        f"{span[1]}, to all epochs, and to the test images{surviving}."
    )


def _lines(found: "GridPlan") -> list[str]:
    """Return the totals in words."""
    devices = f"{found.gpus} device{'s' * (found.gpus > 1)}"
    lines = [*(f"left out {line}" for line in found.left_out), *([found.busy] if found.busy else [])]
    if found.hours is None:
        lines.append(f"device time: at least {_time(found.known_hours)}; {found.absent['hours']}")
    else:
        lines.append(f"device time: {_time(found.hours)}; with {devices}: {_time(found.wall_hours)}")
        path = ", then ".join(found.critical_path)
        lines.append(f"no number of devices is faster than {_time(found.critical_hours)}: {path}")
    lines.append(f"disk: {found.disk_bytes / 2**30:.2g} GiB of weights and states")
    if found.energy_kwh is None:
        lines.append(f"energy: not known, {found.absent['energy_kwh']}")
    else:
        lines.append(f"energy: {digits(found.energy_kwh)} kWh")
    if equal := found.equal_compute:
        change = "saves" if equal.saved_hours >= 0 else "costs"
        lines.append(
            f"equal compute (--budget like:{equal.reference} for every method): {_time(equal.hours)}, "
            f"{change} {_time(abs(equal.saved_hours))}"
        )
    else:
        lines.append(f"equal compute: not known, {found.absent['equal_compute']}")
    return lines


def _time(hours: float | None) -> str:
    return "" if hours is None else rough_time(3600 * hours)
