"""``bench submit``: a run's records for the board, in a folder that a pull request can carry."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import _options as option


def submit(
    run: Annotated[str, typer.Argument(help="The run's name, or how it alone begins; `bench runs` lists them.")],
    by: Annotated[str, typer.Option(help="Your name, which the submission holds.")],
    to: Annotated[
        Path | None, typer.Option(help="The folder; default: results/submissions/RUN-DIGITS.", show_default=False)
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    results_dir: option.Results = option.RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the submission as JSON.")] = False,
) -> None:
    """Pack a run's records, card, commands, and the digests of its weights into one folder.

    Weights of at most a megabyte are in it. In a clone of the repository, `bench leaderboard --check` checks it.

    Examples:
      bench submit digits-deacl-tiny-uniform-s0 --by "Ada Lovelace"
    """
    from bench.record import SUBMISSIONS
    from bench.report.model_export import submission_name, write_submission
    from bench.run import run_folder

    place = option.RESULTS / SUBMISSIONS / submission_name(run_folder(runs_dir, run))
    folder = to or place
    made = write_submission(runs_dir, run, folder, by=by, results_dir=results_dir, place=place)
    written = made.submission
    if as_json:
        said = {"folder": str(folder), "left_out": made.left_out, **written.model_dump(mode="json")}
        print(json.dumps(said, indent=1))
        return
    for record in made.left_out:
        print(f"left out: {record}")
    for name in written.records:
        print(f"record: {folder / name}")
    for name, weights in written.weights.items():
        where = folder / name if weights.included else f"{name}, not in the folder: keep it where others can fetch it"
        print(f"weights: {where} ({weights.size:,} bytes)")
    for code in sorted(folder.glob("code/**/*.py")):
        print(f"code: {code}, which verifying needs")
    print(f"card: {folder / 'README.md'}")
    if Path("LEADERBOARD.md").is_file() and folder == place:
        print("Type: bench leaderboard --check. Then open a pull request with this folder.")
        return
    print(f"A pull request adds this folder to the repository, as {place}. In your clone, type:")
    print(f"  mkdir -p {place.parent}")
    print(f"  cp -r {shlex.quote(str(folder.absolute()))} {shlex.quote(str(place))}")
    print("  bench leaderboard --check")
    print(f"  git add {shlex.quote(str(place))} && git commit -m 'Records of {place.name}' && git push")
