"""What the doctor finds: on every sabotaged evaluation of the zoo, on finished runs, and in published records.

The zoo is that of the tests: sabotages of a small classifier of digits that is sound. Runs are visited as by
`bench doctor`, with and without `--deep`; of records without weights only those checks are made that need none. A
doubt or a failure on a run or a record that is sound would be a false alarm. Train runs first, such as with
`bench run deacl --dataset digits`, and run this from the repository's root:

    python perf/doctor.py runs/RUN-OF-DEACL runs/RUN-OF-SIMCLR --output perf/recorded/doctor.json
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from comparison import Cell, Comparison, Table, arguments, take_turns

from bench import rng
from bench.attack import NamedAttack
from bench.data import Split, unit_pixels
from bench.doctor import CHECKS, Check, Patient, examine
from bench.monitor import Monitor
from bench.recipe import Threat
from bench.record import Diagnosis, Record, load_record
from bench.run import Finished, finished_in, visit_finished

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import sabotaged

CPU = torch.device("cpu")
FROM_RECORDS = ("RA and AA", "black-box attack")
"""Checks that need no more than the outcomes in a record."""


def main() -> None:
    """Visit the zoo, the runs and the records, and print the tables."""
    parser = arguments(__doc__ or "", rounds=1)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--only", nargs="+", choices=sabotaged.RUNS, help="only these sabotages")
    parser.add_argument("--results", type=Path, default=Path("results"), help="published records (default %(default)s)")
    asked = parser.parse_args()
    comparison = Comparison("doctor", asked)
    comparison.add(zoo(asked))
    if asked.runs:
        comparison.add(visits([one for run in asked.runs for one in finished_in(run)], asked))
    comparison.add(published(sorted(asked.results.glob("*/*.json"))))
    comparison.finish()


def zoo(asked: argparse.Namespace) -> Table:
    """Return what is found on the sound classifiers and on each sabotage of them."""
    deep_checks = [check for check in CHECKS["attack"] if check.deep]
    patients: dict[str, Callable[[], Patient]] = {
        "sound, trained under attack": lambda: sabotaged.patient(sabotaged.sound()),
        "sound, trained on clean images": lambda: sabotaged.patient(sabotaged.sound(robust=False)),
        **{name: sabotaged.RUNS[name] for name in asked.only or sabotaged.RUNS},
    }
    rows: list[list[Cell]] = []
    for name, make in patients.items():
        patient = make()
        assert patient.sa
        assert patient.ra
        usual = examine(patient)
        large = replace(patient, deep=True)
        with rng.scoped(0, "deep visit"):
            deep = [diagnosis for check in deep_checks if (diagnosis := check(large))]
        accuracies = [100 * outcome.accuracy for outcome in (patient.sa, patient.ra.outcome)]
        caught = "yes" if named(usual, "fail") or named(usual, "doubt") else "no"
        rows.append([name, *accuracies, caught, *found(usual, deep)])
        print(rows[-1], flush=True)
    columns = ("evaluation", "SA", "RA", "caught", "fail", "doubt", "and with --deep")
    return Table("Sabotages of a sound classifier of digits", columns, rows)


def visits(runs: Sequence[Finished], asked: argparse.Namespace) -> Table:
    """Return what is found on finished runs, and how long a visit takes beside the evaluation."""
    rows: list[list[Cell]] = []
    for one in runs:
        usual: list[tuple[Diagnosis, ...]] = []
        calls: dict[str, Callable[[], object]] = {"visit": partial(visited, one, kept=usual), "RA": attack(one)}
        seconds = take_turns(calls, asked.rounds, warm_up=False)
        ratio = statistics.median(a / b for a, b in zip(seconds["visit"], seconds["RA"], strict=True))
        recorded = {phase: one.record.cost[f"evaluate:{phase}"].seconds for phase in ("sa", "ra", "aa")}
        outcomes = [one.record.sa, one.record.ra.outcome, *([one.record.aa.outcome] if one.record.aa else [])]
        name = f"{one.record.title}, {one.protocol.upper()}, {one.record.dataset}"
        share = f"{100 * ratio * recorded['ra'] / sum(recorded.values()):.1f} %"
        accuracies: list[Cell] = [100 * outcome.accuracy for outcome in outcomes]
        rows.append([name, *accuracies, *found(usual[0], visited(one, deep=True)), ratio, share])
        print(rows[-1], flush=True)
    columns = ("classifier", "SA", "RA", "AA", "fail", "doubt", "and with --deep", "visit / RA", "of the evaluation")
    note = (
        "A visit is timed beside RA, both in seconds of the processor; the rest of the evaluation is RA's time times "
        "the ratio of the two in the run's record."
    )
    return Table("Runs that are not sabotaged", columns, rows, note)


def attack(one: Finished) -> Callable[[], float]:
    """Return a call that attacks all test images of ``one`` as RA does, in one batch."""
    test, model, settings = one.dataset(Path("data")).test, one.classifier(CPU).prepared(), one.recipe.evaluate
    threat, ra = Threat(norm=one.recipe.threat.norm, eps=one.record.ra.eps), NamedAttack(settings.attack, settings)
    images, places = unit_pixels(test.images), range(len(test))
    return lambda: float(ra(model, images, test.labels, threat=threat, seed=one.record.seed, positions=places).sum())


def visited(one: Finished, *, deep: bool = False, kept: list[tuple[Diagnosis, ...]] | None = None) -> list[Diagnosis]:
    """Return the verdicts on ``one``, and add them to ``kept``."""
    diagnoses = visit_finished(one, data_dir=Path("data"), device=CPU, monitor=Monitor(), deep=deep).diagnoses
    if kept is not None:
        kept.append(diagnoses)
    return list(diagnoses)


def published(paths: Sequence[Path]) -> Table:
    """Return the verdicts on published records by the checks that need no weights."""
    checks = [check for family in CHECKS.values() for check in family if check.name in FROM_RECORDS]
    records = [load_record(path) for path in paths]
    rows: list[list[Cell]] = [[check.name, *tally(check, records)] for check in checks]
    return Table(f"{len(records)} published records, without weights", ("check", *VERDICTS, "does not apply"), rows)


VERDICTS = ("sound", "note", "doubt", "fail")


def tally(check: Check, records: Iterable[Record]) -> Iterator[int]:
    """Yield how many of ``records`` get each verdict, and to how many the check does not apply."""
    found = [check(patient_of(record)) for record in records]
    for verdict in VERDICTS:
        yield sum(one is not None and one.verdict == verdict for one in found)
    yield found.count(None)


def patient_of(record: Record) -> Patient:
    """Return the patient of a record: its outcomes, and an untrained classifier."""
    count = record.recipe["dataset"]["test_images"]
    test = Split(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    return replace(sabotaged.unmeasured(sabotaged.untrained(), test), sa=record.sa, ra=record.ra, aa=record.aa)


def found(usual: Sequence[Diagnosis], deep: Sequence[Diagnosis]) -> list[Cell]:
    """Return the names of the checks that fail, of those that doubt, and of those that say so in a deep visit alone."""
    known = {one.check for one in usual}
    added = [one for one in deep if one.check not in known]
    worse = ", ".join(f"{one.check} ({one.verdict})" for one in added if one.verdict in ("doubt", "fail"))
    return [named(usual, "fail"), named(usual, "doubt"), worse]


def named(diagnoses: Sequence[Diagnosis], verdict: str) -> str:
    """Return the names of the checks with this verdict."""
    return ", ".join(one.check for one in diagnoses if one.verdict == verdict)


if __name__ == "__main__":
    main()
