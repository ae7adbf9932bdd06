"""``bench report``: one run with pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli._options import RESULTS, Results


def report(
    run: Annotated[str, typer.Argument(help="The run's name, or how it alone begins; `bench runs` lists them.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of the report; default: reports/RUN.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="How many test images of each outcome to show.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the best there is.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    results_dir: Results = RESULTS,
    data_dir: Annotated[Path, typer.Option(help="Where datasets are downloaded to.")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a report of a run, in Markdown and HTML, with its images before and after the attack.

    Examples:
      bench report digits-deacl-tiny-uniform-s0
      bench report digits-deacl-tiny-uniform-s0 --images 8 --output report
    """
    from bench.device import pick_device
    from bench.report.run_report import write_report
    from bench.run import run_folder

    folder = Path("reports", run_folder(runs_dir, run).name) if output is None else output
    written = write_report(
        *(runs_dir, run, folder),
        results_dir=results_dir,
        data_dir=data_dir,
        device=pick_device(device),
        of_each=images,
    )
    if as_json:
        typer.echo(json.dumps({**written._asdict(), "folder": str(folder)}, indent=1))
        return
    typer.echo(f"protocols: {', '.join(written.protocols)}; test images shown: {written.pictures}")
    for record in written.left_out:
        typer.echo(f"left out: {record}")
    for name in ("report.html", "report.md"):
        typer.echo(f"report: {folder / name}")
