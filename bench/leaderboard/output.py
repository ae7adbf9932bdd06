"""The board on disk: LEADERBOARD.md and the block of README.md beside it, written or checked."""

import os
import shlex
from pathlib import Path

from bench.errors import BenchError, CheckFailedError
from bench.files import write_bytes
from bench.leaderboard.board import Leaderboard, build_leaderboard
from bench.leaderboard.markdown import GENERATED, render_leaderboard
from bench.leaderboard.readme import render_readme_block

_BEGIN, _END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"


def write_leaderboard(results_dir: Path, path: Path) -> Leaderboard:
    """Write the board of ``results_dir`` to ``path``, and into the marked block of a README beside it.

    Returns what was written, with the files that had to be left out.

    Raises:
        BenchError: no such results folder, faulty published numbers or markers, an unwritable file, or a
            ``path`` that holds something else than a leaderboard.
    """
    board = build_leaderboard(results_dir)
    present = _read(path)
    if present and not present.startswith(GENERATED):
        raise BenchError(f"{path} is not a generated leaderboard, so it stays. Choose another file with --output.")
    for target, text in _texts(board, results_dir, path).items():
        write_bytes(target, text.encode())
    return board


def check_leaderboard(results_dir: Path, path: Path) -> Leaderboard:
    """Return the board of ``results_dir`` if that is what ``path`` and the README beside it show.

    Raises:
        CheckFailedError: a text is missing or stale, or a record cannot be trusted; names every such file.
        BenchError: as :func:`write_leaderboard`.
    """
    board = build_leaderboard(results_dir)
    faults = [f"cannot trust {results_dir / bad.file}: {bad.reason}" for bad in board.left_out]
    stale = [target for target, text in _texts(board, results_dir, path).items() if not _shows(target, text)]
    if stale:
        command = shlex.join(["--results-dir", str(results_dir), "--output", str(path)])
        names = " and ".join(map(str, stale))
        faults.append(f"stale or missing: {names}. Type: bench leaderboard {command}")
    if faults:
        raise CheckFailedError("\n".join(faults))
    return board


def _texts(board: Leaderboard, results_dir: Path, path: Path) -> dict[Path, str]:
    """Return what each file ought to hold."""
    records_at = Path(os.path.relpath(results_dir, path.parent)).as_posix()
    texts = {path: render_leaderboard(board, records_at=records_at)}
    readme = path.parent / "README.md"
    present = None if readme == path else _read(readme)
    if present is not None and (_BEGIN in present or _END in present):
        texts[readme] = _with_block(readme, present, render_readme_block(board, details_at=path.name))
    return texts


def _with_block(readme: Path, text: str, block: str) -> str:
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end) or _END in before or _BEGIN in rest or _END in after:
        raise BenchError(f"{readme}: write {_BEGIN} and, below it, {_END}, each exactly once.")
    return f"{before}{_BEGIN}\n{block}\n{_END}{after}"


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}") from None


def _shows(path: Path, text: str) -> bool:
    present = _read(path)
    # A checkout may have turned the line ends into those of its system.
    return present is not None and present.replace("\r\n", "\n") == text.replace("\r\n", "\n")
