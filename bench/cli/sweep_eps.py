"""``bench sweep-eps``: accuracy of finished runs against the radius of the attack."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli._grid import parse_eps
from bench.cli._options import LOCAL_RESULTS, DataDir, Device, RunsDir
from bench.cli._sweep import (
    AsJson,
    OnDataset,
    Output,
    ResultsDir,
    Runs,
    StepSize,
    UnderProtocol,
    carry_out,
)


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
    """
    from bench.run import SweepRequest

    request = SweepRequest("eps", parse_eps(eps) if eps is not None else None, (steps,), step_size)
    carry_out(
        request,
        runs,
        dataset,
        protocol,
        runs_dir=runs_dir,
        results_dir=results_dir,
        data_dir=data_dir,
        device=device,
        output=output,
        as_json=as_json,
    )
