"""All checks on one patient."""

from typing import NamedTuple

from bench import rng
from bench.doctor.attack import ATTACK
from bench.doctor.check import Check
from bench.doctor.gradient import GRADIENT
from bench.doctor.model import MODEL
from bench.doctor.patient import Patient
from bench.doctor.pixels import PIXELS
from bench.doctor.protocol import PROTOCOL
from bench.doctor.strength import STRENGTH
from bench.errors import BenchError
from bench.monitor import Monitor
from bench.record import Diagnosis

CHECKS: dict[str, tuple[Check, ...]] = {
    "model": MODEL,
    "pixels": PIXELS,
    "gradient": GRADIENT,
    "attack": ATTACK + STRENGTH,
    "protocol": PROTOCOL,
}
"""The checks of each family, in the order in which they are made and shown."""


class Advice(NamedTuple):
    """What a diagnosis means, and what to do; empty where it is no doubt, or its check is of another version."""

    meaning: str = ""
    remedy: str = ""


def advice(diagnosis: Diagnosis) -> Advice:
    """Return what is said about the check of ``diagnosis``."""
    named = {check.name: Advice(check.meaning, check.remedy) for family in CHECKS.values() for check in family}
    return Advice() if diagnosis.verdict in ("sound", "note") else named.get(diagnosis.check, Advice())


def examine(patient: Patient, monitor: Monitor | None = None) -> tuple[Diagnosis, ...]:
    """Return the verdict of each check that applies to ``patient``.

    A check that stops with an error proves nothing, and is a doubt. Nothing is drawn from the global random state.

    Raises:
        InterruptedRunError: a stop was requested.
    """
    monitor = monitor or Monitor()
    checks = [check for family in CHECKS.values() for check in family if patient.deep or not check.deep]
    monitor.begin("doctor", len(checks), unit="checks")
    found = []
    for check in checks:
        monitor.check()
        with rng.scoped(patient.seed, "doctor", check.name, device=patient.device):
            found.append(_made(check, patient))
        monitor.advance(1, check.name)
    monitor.end()
    return tuple(diagnosis for diagnosis in found if diagnosis)


def _made(check: Check, patient: Patient) -> Diagnosis | None:
    try:
        return check(patient)
    except BenchError as error:
        said = str(error)
    except (Exception, SystemExit) as error:  # whatever a foreign network raises
        said = f"{type(error).__name__}: {error}"
    return Diagnosis(check=check.name, verdict="doubt", found=f"the check stopped: {_plain(said)}")


def _plain(text: str) -> str:
    """Return ``text`` on one line, and so short that a record takes it."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())[:500]
