"""The page that describes the encoders of published records: files that Git does not hold, and anybody can check."""

import os
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from bench.errors import BenchError
from bench.files import file_digest, write_bytes
from bench.leaderboard.columns import Column, markdown_table
from bench.results import Measured, escape, read_groups

_HEAD = """# Weights of the published encoders

<!-- Written by `bench runs --weights`: edits are overwritten. -->

The encoder of each record goes with the release that publishes it, as a file of the name below; SHA-256 is that of the
file. A record holds the digest of the weights themselves, so those of another run are refused. This trains the record's
protocol on an encoder, and measures the record again:

```bash
bench verify RECORD --weights FILE --by "Ada Lovelace"
```
"""


def write_weights_page(path: Path, runs_dir: Path, results_dir: Path) -> tuple[int, list[str]]:
    """Write to ``path`` the encoder file of each published record, with its size and SHA-256.

    Returns:
        the number of encoders, and the files of the records whose encoder is not under ``runs_dir``.

    Raises:
        BenchError: no such results folder, or a ``path`` that holds something else or cannot be written.
    """
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(_HEAD[: _HEAD.index(":")]):
        raise BenchError(f"{path} is not a page of weights, so it is kept. Choose another file.")
    records = _by_encoder(results_dir)
    files = _encoder_files(runs_dir, records)
    known = sorted((file.parent.name, found, file) for found, file in files.items())
    columns = [
        Column("File", [f"{escape(name)}.safetensors" for name, _, _ in known], left=True),
        Column("Bytes", [f"{file.stat().st_size:,}" for _, _, file in known]),
        Column("SHA-256", [f"`{file_digest(file)}`" for _, _, file in known], left=True),
        Column("Records", [_links(records[found], path.parent) for _, found, _ in known], left=True),
    ]
    write_bytes(path, f"{_HEAD}\n{markdown_table(columns)}\n".encode())
    lacking = [one.path.name for found, same in records.items() if found not in files for one in same]
    return len(known), sorted(lacking)


def _by_encoder(results_dir: Path) -> Mapping[str, Sequence[Measured]]:
    """Return the published records by the digest of their encoder's weights."""
    found = defaultdict[str, list[Measured]](list)
    for group in read_groups(results_dir, local=False)[0]:
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
    paths = sorted((one.record.protocol, Path(os.path.relpath(one.path, folder)).as_posix()) for one in records)
    return " ".join(f"[{protocol}]({quote(path)})" for protocol, path in paths)
