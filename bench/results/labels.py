"""What a row is called: its method, and all in which it departs from what its table says."""

from bench.record import LOCAL
from bench.results.measured import Measured
from bench.results.wording import flops_text, radius_text, settings_text

_PGD_STEPS = 20
"""RA is accuracy under PGD-20 (DeACL section 4.1); any other number of steps is said in the row."""


def label(measured: Measured) -> str:
    """Return the method's title and year, then: local, overrides, a shared encoder, and any PGD but RA's own."""
    record = measured.record
    departures = [*([LOCAL] if measured.local else []), *settings_text(record.overrides)]
    if record.encoder_seed is not None:
        departures.append(f"encoder of seed {record.encoder_seed}")
    if record.ra.steps != _PGD_STEPS or record.ra.restarts != 1:
        departures.append(f"PGD-{record.ra.steps}" + (f" x {record.ra.restarts}" if record.ra.restarts > 1 else ""))
    return f"{record.title} {record.year}" + (f" ({', '.join(departures)})" if departures else "")


def attack_text(measured: Measured) -> str:
    """Return in what the adversary departs from the dataset's default: norm, radius, AutoAttack's version."""
    record = measured.record
    norm = measured.threat.norm
    radii = {record.ra.eps, record.aa.eps if record.aa else record.ra.eps}
    departures = []
    if norm != "linf" or any(abs(eps - measured.facts.radius(norm)) > 1e-9 for eps in radii):
        departures += [radius_text(norm, eps) for eps in sorted(radii)]
    if record.aa and record.aa.version != "standard":
        departures.append(f"AutoAttack {record.aa.version}")
    return ", ".join(departures)


def budget_text(budget: object) -> str | None:
    """Return a recipe's ``budget`` as a user would type it, or None where there is none."""
    if budget is None:
        return None
    return flops_text(budget) if isinstance(budget, int | float) else str(budget)
