"""``bench correct``: a record that no longer counts."""

import shlex
from typing import Annotated

import typer

from bench.cli._options import RESULTS, Results


def correct(
    record: Annotated[str, typer.Argument(help="A record: its file, or its name below the results.")],
    reason: Annotated[str, typer.Option(help="evaluation, training, data, weights, rerun or authors.")],
    note: Annotated[str, typer.Option(help="The reason in your words.")],
    superseded_by: Annotated[
        str | None, typer.Option(metavar="RECORD", help="The record that counts instead; default: it is withdrawn.")
    ] = None,
    results_dir: Results = RESULTS,
) -> None:
    """Withdraw a record, or supersede it: the board shows it no more, and CORRECTIONS.md says why.

    The record itself stays as it is. `bench leaderboard --write` then writes the board and CORRECTIONS.md; a local
    record was never there.

    Examples:
      bench correct RECORD --reason evaluation --note "PGD attacked normalised pixels"
      bench correct RECORD --reason rerun --note "trained with the mended loss" --superseded-by OTHER
    """
    from bench.compare import find_record
    from bench.record import LOCAL
    from bench.record import correct as corrected

    found = find_record(record, results_dir)
    other = None if superseded_by is None else find_record(superseded_by, results_dir).path
    path = corrected(found.path, found.record, results_dir, reason=reason, note=note, superseded_by=other)
    print(f"correction: {path}")
    if LOCAL in path.resolve().relative_to(results_dir.resolve().parent).parts:
        print("It is a local record: `bench leaderboard` no longer shows it, and the published board never did.")
    else:
        named = [] if results_dir == RESULTS else ["--results-dir", str(results_dir)]
        print(f"Type: {shlex.join(['bench', 'leaderboard', '--write', *named])}")
