"""``bench new``: a method of one's own to begin with."""

import shlex
from typing import Annotated

import typer


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Its name: words with - between them.", show_default=False)
    ],
) -> None:
    """Write a method in one file, with its test, into the current folder.

    It works as it is: it learns to name the rotation of attacked images. Change it into yours.

    Examples:
      bench new my-method
      bench run ./my_method.py:MyMethod --dataset digits
    """
    from bench.template import write_method

    written = write_method(name)
    own = shlex.quote(f"./{written.file}:{written.name}")
    print(f"wrote {written.file} and {written.test}. Next:")
    print(f"  python -m pytest {shlex.quote(str(written.test))}")
    print(f"  bench run {own} --dataset digits")
    print("  bench leaderboard --dataset digits")
    print(f"Title, year and paper of its row are in MethodInfo, at the end of {written.file}.")
