"""``bench leaderboard``: tables from records."""

import json
from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    results_dir: Annotated[
        Path, typer.Option("--results-dir", help="Folder of the records and of the published numbers.")
    ] = Path("results"),
    output: Annotated[
        Path, typer.Option("--output", help="File to write; a README.md beside it gets its marked block.")
    ] = Path("LEADERBOARD.md"),
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit with 3 if a text is stale or a record is bad."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Write LEADERBOARD.md from the records, beside what papers published.

    Examples: `bench leaderboard`, `bench leaderboard --check`
    """
    from bench.leaderboard import check_leaderboard, write_leaderboard

    board = check_leaderboard(results_dir, output) if check else write_leaderboard(results_dir, output)
    if as_json:
        typer.echo(json.dumps(board.model_dump(mode="json", include={"rows", "left_out"}), indent=1))
        return
    state = "is up to date" if check else "written"
    typer.echo(f"{output} {state} (records: {board.records}, rows: {len(board.rows)})")
    for bad in board.left_out:
        typer.echo(f"left out {bad.file}: {bad.reason}")
