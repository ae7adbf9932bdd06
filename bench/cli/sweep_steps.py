"""``bench sweep-steps``: accuracy of finished runs against the steps of the attack."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli._grid import parse_eps, parse_steps
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


def sweep_steps(
    runs: Runs = None,
    dataset: OnDataset = None,
    protocol: UnderProtocol = "slf",
    steps: Annotated[str | None, typer.Option(help="Numbers of steps; default: 1,2,5,10,20,50,100.")] = None,
    eps: Annotated[str | None, typer.Option(help="The one radius, as 8/255; default: the dataset's.")] = None,
    step_size: StepSize = 0.25,
    output: Output = None,
    device: Device = None,
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
        parse_eps(eps) if eps is not None else None,
        parse_steps(steps) if steps is not None else None,
        step_size,
    )
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
