"""A check: a question about an evaluation, what a bad answer means, and what to do then."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bench.doctor.patient import Patient
from bench.record import Diagnosis, Verdict


class Finding(NamedTuple):
    """The answer of a check to one patient."""

    verdict: Verdict
    found: str
    """One sentence, with the numbers."""
    numbers: Mapping[str, float] = {}
    """The numbers of the sentence, by name; finite."""


class Check(NamedTuple):
    """A check with all that is said about it: the command line, the report and docs/doctor.md read it from here."""

    name: str
    """Short, in lower case: "batch independence". It names the section of docs/doctor.md, too."""
    question: str
    """What is tested, as a sentence: "The same images give the same logits each time."."""
    meaning: str
    """What it means if that is not so."""
    remedy: str
    """What to do then."""
    find: Callable[[Patient], Finding | None]
    """None: the check does not apply to the patient."""
    deep: bool = False
    """Whether it is made in deep visits alone, since it costs more than a small part of an evaluation."""

    def __call__(self, patient: Patient) -> Diagnosis | None:
        """Return what the check finds; None where it does not apply."""
        finding = self.find(patient)
        if finding is None:
            return None
        return Diagnosis(check=self.name, verdict=finding.verdict, found=finding.found, numbers=dict(finding.numbers))


def check(
    name: str, *, question: str, meaning: str, remedy: str, deep: bool = False
) -> Callable[[Callable[[Patient], Finding | None]], Check]:
    """Return a decorator that makes a :class:`Check` of a function."""
    return lambda find: Check(name, question, meaning, remedy, find, deep)
