"""How values are written in a table."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.recipe import Norm, protocol_title
from bench.record import Record

DASH = "–"
"""Shown for a number that was not measured, which is never shown as 0."""

NORMS: Mapping[Norm, str] = {"linf": "Linf", "l2": "L2"}
"""As they are written everywhere."""


def percent(share: float, n: int) -> str:
    """Return a share of ``n`` images in percent, with no more decimals than this number of images justifies."""
    return f"{100 * share:.{2 if n >= 1000 else 1}f}"


def eps_text(eps: float) -> str:
    """Return an Linf radius as papers write it: 8/255 where it is a whole number of grey levels."""
    levels = round(eps * 255)
    if 0 < levels < 255 and abs(eps * 255 - levels) < 1e-6:
        return f"{levels}/255"
    return f"{eps:g}"


def radius_text(norm: Norm, eps: float) -> str:
    """Return a radius with its norm: "Linf 8/255", "L2 0.5"."""
    return f"{NORMS[norm]} {bare_radius(norm, eps)}"


def bare_radius(norm: Norm, eps: float) -> str:
    """Return a radius where its norm stands nearby: in grey levels under Linf, whose unit is a pixel's value."""
    return eps_text(eps) if norm == "linf" else f"{eps:g}"


def machine_text(device: str) -> str:
    """Return the name of a device as records hold it, with one thread in the singular."""
    return re.sub(r"\b1 threads\b", "1 thread", device)


def measure_text(name: str) -> str:
    """Return the name of a phase of an evaluation: "SA", "RA" and "AA" in capitals, others, such as "doctor", as is."""
    return name.upper() if name in ("sa", "ra", "aa") else name


def time_text(seconds: float) -> str:
    """Return a wall-clock time as h:mm:ss, after the days if it took any."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02}:{second:02}"


def flops_text(flops: float) -> str:
    """Return a number of floating-point operations to three digits, in powers of ten: 1.96e12."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{flops:.2e}")


def settings_text(settings: Mapping[str, Any]) -> list[str]:
    """Return ``key=value`` for each of ``settings``, sorted by key, as a user would type it."""
    return [f"{key}={_value(key, value)}" for key, value in sorted(settings.items())]


def named(name: str, departures: Iterable[str]) -> str:
    """Return ``name``, followed in brackets by ``departures``, if there are any."""
    listed = ", ".join(departures)
    return f"{name} ({listed})" if listed else name


def evaluation_names(records: Sequence[Record], *, titles: bool = False) -> list[str]:
    """Return the protocol of each evaluation of one run, and how it differs from the others.

    ``titles``: the protocols are named as in headings ("SLF"), not as they are typed ("slf").
    """
    several = len({record.dataset for record in records}) > 1
    every = []
    for record in records:
        protocol = protocol_title(record.protocol) if titles else record.protocol
        name = f"{protocol} on {record.dataset}" if several or record.pretrained_on else protocol
        every.append((name, [f"seed {record.seed}", *settings_text(record.overrides)]))
    names = []
    for name, facts in every:
        alike = [others for other, others in every if other == name]
        own = [fact for fact in facts if not all(fact in others for others in alike)]
        names.append(named(name, own or ["as in the recipe"]) if len(alike) > 1 else name)
    return names


def conditions_text(protocol: str, tier: str, fidelity: str, departures: Iterable[str]) -> str:
    """Return what the rows of a table have in common: "SLF, tier tiny, fidelity uniform", then its departures."""
    return ", ".join([protocol_title(protocol), f"tier {tier}", f"fidelity {fidelity}", *departures])


def departures_text(*own: str, pretrained_on: str | None, budget: str | None) -> list[str]:
    """Return how the rows of a table differ from a plain run on the data: ``own`` texts, transfer, a budget."""
    transfer = f"transfer from {pretrained_on}" if pretrained_on else ""
    return [text for text in (*own, transfer, f"at equal compute ({budget})" if budget else "") if text]


def escape(text: str) -> str:
    """Return ``text`` on one line, with what Markdown would read as markup made literal, but for `code`."""

    def literal(found: re.Match[str]) -> str:
        # In a table a bar ends the cell even within code.
        return found[0].replace("|", r"\|") if found[0][1:] else f"\\{found[0]}"

    return re.sub(r"(?<!`)`[^`]+`(?!`)|[\\|<>\[\]*`]", literal, " ".join(text.split()))


def _value(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        # repr, not :g, because two recipes that differ in the seventh digit must not read alike.
        return eps_text(value) if key.split(".")[-1] == "eps" else re.sub(r"e([+-])0+", r"e\1", repr(value))
    return json.dumps(value, sort_keys=True)
