"""The board as data: what the records and the papers give, before it becomes text."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from bench.monitor import plural
from bench.recipe import Settings
from bench.record import LOCAL, Correction
from bench.results.groups import Failed, LeftOut, left_out_of, no_records, read_groups, refuse_missing
from bench.results.published import PublishedNumber, load_published
from bench.results.rows import Row, make_rows, short_rows
from bench.results.submissions import read_submissions
from bench.results.sweeps import SweepRow, read_sweeps
from bench.results.verifications import read_verifications

_PICTURES = (".svg", ".png")
"""File endings of figures; of two files of one figure, the first is shown."""


class Withdrawn(NamedTuple):
    """The records of one folder that no longer count."""

    dataset: str
    said: str
    """How many there are, in words."""
    reasons: str
    """Where to read why: a file or a folder, by its path below the results folder."""


class Leaderboard(Settings):
    """All that the board shows, in its order, and what had to be left out."""

    rows: tuple[Row, ...]
    sweeps: tuple[SweepRow, ...]
    figures: tuple[str, ...]
    """Pictures beside the sweeps, by their paths below the results folder."""
    published: tuple[PublishedNumber, ...]
    failed: tuple[Failed, ...]
    """Records whose evaluation failed a check."""
    corrections: tuple[Correction, ...]
    """The records that no longer count."""
    left_out: tuple[LeftOut, ...]

    @property
    def records(self) -> int:
        """The number of records behind the rows."""
        return sum(len(row.records) for row in self.rows)

    @property
    def withdrawn(self) -> list[Withdrawn]:
        """The records that no longer count, by their folders; a user's own ones are in no CORRECTIONS.md."""
        counts = Counter((one.folder, one.dataset) for one in self.corrections)
        return [
            Withdrawn(
                dataset,
                f"{plural(count, 'record')} of {folder} no longer {'counts' if count == 1 else 'count'}",
                f"{folder}/corrections" if folder.startswith(f"{LOCAL}/") else "CORRECTIONS.md",
            )
            for (folder, dataset), count in counts.items()
        ]

    def short(self) -> "Leaderboard":
        """Return the board whose tables are those of plain runs, in short: see :func:`short_rows`.

        Not in it are rows of transfer, of equal compute, of another precision, under another adversary, and of an older
        form of a tier where there are newer ones; nor failed records of other settings than the tier's. Rows are ranked
        among those of the short table. Sweeps are left out.
        """
        current = {(row.dataset, row.tier) for row in self.rows if not row.tier_form}
        newest = (row for row in self.rows if not row.tier_form or (row.dataset, row.tier) not in current)
        plain = (row for row in newest if not row.table.departures)
        tables = (short_rows(list(table)) for _, table in groupby(plain, key=lambda row: row.table))
        rows = tuple(_among_short(row) for table in tables for row in table)
        failed = tuple(one for one in self.failed if not one.settings)
        return self.model_copy(update={"rows": rows, "sweeps": (), "failed": failed})

    def only(
        self, *, dataset: str | None = None, protocol: str | None = None, tier: str | None = None
    ) -> "Leaderboard":
        """Return the board of the measured rows, sweeps, and failed records, that match; None matches all.

        Of corrections, and of files that were left out, it has those of its datasets.

        Raises:
            BenchError: none has such a value, or none has them all.
        """
        rows, sweeps, failed, chosen = self.rows, self.sweeps, self.failed, list[str]()
        for key, value in {"dataset": dataset, "protocol": protocol, "tier": tier}.items():
            if value is None:
                continue
            known = {name for one in (*rows, *failed) for name in _called(one, key)}
            if value not in known:
                raise no_records(key, value, known, on=", ".join(chosen))
            chosen.append(value)
            rows = tuple(row for row in rows if value in _called(row, key))
            sweeps = tuple(row for row in sweeps if value in _called(row, key))
            failed = tuple(one for one in failed if value in _called(one, key))
        shown = {row.dataset for row in rows} | {one.dataset for one in failed}
        corrections = tuple(one for one in self.corrections if not chosen or one.dataset in shown)
        left_out = tuple(left_out_of(self.left_out, dataset))
        return self.model_copy(
            update={
                **{"rows": rows, "sweeps": sweeps, "failed": failed},
                **{"corrections": corrections, "left_out": left_out},
            }
        )


def _among_short(row: Row) -> Row:
    return row.model_copy(update=row.short._asdict()) if row.short else row


def _called(one: Settings, key: str) -> set[str]:
    """Return what a row, sweep or failed record is called in ``key``: an older form of a tier has two names."""
    if isinstance(one, SweepRow):
        name: str = getattr(one.key, key)
        return {name, name.partition(" ")[0]} if key == "tier" else {name}
    return {getattr(one, key), *([one.table.tier] if isinstance(one, Row) and key == "tier" else [])}


def build_leaderboard(results_dir: Path, *, local: bool = True) -> Leaderboard:
    """Return the board of the records and the published numbers under ``results_dir``.

    A record that cannot be trusted is left out and named; see ``left_out``.

    Args:
        local: whether to show the user's own records, marked, beside the published ones.

    Raises:
        BenchError: there is no such folder, or its published numbers are faulty.
    """
    refuse_missing(results_dir)
    groups, left_out, corrections, hidden = read_groups(results_dir, local=local)
    submitters, offered = read_submissions(results_dir)
    verifications, bad_verifications = read_verifications(results_dir, groups, hidden, submitters, local=local)
    sweeps, bad_sweeps = read_sweeps(results_dir, groups, hidden, local=local)
    return Leaderboard(
        rows=make_rows(groups, results_dir, verifications),
        sweeps=sweeps,
        figures=_figures(results_dir),
        published=load_published(results_dir),
        failed=tuple(one for one in left_out if isinstance(one, Failed)),
        corrections=corrections,
        left_out=(*(one for one in left_out if not isinstance(one, Failed)), *bad_verifications, *bad_sweeps, *offered),
    )


def _figures(results_dir: Path) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for kind in _PICTURES:
        for path in results_dir.glob(f"*/sweeps/*{kind}"):
            file = path.relative_to(results_dir)
            found.setdefault(file.with_suffix("").as_posix(), file.as_posix())
    return tuple(found[name] for name in sorted(found))
