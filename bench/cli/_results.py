"""The table of results at the end of a command."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from bench.cli._tables import Column, DataTable
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.record import CorruptionEvaluation, Outcome, Record


def results_table(records: "Sequence[Record]", results_dir: Path) -> DataTable:
    """Return the accuracies of ``records``, which differ in protocol and seed alone, beside the paper's.

    Several seeds share a row, with their mean and sample standard deviation. A protocol that lacks some of the seeds,
    whose records were withdrawn, names its own.
    """
    first, seeds = records[0], list(dict.fromkeys(record.seed for record in records))
    alone = len(seeds) == 1
    origin = f", pre-trained on {first.pretrained_on}" if first.pretrained_on else ""
    named = ", ".join(map(str, seeds))
    columns = ("accuracy",) if alone else (f"seeds {named}", "mean ± sd")
    table = DataTable(
        *(Column("protocol", once=True), "measure", *columns, "paper"),
        title=f"{first.title} on {first.dataset}{origin}, tier {first.tier}, {first.fidelity} fidelity, "
        f"seed{'' if alone else 's'} {named}",
        caption="percent with 95 % interval" if alone else "percent; mean ± standard deviation over the seeds",
    )
    for protocol in dict.fromkeys(record.protocol for record in records):
        _add(table, [record for record in records if record.protocol == protocol], results_dir, seeds)
    return table


def _add(table: DataTable, records: "Sequence[Record]", results_dir: Path, seeds: Sequence[int]) -> None:
    """Add the rows of one protocol, a record a seed, to a table of ``seeds``."""
    from bench.recipe import protocol_title
    from bench.results import Measured, load_published, reference, table_of

    first, own = records[0], ", ".join(str(record.seed) for record in records)
    protocol = protocol_title(first.protocol) + f", seed{'s' * (len(records) > 1)} {own}" * (len(records) < len(seeds))
    measured = Measured(results_dir, first, first.read_recipe())
    paper = reference(
        load_published(results_dir),
        table_of(measured),
        method=first.method,
        title=first.title,
        published_as=measured.facts.published_as,
        overrides=first.overrides,
    )
    for measure, outcomes, key in _measures(records):
        number = paper and getattr(paper, key, None)
        known = "" if number is None else f"{number:.2f} %"
        table.add(protocol, measure, *_cells(outcomes)[-1 if len(seeds) == 1 else -2 :], known)
    for warning in dict.fromkeys(warning for record in records if record.aa for warning in record.aa.warnings):
        table.caption += f"\n{protocol_title(first.protocol)}, AutoAttack warns: {warning}"
    for record in records:
        for one in record.diagnosed("doubt"):  # a failed check is said in the error that ends the command
            where = protocol_title(first.protocol) if len(records) == 1 else f"seed {record.seed}"
            table.caption += f"\n{where}, {one.said}"


def _measures(
    records: "Sequence[Record]",
) -> "Iterator[tuple[str, Sequence[Outcome | CorruptionEvaluation], str]]":
    """Yield what was measured: in words, one outcome a record, and the name that published numbers have for it."""
    from bench.recipe import attack_name
    from bench.results import radius_text

    ra, norm = records[0].ra, records[0].read_recipe().downstream.threat.norm
    yield "SA", [record.sa for record in records], "sa"
    yield (
        f"RA, {attack_name(ra.attack, ra.steps)} at {radius_text(norm, ra.eps)}",
        [record.ra.outcome for record in records],
        "ra",
    )
    attacked = [record.aa for record in records if record.aa]
    if attacked:
        yield f"AA at {radius_text(norm, attacked[0].eps)}", [aa.outcome for aa in attacked], "aa"
    listed = [record.attacks for record in records if record.attacks]
    if listed:
        names = " + ".join(one.attack for one in listed[0].attacks)
        yield f"{names} at {radius_text(norm, listed[0].eps)}", [one.outcome for one in listed], "attacks"
    corrupted = [record.corruptions for record in records if record.corruptions]
    if corrupted:
        yield f"mCA, {plural(len(corrupted[0].correct), 'corruption')}", corrupted, "mca"


def _cells(outcomes: "Sequence[Outcome | CorruptionEvaluation]") -> tuple[str, str]:
    """Return the accuracy of each seed, and of all."""
    shares = [100 * outcome.accuracy for outcome in outcomes]
    each = ", ".join(f"{share:.2f}" for share in shares)
    if len(outcomes) == 1:
        return each, _percent(outcomes[0])
    return each, f"{fmean(shares):.2f} ± {stdev(shares):.2f} %, n = {outcomes[0].n}"


def _percent(outcome: "Outcome | CorruptionEvaluation") -> str:
    """Return an accuracy in percent with its interval and the number of images."""
    low, high = outcome.interval
    return f"{100 * outcome.accuracy:.2f} % [{100 * low:.1f}, {100 * high:.1f}], n = {outcome.n}"
