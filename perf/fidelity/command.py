"""The command line of a comparison: the reader's clones in, Markdown out."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from clone import Clone, Upstream
from table import Table

from bench.errors import BenchError

Comparison = Callable[..., Iterator[Table]]
"""Clones, in the order of the upstreams -> tables."""


def run(doc: str | None, upstreams: Sequence[Upstream], compare: Comparison) -> None:
    """Compare and print; exits with 1 if a clone is missing, and with 3 if a difference exceeds its limit."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for upstream in upstreams:
        parser.add_argument(upstream.folder, type=Path, help=f"your clone of {upstream}")
    asked = parser.parse_args()
    try:
        clones = [Clone.at(getattr(asked, upstream.folder), upstream) for upstream in upstreams]
    except BenchError as error:
        sys.exit(str(error))
    for clone in clones:
        if clone.doubt:
            print(f"{clone.folder} is not {clone.upstream}: {clone.doubt}.", file=sys.stderr)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")  # upstream code is older than today's PyTorch
    faults = []
    for table in compare(*clones):
        print(table, flush=True)
        faults += [f"{table.title}: {fault}" for fault in table.faults]
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        sys.exit(3)
