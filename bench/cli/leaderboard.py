"""``bench leaderboard``: tables from records."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli._options import RESULTS, Results, recorded_name

if TYPE_CHECKING:
    from bench.results import Leaderboard

Format = Literal["markdown", "latex", "csv", "json"]


def leaderboard(
    results_dir: Results = RESULTS,
    dataset: Annotated[str | None, typer.Option(help="Show only this dataset.", callback=recorded_name)] = None,
    protocol: Annotated[str | None, typer.Option(help="Show only this protocol, such as slf or knn.")] = None,
    tier: Annotated[str | None, typer.Option(help="Show only this tier.")] = None,
    short: Annotated[
        bool, typer.Option("--short", help="Show one row a method, its tier's own recipe, ranked among themselves.")
    ] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Form for a paper or a program; default: for the screen.")
    ] = None,
    bibtex: Annotated[
        Path | None, typer.Option(help="With --format: file for the BibTeX of the methods in the tables.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option("--write", help="Write LEADERBOARD.md, CORRECTIONS.md and the blocks of README.md."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit with 3 if one of these files is stale or a published record is bad."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="With --write, --check: the board's file; default: LEADERBOARD.md, beside a folder `results` and "
            "inside any other. "
            "With --format: where the tables go, default stdout.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Show the tables of all records: the published ones, and yours beside them, marked (local).

    Examples:
      bench leaderboard
      bench leaderboard --dataset digits --protocol slf
      bench leaderboard --dataset digits --protocol slf --short
      bench leaderboard --format latex --dataset digits --protocol slf --bibtex methods.bib
      bench leaderboard --write
      bench leaderboard --check
    """
    from bench.errors import BenchError
    from bench.results import without_garbage_collection

    if sum(map(bool, (write, check, format_, as_json and format_))) > 1:
        raise BenchError("--write, --check and --format are different things to do, and --json is a format. Keep one.")
    if write or check:
        if short or any(option is not None for option in (dataset, protocol, tier, bibtex)):
            raise BenchError(
                "--write and --check are about the whole board: "
                "leave out --dataset, --protocol, --tier, --short and --bibtex."
            )
        with without_garbage_collection():
            _on_disk(results_dir, output, check=check, as_json=as_json)
        return
    format_ = "json" if as_json else format_
    if format_ is None and (output or bibtex):
        raise BenchError("--output and --bibtex need --write, --check or --format. Add, for example, --format latex.")
    with without_garbage_collection():
        _shown(results_dir, format_, output, bibtex, short=short, dataset=dataset, protocol=protocol, tier=tier)


def _on_disk(results_dir: Path, output: Path | None, *, check: bool, as_json: bool) -> None:
    """Write or check the board's files, and name them."""
    from bench.leaderboard import board_files, check_leaderboard, default_board, write_leaderboard
    from bench.record import submission_folders

    path = output or default_board(results_dir)
    board = check_leaderboard(results_dir, path) if check else write_leaderboard(results_dir, path)
    state, files = "up to date" if check else "written", ", ".join(map(str, board_files(results_dir, path)))
    offered = len(list(submission_folders(results_dir)))
    submissions = f", submissions: {offered}" if offered else ""
    typer.echo(f"{state}: {files} (records: {board.records}, rows: {len(board.rows)}{submissions})", err=as_json)
    if as_json:
        typer.echo(_json(board))
        return
    for bad in board.left_out:
        typer.echo(f"left out {bad.file}: {bad.reason}")


def _shown(
    results_dir: Path,
    format_: Format | None,
    output: Path | None,
    bibtex: Path | None,
    *,
    short: bool,
    **wanted: str | None,
) -> None:
    """Print the tables or write them to ``output``, and the citations to ``bibtex``; omissions go to stderr."""
    from bench.files import write_output
    from bench.leaderboard import bibliography, bibtex_entries
    from bench.monitor import plural
    from bench.results import build_leaderboard

    whole = build_leaderboard(results_dir).only(**wanted)
    board = whole.short() if short else whole
    for bad in board.left_out:
        typer.echo(f"left out {bad.file}: {bad.reason}", err=True)
    if hidden := len(whole.rows) - len(board.rows):
        typer.echo(f"--short leaves out {plural(hidden, 'row')} of other settings", err=True)
    if format_ is None:
        from bench.cli._board import show_board

        if board.rows or not whole.rows:
            show_board(board)
        for one in board.withdrawn:
            typer.echo(f"{one.said}: {results_dir / one.reasons} says why")
        return
    entries = bibtex_entries(row.method for row in board.rows) if bibtex or format_ == "latex" else {}
    if bibtex:
        write_output(bibtex, bibliography(entries).encode())
    # A link is read from where the text lies.
    records_at = Path(os.path.relpath(results_dir, output.parent)) if output else results_dir
    text = _text(board, format_, entries, records_at)
    if output:
        write_output(output, text.encode())
    else:
        typer.echo(text, nl=False)


def _text(board: "Leaderboard", format_: Format, entries: dict[str, str], records_at: Path) -> str:
    from bench.leaderboard import render_csv, render_latex, render_tables

    if format_ == "markdown":
        return render_tables(board, records_at=records_at.as_posix())
    if format_ == "latex":
        return render_latex(board, entries)
    return render_csv(board) if format_ == "csv" else _json(board) + "\n"


def _json(board: "Leaderboard") -> str:
    return json.dumps(board.model_dump(mode="json", include={"rows", "failed", "corrections", "left_out"}), indent=1)
