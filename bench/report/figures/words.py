"""The texts of figures: titles, legends, small print and file names."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

from bench.recipe import canonical_digest, protocol_title
from bench.record import SweepSettings
from bench.report.figures.style import Band
from bench.results import NORMS, Score, SweepKey, TableKey, radius_text

_LETTERS = 30
"""Letters of a line of the legend."""
_LONGEST = 150
"""Letters of a file name; file systems allow 255, with all that is appended."""


def common_text(dataset: str, pretrained_on: str | None, tier: str, fidelity: str, protocol: str) -> str:
    """Return what the lines of a figure have in common: "digits, tiny, SLF"."""
    data = f"{pretrained_on} to {dataset}" if pretrained_on else dataset
    return ", ".join([data, tier, *(["native"] if fidelity == "native" else []), protocol_title(protocol)])


def table_text(key: TableKey | SweepKey) -> str:
    """Return what all in a figure have in common: "digits, tiny, SLF, budget 1.00e12, precision bf16"."""
    return ", ".join([common_text(*_common(key)), *_departures(key)])


def table_file(kind: str, key: TableKey | SweepKey, *more: str) -> str:
    """Return the name of the figure with the text of :func:`table_text`; see :func:`file_name`."""
    return file_name(kind, *_common(key), *_departures(key), *more)


def _common(key: TableKey | SweepKey) -> tuple[str, str | None, str, str, str]:
    return key.dataset, key.pretrained_on, key.tier, key.fidelity, key.protocol


def _departures(key: TableKey | SweepKey) -> list[str]:
    budget = f"budget {key.budget}" if key.budget else ""
    return [text for text in (budget, key.precision, key.attack if isinstance(key, TableKey) else "") if text]


def file_name(
    kind: str, dataset: str, pretrained_on: str | None, tier: str, fidelity: str, protocol: str, *more: str
) -> str:
    """Return the name of the figure with this common text, without extension: what it shows, in plain letters.

    ``more`` is what else distinguishes the figure; empty texts are left out.
    """
    data = f"{pretrained_on}-to-{dataset}" if pretrained_on else dataset
    plain = (re.sub(r"[^A-Za-z0-9._=]+", "-", text).strip("-.") for text in (tier, fidelity, protocol, *more))
    return "-".join([kind, data, *filter(None, plain)])[:_LONGEST].rstrip("-.")


def free_name(name: str, identity: object, taken: Iterable[Path]) -> str:
    """Return ``name``, with a digest of ``identity`` behind it if a figure among ``taken`` has that name already."""
    return f"{name}-{canonical_digest(identity)[:8]}" if any(path.stem == name for path in taken) else name


def seeds_text(seeds: Sequence[int]) -> str:
    """Return the seeds of a row as a file name has them: s0-s1-s2."""
    return "-".join(f"s{seed}" for seed in seeds)


def attack_text(settings: SweepSettings) -> str:
    """Return what stays the same along a sweep: "Linf PGD-20" or "PGD at Linf 8/255"."""
    if settings.kind == "eps":
        return f"{NORMS[settings.norm]} PGD-{settings.steps[0]}"
    return f"PGD at {radius_text(settings.norm, settings.eps[0])}"


def legend_text(label: str, seeds: Sequence[int]) -> str:
    """Return ``label`` and the number of seeds, broken into lines that fit a legend."""
    return fill(label + (f", {len(seeds)} seeds" if len(seeds) > 1 else ""), _LETTERS, subsequent_indent="  ")


def band(score: Score) -> Band:
    """Return mean and spread of ``score`` in percent: the interval of one seed, or the deviation of several."""
    mean = 100 * score.accuracy
    if score.interval is not None:
        low, high = (100 * end for end in score.interval)
        return Band(mean, min(low, mean), max(high, mean))  # rounding can put an end on the wrong side of 0 or 100
    spread = 100 * (score.std or 0.0)
    return Band(mean, max(0.0, mean - spread), min(100.0, mean + spread))


def spread_text(scores: Iterable[Score]) -> str:
    """Return what the bands of ``scores`` are."""
    scores = list(scores)
    images = sorted({score.n for score in scores if score.interval is not None})
    parts = []
    if images:
        parts.append(f"95 % interval over {' or '.join(map(str, images))} images")
    if any(score.std is not None for score in scores):
        parts.append("one standard deviation over seeds")
    return "; of several seeds, ".join(parts)
