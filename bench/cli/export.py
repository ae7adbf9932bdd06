"""``bench export``: the network of a run for people who do not have the bench."""

import json
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bench.cli import _options as option
from bench.monitor import plural


def export(
    run: Annotated[str, typer.Argument(help="The run's name, or how it alone begins; `bench runs` lists them.")],
    to: Annotated[str, typer.Option("--to", help="safetensors, torchvision, timm, onnx, robustbench.")] = "safetensors",
    protocol: Annotated[
        str | None,
        typer.Option(help="Export the classifier of slf, alf, aff, slf-1pct or slf-10pct; default: the encoder alone."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Of a run that was evaluated on several data: which; default: those of pre-training."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A new folder; default: exports/RUN[-PROTOCOL]-FORMAT.", show_default=False)
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to this model of the Hugging Face Hub.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would write and upload; stop.")] = False,
    runs_dir: option.RunsDir = Path("runs"),
    results_dir: option.Results = option.RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the weights of a run with a model card: results, limits, and how to load them without the bench.

    The folder appears whole or not at all. What a format cannot hold is refused, with the format that can.

    Examples:
      bench export digits-deacl-tiny-uniform-s0
      bench export digits-deacl-tiny-uniform-s0 --protocol slf --to onnx
      bench export cifar10-deacl-mini-uniform-s0 --protocol slf --to robustbench
      bench export digits-deacl-tiny-uniform-s0 --push-to-hub my-name/deacl-digits --dry-run
    """
    from bench.folders import check_new
    from bench.recipe import protocol_title
    from bench.report.model_export import check_repository, check_token, push, write_export
    from bench.run import run_folder

    if push_to_hub is not None:
        check_repository(push_to_hub)
        if not dry_run:
            check_token()
    name = "-".join(filter(None, (run_folder(runs_dir, run).name, protocol, to)))
    folder = Path("exports", name) if output is None else output
    check_new(folder)
    with TemporaryDirectory() if dry_run else nullcontext(folder.parent) as parent:
        made = Path(parent) / folder.name
        written = write_export(runs_dir, run, made, to=to, results_dir=results_dir, protocol=protocol, dataset=dataset)
    address = push(folder, push_to_hub) if push_to_hub and not dry_run else None
    if as_json:
        said = {**written._asdict(), "folder": str(folder), "repository": push_to_hub, "address": address}
        typer.echo(json.dumps({**said, "dry_run": dry_run}, indent=1))
        return
    for file, size in written.files.items():
        typer.echo(f"{file}: {size:,} bytes")
    shown = zip(map(protocol_title, written.protocols), written.datasets, written.radii, strict=True)
    results = ", ".join(f"{name} on {data} at {radius}" for name, data, radius in shown) or "none"
    typer.echo(f"results in the card: {results}")
    if written.others:
        typer.echo(f"left out: {plural(written.others, 'evaluation')} with other settings or data")
    for record in written.left_out:
        typer.echo(f"left out: {record}")
    typer.echo(f"{'would write' if dry_run else 'export'}: {folder}")
    if push_to_hub:
        typer.echo(f"{'would upload to' if dry_run else 'uploaded to'}: {address or push_to_hub}")
