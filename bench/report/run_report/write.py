"""The report on disk: Markdown with its pictures beside it, and one HTML file that needs nothing else."""

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.data import Dataset
from bench.folders import replaced_folder
from bench.recipe import ALL_PROTOCOLS
from bench.report import facts
from bench.report.figures import MinimalLine, curves_figure, encoded, minimal_figure
from bench.report.pictures import data_url, picture, verdict_grid
from bench.report.reproduce import reproduction
from bench.report.run_report.example_images import Example, examples
from bench.report.templating import templates
from bench.report.verdict import Verdict, count_verdicts, verdicts
from bench.results import counted, evaluation_names
from bench.run import Finished, finished_in, run_folder, unfinished

_PICTURE_SIDE = 96
_PARTS = ("clean", "adversarial", "perturbation")
_EXAMPLES = (
    "The first images of each verdict, attacked again. The heading of a column is the image's class, and what stands "
    "beside a picture is the classifier's answer to it. Where the record's random starts were drawn per batch, or "
    "restarted, an outcome may differ. The perturbation is amplified {:.1f} times; grey is no change."
)


class Report(NamedTuple):
    """What was written."""

    folder: Path
    protocols: Sequence[str]
    """One an evaluation, with its settings where a protocol has several."""
    pictures: int
    left_out: tuple[str, ...]
    """What to say of each record that was corrected."""


def write_report(
    runs_dir: Path,
    run: str,
    output: Path,
    *,
    results_dir: Path,
    data_dir: Path,
    device: torch.device,
    of_each: int = 4,
) -> Report:
    """Write the report of every finished protocol of a run to the folder ``output``.

    Args:
        results_dir: whose corrections say which records no longer count; these are left out.
        output: ``report.md``, its ``pictures``, and ``report.html`` go there.
        of_each: how many test images of each verdict are shown.

    Raises:
        BenchError: no such run, none of its protocols is finished, every record was corrected, its data or weights are
            missing, or an ``output`` that is not a report or cannot be written.
    """
    folder = run_folder(runs_dir, run)
    every = sorted(finished_in(folder), key=_order)
    if not every:
        raise unfinished(folder)
    counts = counted(every, results_dir)
    counts.refuse_none(f"the run {folder.name}")
    found = counts.found
    files: dict[str, bytes] = {}
    records = [finished.record for finished in found]
    sections = [
        {"title": title, **_section(finished, finished.dataset(data_dir), device, of_each, files)}
        for title, finished in zip(evaluation_names(records, titles=True), found, strict=True)
    ]
    values = {"run": folder.name, "record": records[0], "sections": sections, "parts": _PARTS}
    environment = templates(__package__)
    style = (resources.files("bench.report.site") / "static" / "style.css").read_text("utf-8")
    addresses = {name: data_url(content) for name, content in files.items() if name.endswith(".png")}
    html = environment.get_template("report.html").render(**values, style=style, addresses=addresses)
    files |= {
        "report.md": environment.get_template("report.md").render(**values).encode(),
        "report.html": html.encode(),
    }
    with replaced_folder(output, "a report") as made:
        (made / "pictures").mkdir()
        for name, content in files.items():
            (made / name).write_bytes(content)
    return Report(
        output, evaluation_names(records), sum(len(section["shown"]) for section in sections), counts.left_out
    )


def _order(finished: Finished) -> tuple[int, str]:
    return ALL_PROTOCOLS.index(finished.protocol), finished.record.protocol_sha256


def _section(
    finished: Finished, dataset: Dataset, device: torch.device, of_each: int, files: dict[str, bytes]
) -> dict[str, Any]:
    """Return the values of the templates for one protocol, and add its pictures to ``files``."""
    record = finished.record
    name = finished.folder.protocol(finished.protocol, record.seed).path.name
    curves = f"pictures/{name}-curves.png" if any(record.history.values()) else ""
    if curves:
        files[curves] = encoded(curves_figure({f"seed {record.seed}": record.history}, title=""), "png")
    minimal = ""
    if record.attacks and (perturbations := record.attacks.perturbations):
        minimal = f"pictures/{name}-minimal.png"
        files[minimal] = encoded(
            minimal_figure(
                [MinimalLine("", perturbations.unpack(), 0)],
                norm=finished.recipe.downstream.threat.norm,
                eps=record.ra.eps,
                title="",
                note="dotted: the radius of RA",
            ),
            "png",
        )
    outcomes = []
    for attack in facts.attacks(record):
        found = verdicts(record.sa, attack.outcome)
        outcomes.append((attack, count_verdicts(found), data_url(verdict_grid(found))))
    shown = examples(finished, dataset, device, of_each=of_each)
    files |= dict(_pictures(name, shown))
    return {
        "name": name,
        "record": record,
        "outcomes": outcomes,
        "absent": any(counts[Verdict.ABSENT] for _, counts, _ in outcomes),
        "shown": shown,
        "about_examples": _EXAMPLES.format(shown[0].amplified),
        "by_verdict": {verdict: [example for example in shown if example.verdict is verdict] for verdict in Verdict},
        "curves": curves,
        "picture_file": lambda example, part: _picture_file(name, example, part),
        "costs": facts.costs(record),
        "survivals": facts.survivals(record),
        "listed": facts.listed(record),
        "minimal": minimal,
        "flags": facts.flags(record),
        "diagnoses": facts.diagnoses(record),
        "reproduction": reproduction(record),
    }


def _pictures(name: str, shown: Sequence[Example]) -> Iterator[tuple[str, bytes]]:
    for example in shown:
        for part in _PARTS:
            yield _picture_file(name, example, part), picture(getattr(example, part), side=_PICTURE_SIDE)


def _picture_file(name: str, example: Example, part: str) -> str:
    return f"pictures/{name}-{example.position}-{part}.png"
