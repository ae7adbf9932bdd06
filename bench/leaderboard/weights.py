"""The page that describes the encoders of published records: files that Git does not hold, and anybody can check."""

import os
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from bench.errors import BenchError
from bench.files import check_output, file_digest, write_bytes
from bench.leaderboard.columns import Column, markdown_table
from bench.leaderboard.output import read_page
from bench.results import Measured, attack_text, escape, read_groups

_HEAD = """# Weights of the published encoders

<!-- Written by `bench runs --weights`: edits are overwritten. -->

The encoder files of published records, which are not in the repository: with its SHA-256 a file that you were given
can be told to be the one. Of a record without a line here no encoder file was offered. A record holds the digest of
the weights themselves, so those of another run are refused. This trains the record's protocol on an encoder, and
measures the record again:

```bash
bench verify RECORD --weights FILE --by "Ada Lovelace"
```
"""


_LINE = re.compile(r"\| (?P<file>.+) \| (?P<bytes>[\d,]+) \| `(?P<sha256>[0-9a-f]{64})` \| (?P<records>.+) \|")
"""A line of the page's table."""


class WeightsPage(NamedTuple):
    """What a page of weights was written from."""

    found: int
    """Encoders under the folder of runs."""
    kept: int
    """Lines of the page of before, of encoders that are not there."""
    lacking: list[str]
    """Files of the published records without a line."""


def write_weights_page(path: Path, runs_dir: Path, results_dir: Path) -> WeightsPage:
    """Write to ``path`` the encoder file of each published record, with its size and SHA-256.

    Where the encoder is not under ``runs_dir``, the line that ``path`` has for it stays.

    Raises:
        BenchError: no such results folder, or a ``path`` that holds something else or cannot be written.
    """
    check_output(path)
    before = read_page(path) or ""
    if before and not before.startswith(_HEAD[: _HEAD.index(":")]):
        raise BenchError(f"{path} is not a page of weights, so it is kept. Choose another file.")
    records = _by_encoder(results_dir)
    files = _encoder_files(runs_dir, records)
    cells = {found: _described(file) for found, file in files.items()}
    absent = {found: same for found, same in records.items() if found not in files}
    kept = _lines(before, path.parent, absent)
    known = sorted((*line, _links(records[found], path.parent)) for found, line in (cells | kept).items())
    columns = [
        Column("File", [file for file, *_ in known], left=True),
        Column("Bytes", [size for _, size, *_ in known]),
        Column("SHA-256", [f"`{sha256}`" for _, _, sha256, _ in known], left=True),
        Column("Records", [links for *_, links in known], left=True),
    ]
    write_bytes(path, f"{_HEAD}\n{markdown_table(columns)}\n".encode())
    lacking = [one.path.name for found, same in absent.items() if found not in kept for one in same]
    return WeightsPage(len(files), len(kept), sorted(lacking))


def _described(encoder: Path) -> tuple[str, str, str]:
    """Return name, bytes and SHA-256 of the file ``encoder``.

    The name has the beginning of the digest: on two kinds of machine one run trains two encoders.
    """
    sha256 = file_digest(encoder)
    return f"{escape(encoder.parent.name)}-{sha256[:8]}.safetensors", f"{encoder.stat().st_size:,}", sha256


def _lines(page: str, folder: Path, records: Mapping[str, Sequence[Measured]]) -> dict[str, tuple[str, str, str]]:
    """Return file, bytes and SHA-256 of each line of ``page``, which lies in ``folder``, that links to ``records``.

    Both are by the digest of the encoder's weights.
    """
    encoders = {one.path.resolve(): found for found, same in records.items() for one in same}
    lines = {}
    for line in filter(None, map(_LINE.fullmatch, page.splitlines())):
        for target in re.findall(r"\]\(([^)]+)\)", line["records"]):
            if found := encoders.get((folder / unquote(target)).resolve()):
                lines[found] = line["file"], line["bytes"], line["sha256"]
    return lines


def _by_encoder(results_dir: Path) -> Mapping[str, Sequence[Measured]]:
    """Return the published records by the digest of their encoder's weights."""
    found = defaultdict[str, list[Measured]](list)
    for group in read_groups(results_dir, local=False).groups:
        for one in group.seeds:
            found[one.record.encoder_sha256].append(one)
    return found


def _encoder_files(runs_dir: Path, digests: Container[str]) -> dict[str, Path]:
    """Return the encoder file under ``runs_dir`` of each of ``digests`` that is there."""
    from bench.run import run_folders  # imports torch, which the board does without
    from bench.zoo import digest, load_tensors

    files = {}
    for run in run_folders(runs_dir):
        encoder = run / "encoder.safetensors"
        if encoder.exists() and (found := digest(load_tensors(encoder).tensors)) in digests:
            files[found] = encoder
    return files


def _links(records: Sequence[Measured], folder: Path) -> str:
    """Return a link to each record, from a page in ``folder``."""
    named = sorted(
        (", ".join(filter(None, (one.record.protocol, attack_text(one)))), os.path.relpath(one.path, folder))
        for one in records
    )
    return " ".join(f"[{name}]({quote(Path(path).as_posix())})" for name, path in named)
