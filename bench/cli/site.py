"""``bench site``: the records as a static site."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli._options import RESULTS, Results


def site(
    output: Annotated[Path, typer.Option("--output", help="Folder of the site; made, or replaced as a whole.")] = Path(
        "site"
    ),
    results_dir: Results = RESULTS,
    serve: Annotated[bool, typer.Option("--serve", help="Then serve it to this machine until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option("--port", help="With --serve: where to listen; 0: any free port.")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the records as a static site: one folder, no network, nothing to install for its readers.

    Examples:
      bench site
      bench site --output public --serve
    """
    from bench.report.site import serving, write_site

    with Console(stderr=True).status("writing the site"):
        written = write_site(results_dir, output)
    if as_json:
        typer.echo(json.dumps({**written._asdict(), "folder": str(written.folder)}, indent=1))
    else:
        typer.echo(f"{output / 'index.html'} written (records: {written.records}, methods: {written.methods})")
        for record in written.failed:
            typer.echo(record)
        for file, reason in written.left_out:
            typer.echo(f"left out {file}: {reason}")
    if not serve:
        return
    with serving(output, port) as server:
        typer.echo(f"look at http://127.0.0.1:{server.server_port}/ and press Ctrl-C to stop", err=as_json)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped", err=as_json)
