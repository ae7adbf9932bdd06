"""From results to figures on disk: all that compares in one figure, and nothing else beside it."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.errors import BenchError
from bench.leaderboard import LeftOut, Row, build_leaderboard
from bench.leaderboard.groups import read_groups
from bench.leaderboard.labels import label
from bench.leaderboard.sweeps import SweepRow
from bench.recipe import canonical_digest
from bench.record.sweep import SweepKind
from bench.report.figures.cost import CostPoint, cost_figure
from bench.report.figures.curves import curves_figure
from bench.report.figures.files import save_figure
from bench.report.figures.sweep import SweepLine, sweep_figure
from bench.report.figures.words import attack_text, band, conditions, file_name, legend_text, spread_text

R = TypeVar("R", Row, SweepRow)


class Drawn(NamedTuple):
    """What became of the results."""

    files: list[Path]
    """The figures, each as PNG and SVG."""
    left_out: Sequence[LeftOut]
    """Results that cannot be trusted, and why."""


class Choice(NamedTuple):
    """Which results to draw; None stands for all."""

    dataset: str | None = None
    protocol: str | None = None

    def takes(self, dataset: str, protocol: str) -> bool:
        """Return whether results on ``dataset`` under ``protocol`` are wanted."""
        return self.dataset in (None, dataset) and self.protocol in (None, protocol)

    def finds_no(self, what: str, results_dir: Path, command: str) -> BenchError:
        """Return the error for finding no ``what``, with the command that makes one."""
        wanted = [f"on {self.dataset}" if self.dataset else "", f"under {self.protocol}" if self.protocol else ""]
        return BenchError(f"no {' '.join(filter(None, [what, *wanted]))} in {results_dir}. Type {command}")


EVERYTHING = Choice()


def draw_sweeps(results_dir: Path, output: Path, kind: SweepKind, choice: Choice = EVERYTHING) -> Drawn:
    """Draw the sweeps of ``kind``: one figure for each set of conditions, one line a recipe.

    Raises:
        BenchError: there is none, or ``output`` cannot be written.
    """
    board = build_leaderboard(results_dir)
    swept = (row for row in board.sweeps if row.key.settings.kind == kind)
    rows = [row for row in swept if choice.takes(row.key.dataset, row.key.protocol)]
    if not rows:
        raise choice.finds_no(f"sweep of {kind}", results_dir, f"bench sweep-{kind}")
    files: list[Path] = []
    for key, table in _tables(rows, lambda row: row.key):
        common = (key.dataset, key.pretrained_on, key.tier, key.fidelity, key.protocol)
        settings = key.settings
        figure = sweep_figure(
            [
                SweepLine(legend_text(row.label, row.seeds), [band(score) for score in row.scores], number)
                for number, row in _marked(table)
            ],
            settings.grid,
            kind=kind,
            title=f"{conditions(*common)}: accuracy under {attack_text(settings)}",
            note=f"step size {settings.step_size:g} ε, {settings.start} start; "
            f"bands: {spread_text(score for row in table for score in row.scores)}",
        )
        files += save_figure(figure, output, _free(file_name(kind, *common), settings.digest(), files))
    return Drawn(files, board.left_out)


def draw_cost(results_dir: Path, output: Path, choice: Choice = EVERYTHING) -> Drawn:
    """Draw RA and AA against pre-training time: one figure for each table of the board and each device.

    Raises:
        BenchError: no record has a pre-training time, or ``output`` cannot be written.
    """
    board = build_leaderboard(results_dir)
    rows = [row for row in board.rows if row.pretraining_seconds and choice.takes(row.dataset, row.protocol)]
    if not rows:
        raise choice.finds_no("record of a pre-training", results_dir, "bench run deacl --dataset digits")
    files: list[Path] = []
    for (key, devices), table in _tables(rows, lambda row: (row.table, row.devices)):
        common = (key.dataset, key.pretrained_on, key.tier, key.fidelity, key.protocol)
        spread = spread_text(score for row in table for score in (row.ra, row.aa) if score)
        figure = cost_figure(
            [_cost_point(row, number) for number, row in _marked(table)],
            title=": ".join([conditions(*common), "robustness against cost"]),
            note=f"bars: {spread}; time on {' and '.join(devices)}",
        )
        digest = canonical_digest([*key, *devices])
        files += save_figure(figure, output, _free(file_name("cost", *common), digest, files))
    return Drawn(files, board.left_out)


def draw_curves(results_dir: Path, output: Path, choice: Choice = EVERYTHING) -> Drawn:
    """Draw the training history of the records: one figure a recipe and protocol, one line a seed.

    Raises:
        BenchError: there is no record, or ``output`` cannot be written.
    """
    groups, left_out = read_groups(results_dir)
    files: list[Path] = []
    for group in groups:
        record = group.seeds[0].record
        if choice.takes(record.dataset, record.protocol):
            common = (record.dataset, record.pretrained_on, record.tier, record.fidelity, record.protocol)
            figure = curves_figure(
                {f"seed {one.record.seed}": one.record.history for one in group.seeds},
                title=f"{conditions(*common)}: {label(group.seeds[0])}",
            )
            name = file_name("curves", *common, record.method, record.protocol_sha256[:8])
            files += save_figure(figure, output, name)
    if not files:
        raise choice.finds_no("record", results_dir, "bench run deacl --dataset digits")
    return Drawn(files, left_out)


def _cost_point(row: Row, number: int) -> CostPoint:
    seconds = row.pretraining_seconds
    assert seconds, "rows without pre-training have no place on the axis"
    return CostPoint(legend_text(row.label, row.seeds), seconds, band(row.ra), band(row.aa) if row.aa else None, number)


K = TypeVar("K", bound=Hashable)


def _tables(rows: Sequence[R], key: Callable[[R], K]) -> Iterator[tuple[K, list[R]]]:
    """Yield the rows that share a key, in the order in which the keys and the rows first come."""
    order: dict[K, list[R]] = {}
    for row in rows:
        order.setdefault(key(row), []).append(row)
    yield from order.items()


def _marked(table: Sequence[R]) -> list[tuple[int, R]]:
    """Return the rows with the numbers of their marks: by name, so that figures of the same methods agree."""
    by_name = sorted(range(len(table)), key=lambda place: table[place].label)
    return [(by_name.index(place), row) for place, row in enumerate(table)]


def _free(name: str, digest: str, taken: Sequence[Path]) -> str:
    """Return ``name``, with ``digest`` behind it if another figure has taken it: attacks of another grid, say."""
    return f"{name}-{digest[:8]}" if any(path.stem == name for path in taken) else name
