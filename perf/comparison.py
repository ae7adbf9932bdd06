"""Programs timed side by side: calls take turns, and what was measured is printed and kept with its machine.

The scripts of this folder share this module. All figures of a table come from one process and one run. Its calls take
turns, so other load on the machine affects all of them alike, and a ratio is the median of the ratios of single rounds.
With one thread the seconds are those of the processor: the time in which other programs had the core does not count.
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table as Screen

from bench.device import device_name
from bench.files import write_json
from bench.record import describe_environment

Seconds = dict[str, list[float]]
"""The seconds of each call, by its name: one value a round."""

Cell = str | float | None
"""None: not measured."""

OURS, OURS_BF16 = "ours", "ours, bf16"
"""Rows of what the bench does."""


def take_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True, wall_clock: bool = False
) -> Seconds:
    """Return the seconds of each of ``calls``, which run once a round, in reverse order in every second round.

    Args:
        calls: what to time, by name.
        rounds: how often.
        warm_up: run each once before, since a first call includes imports and allocation.
        wall_clock: count all time that passes: where other processes work for a call.
    """
    alone = torch.get_num_threads() == 1 and not wall_clock
    clock = time.process_time if alone else time.perf_counter
    for call in calls.values() if warm_up else ():
        call()
    seconds: Seconds = {name: [] for name in calls}
    order = list(calls.items())
    for _ in range(rounds):
        for name, call in order:
            start = clock()
            call()
            seconds[name].append(clock() - start)
        order.reverse()
    return seconds


def ratio(seconds: Seconds, slow: str, fast: str) -> str:
    """Return how many times as fast ``fast`` is: the median of all rounds, and the quartiles around it."""
    each = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def ratio_columns(seconds: Seconds) -> list[str]:
    """Return the headings of :func:`ratios`."""
    return ["ours is times as fast", *(["in bf16"] if OURS_BF16 in seconds else [])]


def ratios(seconds: Seconds, row: str) -> list[Cell]:
    """Return how many times as fast as ``row`` ours is, and ours in bf16 where it was measured."""
    return ["" if row == ours else ratio(seconds, row, ours) for ours in (OURS, OURS_BF16) if ours in seconds]


@dataclass(frozen=True)
class Table:
    """One table of figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def cells(self) -> list[list[str]]:
        """Return the rows as they are shown: numbers with three digits."""
        return [[_shown(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """Return the table for a page, with its title in the heading of the first column."""
        first, *others = self.columns
        head = [f"{self.title}: {first}" if first else self.title, *others]
        lines = [head, ["---"] * len(head), *self.cells()]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def screen(self) -> Screen:
        """Return the table for a terminal."""
        shown = Screen(title=self.title, caption=self.note or None)
        for number, column in enumerate(self.columns):
            shown.add_column(column, justify="right" if number else "left", overflow="fold")
        for cells in self.cells():
            shown.add_row(*cells)
        return shown


def speeds(
    title: str, seconds: Seconds, amounts: Mapping[str, float], *, unit: str, ours: str, note: str = ""
) -> Table:
    """Return a table of rates, and how many times as fast as each row the row ``ours`` is.

    Args:
        title: says what is compared, and its sizes.
        seconds: what :func:`take_turns` returned.
        amounts: how much a call of each row does, in ``unit``. Ratios are corrected for different amounts.
        unit: "images", "views": what is counted a second.
        ours: the row that all are compared with.
        note: shown below.
    """
    each = {name: [value / amounts[name] for value in values] for name, values in seconds.items()}
    rows = [
        (name, 1 / statistics.median(values), "" if name == ours else ratio(each, name, ours))
        for name, values in each.items()
    ]
    return Table(title, ("", f"{unit}/s", f"{ours} is times as fast"), rows, note)


@dataclass
class Comparison:
    """What one run of a script measured, with the machine, packages and code: printed, and written as JSON."""

    script: str
    options: argparse.Namespace
    tables: list[Table] = field(default_factory=list)
    samples: dict[str, Seconds] = field(default_factory=dict)
    """By table: the seconds of all rounds."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Rows that could not be measured, with the reason."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the peers."""
    values: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping."""

    def __post_init__(self) -> None:
        torch.set_num_threads(self.options.threads)
        self._began = _Usage()
        name = device_name(torch.device("cpu"))  # and the commit now, since a checkout may change while this runs
        self._environment = describe_environment(name, self.options.threads).model_dump(mode="json")

    def peer(self, package: str, row: str, module: str | None = None) -> Any:
        """Return the ``module`` of a ``package``, or None where it is not installed: then ``row`` is left out."""
        if find_spec(package) is None:
            self.left_out[row] = f"{package} is not installed"
            return None
        self.versions[package] = metadata.version(package)
        return import_module(module or package)

    def add(self, table: Table, seconds: Seconds | None = None) -> None:
        """Keep a table and the seconds behind it, and print it."""
        self.tables.append(table)
        if seconds is not None:
            self.samples[table.title] = seconds
        Console().print(table.screen())

    def finish(self) -> None:
        """Print what was left out, and write the file that the options name."""
        for row, reason in self.left_out.items():
            print(f"left out: {row} ({reason})")
        if self.options.output:
            write_json(self.options.output, self.content())

    def content(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        kept = ("commit", "dirty", "python", "platform", "packages")
        return {
            "command": shlex.join(["python", f"perf/{self.script}.py", *_typed()]),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "threads": self.options.threads,
            "other_load": self._began.others(),
            **{name: self._environment[name] for name in kept},
            "peers": self.versions,
            "left_out": self.left_out,
            "tables": [asdict(table) for table in self.tables],
            "values": self.values,
            "seconds": self.samples,
        }


def arguments(doc: str, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every script: ``--rounds``, ``--threads`` and ``--output``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each call is timed (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default %(default)s)")
    parser.add_argument("--output", type=Path, help="also write everything here, as JSON")
    return parser


def with_bf16(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the option ``--bf16`` to a parser."""
    parser.add_argument("--bf16", action="store_true", help="also ours in bf16: slow where the processor emulates it")
    return parser


def _typed() -> list[str]:
    """Return the arguments of this program, without the file to write."""
    typed = sys.argv[1:]
    if "--output" in typed:
        at = typed.index("--output")
        del typed[at : at + 2]
    return typed


def machine() -> str:
    """Return the name of this machine: processor, instruction set, cores and memory."""
    processor = device_name(torch.device("cpu")).rpartition(",")[0]
    memory = psutil.virtual_memory().total / 2**30
    return f"{processor}, {psutil.cpu_count()} cores, {memory:.0f} GiB"


class _Usage:
    """The use of the processor since this object was made."""

    def __init__(self) -> None:
        self._start, self._own, self._all = time.perf_counter(), sum(os.times()[:4]), _busy()

    def others(self) -> float:
        """Return how many cores other programs kept busy, on average."""
        busy = _busy() - self._all - (sum(os.times()[:4]) - self._own)
        return round(max(0.0, busy / (time.perf_counter() - self._start)), 2)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _shown(cell: Cell) -> str:
    if cell is None:
        return "not measured"
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
