"""``bench leaderboard``: tables from records."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bench.leaderboard import Leaderboard

Format = Literal["markdown", "latex", "csv", "json"]

_DEFAULT = Path("LEADERBOARD.md")


def leaderboard(
    results_dir: Annotated[
        Path, typer.Option("--results-dir", help="Folder of the records and of the published numbers.")
    ] = Path("results"),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="File to write, default LEADERBOARD.md; a README.md beside it gets its marked block. "
            "With --format: where the tables go, default stdout.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit with 3 if a text is stale or a record is bad."),
    ] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Print tables in this form instead of writing LEADERBOARD.md.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="With --format: only this dataset.")] = None,
    protocol: Annotated[str | None, typer.Option(help="With --format: only slf, alf or aff.")] = None,
    tier: Annotated[str | None, typer.Option(help="With --format: only this tier.")] = None,
    bibtex: Annotated[
        Path | None, typer.Option(help="With --format: file for the BibTeX of the methods in the tables.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Write LEADERBOARD.md from the records, beside what papers published.

    Examples:
      bench leaderboard
      bench leaderboard --check
      bench leaderboard --format latex --dataset digits --protocol slf --bibtex methods.bib
    """
    from bench.errors import BenchError
    from bench.leaderboard import build_leaderboard, check_leaderboard, write_leaderboard

    if format_ is not None:
        if check or as_json:
            raise BenchError("--format prints tables; it does not go with --check or --json. Leave one of them out.")
        board = build_leaderboard(results_dir).only(dataset=dataset, protocol=protocol, tier=tier)
        _print_tables(board, format_, output, bibtex, results_dir)
        return
    if any(option is not None for option in (dataset, protocol, tier, bibtex)):
        raise BenchError("--dataset, --protocol, --tier and --bibtex belong to --format. Add, say, --format latex.")
    path = output or _DEFAULT
    board = check_leaderboard(results_dir, path) if check else write_leaderboard(results_dir, path)
    if as_json:
        typer.echo(_json(board))
        return
    state = "is up to date" if check else "written"
    typer.echo(f"{path} {state} (records: {board.records}, rows: {len(board.rows)})")
    for bad in board.left_out:
        typer.echo(f"left out {bad.file}: {bad.reason}")


def _print_tables(
    board: "Leaderboard", format_: Format, output: Path | None, bibtex: Path | None, results_dir: Path
) -> None:
    """Print the tables or write them to ``output``, and the citations to ``bibtex``; stderr says what is left out."""
    from bench.files import write_bytes
    from bench.leaderboard import bibliography, bibtex_entries, render_csv, render_latex, render_tables

    entries = bibtex_entries(row.method for row in board.rows) if bibtex or format_ == "latex" else {}
    if format_ == "markdown":
        text = render_tables(board, records_at=results_dir.as_posix())
    elif format_ == "latex":
        text = render_latex(board, entries)
    else:
        text = render_csv(board) if format_ == "csv" else _json(board) + "\n"
    for bad in board.left_out:
        typer.echo(f"left out {bad.file}: {bad.reason}", err=True)
    if bibtex:
        write_bytes(bibtex, bibliography(entries).encode())
    if output:
        write_bytes(output, text.encode())
    else:
        typer.echo(text, nl=False)


def _json(board: "Leaderboard") -> str:
    return json.dumps(board.model_dump(mode="json", include={"rows", "left_out"}), indent=1)
