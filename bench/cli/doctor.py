"""``bench doctor``: whether the evaluation of a classifier can be believed."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bench.cli import _options as option
from bench.cli._progress import monitored
from bench.cli._runs import reading, refuse_failed
from bench.cli._streams import work_is_kept
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError
from bench.monitor import plural

if TYPE_CHECKING:
    from bench.run import Run, Visit

_ORDER = ("fail", "doubt", "note", "sound")


def doctor(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run, or a record whose weights are in --runs-dir; an encoder file or a checkpoint; or timm:NAME, "
            "FILE.py:NAME, robustbench:NAME.",
        ),
    ],
    protocols: Annotated[
        str | None,
        typer.Option(
            help="Which, with commas: slf, alf, aff, knn, knn-200, slf-1pct, slf-10pct; default: all finished ones of "
            "a run, one of a file."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Of a file: the data of its evaluation.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The file of the weights of a network.")] = None,
    normalisation: Annotated[
        str | None, typer.Option(metavar="none|cifar|imagenet|MEANS/STDS", help="Of the input of a network.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="Which network of several in the file of its weights.")] = None,
    set_: option.Set = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Attack in other ways, too: more steps and starts, other losses, no gradient."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if a check ends in doubt, too.")] = False,
    device: option.Device = None,
    threads: option.Threads = None,
    runs_dir: option.RunsDir = Path("runs"),
    data_dir: option.DataDir = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON on stdout.")] = False,
) -> None:
    """Check an evaluation: the model, its pixels, its gradient, the attack and the protocol.

    Every evaluation ends with these checks. Exit with 3 if one fails. The classifier of a file is trained first.

    Examples:
      bench doctor digits-simclr-tiny-uniform-s0
      bench doctor digits-simclr-tiny-uniform-s0 --deep
      bench doctor results/local/digits/simclr-tiny-uniform-s0-slf-768ad677.json --strict
      bench doctor runs/NAME/encoder.safetensors --protocols slf
      bench doctor robustbench:Carmon2019Unlabeled
    """
    from bench.device import pick_device, use_threads
    from bench.results import evaluation_names
    from bench.run import finished_of, is_named, visit_encoder, visit_finished

    use_threads(threads)
    names = option.names(protocols)
    typed: dict[str, Any] = {
        "dataset": dataset,
        "weights": weights,
        "normalisation": normalisation,
        "network": network,
        "set": set_,
    }
    of_file = is_named(target) or (Path(target).is_file() and not target.endswith(".json"))
    found = () if of_file else finished_of(target, runs_dir, names)
    if found and (given := [f"--{name}" for name, value in typed.items() if value is not None]):
        raise BenchError(f"{', '.join(given)}: {target} has its recipe already; only a file needs more. Leave it out.")
    with monitored(Console(stderr=True)) as monitor:
        if of_file:
            run = _prepared(target, names, **typed, runs_dir=runs_dir, data_dir=data_dir, device=device)
            visits = list(visit_encoder(run, monitor, deep=deep))
            evaluations = [visit.protocol for visit in visits]
        else:
            where = pick_device(device)
            visits = [visit_finished(one, data_dir=data_dir, device=where, monitor=monitor, deep=deep) for one in found]
            evaluations = evaluation_names([one.record for one in found])
    named = list(zip(evaluations, visits, strict=True))
    if as_json:
        print(json.dumps([_plain(*each) for each in named], indent=1))
    else:
        work_is_kept()
        show(*(table for each in named for table in _tables(*each, deep)))
    deeper = "" if deep else "; with --deep it is attacked in other ways, too"
    advice = f"The page doctor.md of the documentation explains each check{deeper}."
    refuse_failed([(evaluation, visit.diagnoses) for evaluation, visit in named], advice, strict=strict)


def _prepared(
    target: str,
    protocols: list[str] | None,
    *,
    dataset: str | None,
    weights: Path | None,
    normalisation: str | None,
    network: str | None,
    set: list[str] | None,
    **options: Any,
) -> "Run":
    """Return the run that would evaluate the encoder ``target``; under its first protocol, where none is named."""
    from dataclasses import replace

    from bench.run import EvaluationRequest, WeightChoices, encoder_path, prepare_evaluation

    request = EvaluationRequest(
        encoder=encoder_path(target, options["runs_dir"]),
        weights=WeightChoices(weights, normalisation, network),
        dataset=dataset,
        protocols=protocols,
        overrides=option.overrides(None, set, None),
        **options,
    )
    with reading():
        run = prepare_evaluation(request)
    return run if protocols else replace(run, protocols=run.protocols[:1])


def _tables(evaluation: str, visit: "Visit", deep: bool) -> list[DataTable]:
    """Return the failures and doubts in full, if there are any, under a line that counts all; then the other checks."""
    from bench.doctor import CHECKS, advice

    made = sum(deep or not check.deep for family in CHECKS.values() for check in family)
    verdicts = Counter(one.verdict for one in visit.diagnoses)
    counts = [f"{verdicts['sound']} sound"]
    counts += [plural(verdicts[name], name) for name in ("note", "doubt", "fail") if verdicts[name]]
    counts += [f"{absent} not applicable"] if (absent := made - len(visit.diagnoses)) else []
    title = f"{visit.run}, {evaluation}\n{plural(made, 'check')}: {', '.join(counts)}"
    doubts = DataTable("check", "what was found", "what it means", "what to do", title=title, blocks=True)
    others = DataTable("check", "verdict", Column("what was found", prose=True))
    for one in sorted(visit.diagnoses, key=lambda one: _ORDER.index(one.verdict)):
        if one.verdict in ("fail", "doubt"):
            doubts.add(one.heading, one.found, *advice(one))
        else:
            others.add(one.check, one.verdict, one.found)
    if not verdicts["fail"] + verdicts["doubt"]:
        others.title = title
        return [others]
    return [doubts, others] if verdicts["sound"] + verdicts["note"] else [doubts]


def _plain(evaluation: str, visit: "Visit") -> dict[str, Any]:
    from bench.doctor import advice

    checks = [{**one.model_dump(mode="json"), **advice(one)._asdict()} for one in visit.diagnoses]
    return {"run": visit.run, "protocol": visit.protocol, "evaluation": evaluation, "checks": checks}
