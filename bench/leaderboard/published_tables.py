"""Tables of published numbers in Markdown."""

from collections.abc import Sequence

from bench.leaderboard.grid import Column, Notes, markdown_table
from bench.results import DASH, PublishedNumber, escape, headline, settings_text

_REFERENCE = "DeACL"


def published_table(numbers: Sequence[PublishedNumber]) -> list[str]:
    """Return the paragraphs of one table of published numbers, sorted by AA: the table, then its notes."""
    notes = Notes("†{}".format)
    lines = sorted(numbers, key=_order)
    columns = [
        Column("Method", [_label(number, notes) for number in lines], left=True),
        Column("AA", [_value(number.aa, number.aa_std) for number in lines]),
        Column("RA", [_value(number.ra, number.ra_std) for number in lines]),
        Column("SA", [_value(number.sa, number.sa_std) for number in lines]),
        Column("GPU-days", [DASH if n.total_gpu_days is None else f"{n.total_gpu_days:g}" for n in lines]),
        Column("GPU-days x DeACL", [_cost_ratio(number, numbers) for number in lines]),
        Column("Encoder", [escape(number.encoder) for number in lines], left=True),
        Column("Source", [escape(number.source) for number in lines], left=True),
    ]
    return [markdown_table(columns), *map(escape, notes.lines())]


def _order(number: PublishedNumber) -> tuple[float, float, str, str]:
    aa, ra = (-1.0 if value is None else value for value in (number.aa, number.ra))
    return -aa, -ra, number.method, number.source


def _label(number: PublishedNumber, notes: Notes) -> str:
    departures = settings_text(number.variant)
    if number.pretrain_dataset not in (None, number.dataset):
        departures.append(f"pre-trained on {number.pretrain_dataset}")
    label = f"{number.method} ({', '.join(departures)})" if departures else number.method
    return escape(label) + notes.mark([number.note] if number.note else [])


def _value(value: float | None, std: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.2f}" if std is None else f"{value:.2f} ± {std:g}"


def _cost_ratio(number: PublishedNumber, numbers: Sequence[PublishedNumber]) -> str:
    """Return GPU-days as a multiple of DeACL's in the same source: other sources ran on other GPUs."""
    same_source = (other for other in numbers if other.source == number.source)
    reference = headline(same_source, title=_REFERENCE, dataset=number.dataset, protocol=number.protocol)
    if number.total_gpu_days is None or reference is None or not reference.total_gpu_days:
        return DASH
    return f"{number.total_gpu_days / reference.total_gpu_days:.2f}"
