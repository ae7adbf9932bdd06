"""From results to figures on disk: one figure for all results that can be compared, and no others."""

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from bench.errors import BenchError
from bench.monitor import Monitor
from bench.record import Record, SweepKind
from bench.report.figures.cost import CostPoint, cost_figure
from bench.report.figures.curves import curves_figure
from bench.report.figures.minimal import MinimalLine, minimal_figure
from bench.report.figures.style import COLOURS, mark, save_figure
from bench.report.figures.sweep import SweepLine, sweep_figure
from bench.report.figures.words import (
    attack_text,
    band,
    common_text,
    file_name,
    free_name,
    legend_text,
    seeds_text,
    spread_text,
    table_file,
    table_text,
)
from bench.results import (
    Group,
    LeftOut,
    Row,
    SweepRow,
    budget_text,
    build_leaderboard,
    grouped,
    label,
    left_out_of,
    no_records,
    read_groups,
    table_of,
    tier_forms,
)
from bench.results import attack_text as attack_departure

R = TypeVar("R", Row, SweepRow, Group)


class Drawn(NamedTuple):
    """The figures that were drawn, and the results that were left out: of one dataset, where one was chosen."""

    files: list[Path]
    """The figures, each as PNG and SVG."""
    left_out: Sequence[LeftOut]
    """Results that cannot be trusted, and why."""


class Choice(NamedTuple):
    """Which results to draw; None stands for all."""

    dataset: str | None = None
    protocol: str | None = None
    method: str | None = None

    def takes(self, dataset: str, protocol: str, method: str) -> bool:
        """Return whether results of ``method`` on ``dataset`` under ``protocol`` are wanted."""
        wanted = zip(self, (dataset, protocol, method), strict=True)
        return all(wish in (None, found) for wish, found in wanted)

    def finds_no(self, what: str, held: Iterable[tuple[str, str, str]], results_dir: Path, command: str) -> BenchError:
        """Return the error for finding none of ``what``, a plural, with the command that makes one.

        Args:
            what: the kind of results.
            held: dataset, protocol and method of all results of that kind.
            results_dir: where they were looked for.
            command: makes one.
        """
        names = list(zip(*held, strict=True))
        for kind, wish, known in zip(("dataset", "protocol", "method"), self, names, strict=False):
            if wish is not None and wish not in known:
                return no_records(kind, wish, {*known}, what=what, hint=f"Type {command}")
        said = zip(("on", "under", "of"), self, strict=True)
        wanted = [f"{word} {value}" for word, value in said if value]
        return BenchError(f"there are no {' '.join([what, *wanted])} in {results_dir}. Type {command}")


EVERYTHING = Choice()


def draw_sweeps(results_dir: Path, output: Path, kind: SweepKind, choice: Choice = EVERYTHING) -> Drawn:
    """Draw the sweeps of ``kind``: one figure for each set of conditions, one line a recipe.

    Raises:
        BenchError: there is none, or ``output`` cannot be written.
    """
    board = build_leaderboard(results_dir)
    swept = [row for row in board.sweeps if row.key.settings.kind == kind]
    rows = [row for row in swept if choice.takes(*_of_sweep(row))]
    if not rows:
        raise choice.finds_no(f"sweeps of {kind}", map(_of_sweep, swept), results_dir, f"bench sweep-{kind}")
    files: list[Path] = []
    methods = _numbered({row.method for row in board.rows} | {row.method for row in board.sweeps})
    for table in grouped(rows, lambda row: row.key):
        key, settings = table[0].key, table[0].key.settings
        figure = sweep_figure(
            [
                SweepLine(legend_text(row.label, row.seeds), [band(score) for score in row.scores], number)
                for number, row in _marked(table, _row_name, methods)
            ],
            settings.grid,
            kind=kind,
            norm=settings.norm,
            title=f"{table_text(key)}: accuracy under {attack_text(settings)}",
            note=f"step size {settings.step_size:g} ε, {settings.start} start; "
            f"bands: {spread_text(score for row in table for score in row.scores)}",
        )
        files += save_figure(figure, output, free_name(table_file(kind, key), [*key[:-1], settings.digest()], files))
    return Drawn(files, left_out_of(board.left_out, choice.dataset))


def draw_cost(
    results_dir: Path, output: Path, choice: Choice = EVERYTHING, *, short: bool = False, time: bool = False
) -> Drawn:
    """Draw RA and AA against what pre-training cost: one figure for each table of the board.

    Args:
        short: draw the tables of :meth:`Leaderboard.short`.
        time: draw wall-clock instead of floating-point operations; each kind of machine then has a figure of its own.

    Raises:
        BenchError: no record has such a cost, or ``output`` cannot be written.
    """
    whole = build_leaderboard(results_dir)
    board = whole.short() if short else whole
    costly = [row for row in board.rows if _cost(row, time)]
    rows = [row for row in costly if choice.takes(*_of(row))]
    mixed = [row for row in board.rows if time and len(row.machines) > 1 and choice.takes(*_of(row))]
    if not rows:
        command = "bench run deacl --dataset digits"
        if mixed:
            command = "bench plot cost, without --time: rows ran on several kinds of machine, so they have no one time"
        elif short and any(_cost(row, time) and choice.takes(*_of(row)) for row in whole.rows):
            command = "bench plot cost, without --short: all rows are of another adversary, precision, budget or data"
        held = map(_of, (*costly, *mixed))
        raise choice.finds_no("records of a pre-training", held, results_dir, command)
    files: list[Path] = []
    methods = _numbered({row.method for row in whole.rows} | {row.method for row in whole.sweeps})
    for table in grouped(rows, lambda row: (row.table, row.machines if time else ())):
        key, machines = table[0].table, table[0].machines if time else ()
        spread = spread_text(score for row in table for score in (row.ra, row.aa) if score)
        several = ", ".join(row.label for row in mixed if row.table == key)
        without = f"; without {several}, which ran on several kinds of machine" if several else ""
        marked = _marked(table, _row_name, methods)
        same = "; some rows share a mark" if len({mark(number)[:2] for number, _ in marked}) < len(marked) else ""
        figure = cost_figure(
            [_cost_point(row, number, time) for number, row in marked],
            title=f"{table_text(key)}: accuracy and cost",
            note=f"bars: {spread}" + (f"; time on {machines[0]}" if time else "") + without + same,
            time=time,
        )
        parts = [*machines, *(["short"] if short else [])]
        files += save_figure(
            figure, output, free_name(table_file("time" if time else "cost", key, *parts), [*key, *parts], files)
        )
    return Drawn(files, left_out_of(board.left_out, choice.dataset))


def draw_curves(
    results_dir: Path, output: Path, choice: Choice = EVERYTHING, *, monitor: Monitor | None = None
) -> Drawn:
    """Draw the training history of the records: one figure a recipe and protocol, one line a seed.

    Raises:
        BenchError: there is no record, or ``output`` cannot be written.
    """
    monitor = monitor or Monitor()
    groups, left_out, *_ = read_groups(results_dir, history=True)
    first = [(group, group.seeds[0].record) for group in groups if any(group.seeds[0].record.history.values())]
    chosen = [(group, one) for group, one in first if choice.takes(*_of(one))]
    if not chosen:
        held = (_of(one) for _, one in first)
        raise choice.finds_no("records of training", held, results_dir, "bench run deacl --dataset digits")
    files: list[Path] = []
    monitor.begin("training curves", len(chosen), unit="figures")
    for group, record in chosen:
        common = (record.dataset, record.pretrained_on, record.tier, record.fidelity, record.protocol)
        name = label(group.seeds[0])
        figure = curves_figure(
            {f"seed {one.record.seed}": one.record.history for one in group.seeds},
            title=f"{common_text(*common)}: {name}",
        )
        variant = name.removeprefix(f"{record.title} {record.year}")
        budget = budget_text(group.seeds[0].recipe.budget)
        parts = (record.method, variant, f"budget {budget}" if budget else "", attack_departure(group.seeds[0]))
        seeds = seeds_text([one.record.seed for one in group.seeds])
        file = file_name("curves", *common, *parts, seeds)
        files += save_figure(figure, output, free_name(file, record.protocol_sha256, files))
        monitor.advance(1, file)
    monitor.end()
    return Drawn(files, left_out_of(left_out, choice.dataset))


def draw_minimal(results_dir: Path, output: Path, choice: Choice = EVERYTHING) -> Drawn:
    """Draw the accuracy at every radius of the records with a minimum-norm attack: one figure for all that compare.

    Raises:
        BenchError: there is no such record, or ``output`` cannot be written.
    """
    groups, left_out, *_ = read_groups(results_dir)
    fit = [g for g in groups if all(one.record.attacks and one.record.attacks.perturbations for one in g.seeds)]
    chosen = [group for group in fit if choice.takes(*_of(group.seeds[0].record))]
    if not chosen:
        command = "bench run deacl --dataset digits --attacks min-norm"
        held = (_of(group.seeds[0].record) for group in fit)
        raise choice.finds_no("records with the attack min-norm", held, results_dir, command)
    files: list[Path] = []
    methods = _numbered(group.seeds[0].record.method for group in groups)
    forms = tier_forms(group.seeds[0].record for group in groups)
    for table in grouped(chosen, lambda group: table_of(group.seeds[0], forms)):
        first = table[0].seeds[0]
        key = table_of(first, forms)
        figure = minimal_figure(
            [_minimal_line(group, number) for number, group in _marked(table, _group_name, methods)],
            norm=first.threat.norm,
            eps=first.record.ra.eps,
            title=f"{table_text(key)}: accuracy at every radius",
            note="share of images that the minimum-norm attack found nothing nearer for; dotted: the radius of RA",
        )
        name = table_file("minimal", key, first.threat.norm)
        files += save_figure(figure, output, free_name(name, key, files))
    return Drawn(files, left_out_of(left_out, choice.dataset))


def _of_sweep(row: SweepRow) -> tuple[str, str, str]:
    return row.key.dataset, row.key.protocol, row.method


def _of(one: Row | Record) -> tuple[str, str, str]:
    return one.dataset, one.protocol, one.method


def _row_name(row: Row | SweepRow) -> tuple[str, str]:
    return row.method, row.label


def _group_name(group: Group) -> tuple[str, str]:
    return group.seeds[0].record.method, label(group.seeds[0])


def _minimal_line(group: Group, number: int) -> MinimalLine:
    found = [one.record.attacks.perturbations for one in group.seeds if one.record.attacks]
    sizes = np.concatenate([one.unpack() for one in found if one])
    return MinimalLine(legend_text(label(group.seeds[0]), [one.record.seed for one in group.seeds]), sizes, number)


def _cost(row: Row, time: bool) -> float | None:
    return row.pretraining_seconds if time else row.pretraining_flops


def _cost_point(row: Row, number: int, time: bool) -> CostPoint:
    cost = _cost(row, time)
    assert cost, "rows without pre-training have no place on the axis"
    aa = band(row.aa) if row.aa else None
    return CostPoint(legend_text(row.label, row.seeds), cost, band(row.ra), aa, number)


def _numbered(found: Iterable[str]) -> list[str]:
    """Return the methods in the order of their marks, one order for all figures: the bench's own come first."""
    points = [(not point.value.startswith("methods."), point.name) for point in entry_points(group="bench.methods")]
    return list(dict.fromkeys([*(name for _, name in sorted(points)), *sorted(found)]))


def _marked(table: Sequence[R], name: Callable[[R], tuple[str, str]], methods: Sequence[str]) -> list[tuple[int, R]]:
    """Return the rows of ``table`` with the number of their mark; ``name`` gives the method and the label of one.

    The first row of a method, by label, has the method's own mark; further rows have the next free ones of its colour.
    """
    names = [name(row) for row in table]
    own = {method: methods.index(method) for method, _ in names}
    taken, marks = set(own.values()), {}
    for place in sorted(range(len(table)), key=lambda place: names[place][1]):
        method = names[place][0]
        free = (number for number in count(methods.index(method), len(COLOURS)) if number not in taken)
        marks[place] = own.pop(method) if method in own else next(free)
        taken.add(marks[place])
    return [(marks[place], row) for place, row in enumerate(table)]
