"""The command line: one file a command or a family of them, which parses, calls one public function, and prints.

Nothing here, and nothing a command imports at its top, imports torch: ``bench --help`` answers at once.
"""

import errno
import sys
import warnings
from traceback import print_exception
from typing import Annotated

import typer

from bench.cli import (
    ablate,
    compare,
    correct,
    doctor,
    evaluate,
    export,
    import_,
    leaderboard,
    listings,
    matrix,
    new,
    plan,
    plot,
    report,
    run,
    site,
    submit,
    sweep,
    timing,
    verify,
)
from bench.cli._app import App, placed
from bench.cli._streams import ReportedExit, guarded
from bench.errors import BenchError, InterruptedRunError, UnwritableError
from bench.own_code import told

app = App(
    help="How robust is a self-supervised encoder, and what did it cost?",
    epilog="Start with: bench run deacl --dataset digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
COMMANDS = (
    run.run,
    evaluate.evaluate,
    import_.import_,
    export.export,
    ablate.ablate,
    sweep.sweep_eps,
    sweep.sweep_steps,
    leaderboard.leaderboard,
    compare.compare,
    doctor.doctor,
    verify.verify,
    correct.correct,
    submit.submit,
    plan.plan,
    timing.timing,
    site.site,
    report.report,
    new.new,
    listings.methods,
    listings.datasets,
    listings.tiers,
    listings.runs,
    listings.list_,
)
_UNREACHABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)
"""What the system says where it cannot even look for a file that was named."""
_state: dict[str, bool] = {}
"""Options of the program itself that hold until it ends."""

for command in COMMANDS:
    app.command(command.__name__.strip("_").replace("_", "-"))(command)
app.add_typer(plot.plot, name="plot")
app.add_typer(matrix.matrix, name="matrix")


@app.callback(invoke_without_command=True)
def _first(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and stop.")] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:NAME",
            envvar="BENCH_METHOD",
            help="Load a method that is not installed, so that a command can read its runs; may be repeated.",
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:NAME", help="The same for an encoder; may be repeated.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:NAME", help="The same for an attack; may be repeated.")
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Also show the calls that led to an error, for code of your own.")
    ] = False,
) -> None:
    _state["traceback"] = traceback
    if version:
        from importlib.metadata import version as package_version

        print(f"bench {package_version('ssl-robustness-bench')}")
        raise typer.Exit
    if method:
        from bench.method import METHODS

        for each in method:
            METHODS.name_of(each)
    if encoder:
        from bench.nn import ENCODERS

        for each in encoder:
            ENCODERS.name_of(each)
    if attack:
        from bench.attack import ATTACKS

        for each in attack:
            ATTACKS.name_of(each)


def main() -> None:
    """Run the command line; a user's mistake is one message on stderr and an exit code, never a traceback."""
    # A warning is one line, without its place in the code.
    warnings.formatwarning = lambda message, *_: f"{message}\n"
    with guarded() as streams:
        code = 0
        try:
            app(prog_name="bench")
        except (Exception, SystemExit) as error:
            found = told(error)
            if isinstance(found, UnwritableError):
                found = placed(found)
            elif isinstance(found, OSError) and found.errno in _UNREACHABLE:
                found = BenchError(f"{found.filename}: {found.strerror}. Check the path, and that you may read it.")
            if isinstance(found, BenchError):
                if _state.get("traceback"):
                    print_exception(error)
                print(f"bench: {found}", file=sys.stderr)
                code = found.exit_code
            elif isinstance(found, SystemExit):
                # Typer prints nothing on Ctrl-C.
                if found.code == InterruptedRunError.exit_code and not isinstance(found, ReportedExit):
                    print("bench: interrupted", file=sys.stderr)
                code = found.code if isinstance(found.code, int) else int(found.code is not None)
            else:
                raise
        lost = streams.lost()
        if lost:
            print(f"bench: {lost}", file=sys.stderr)
            code = code or int(not streams.work_is_kept)
    sys.exit(code)
