"""``bench timing``: the costs of methods, measured now or read from records."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.cli import _options as option
from bench.cli._progress import saying
from bench.cli._tables import show
from bench.cli._timing import measured_table, steps_table, whole_table

_OF_RECORDS = ("dataset", "tier", "reference", "from_results", "output", "results_dir", "as_json")
"""The options that have an effect beside --from-results."""


def timing(
    ctx: typer.Context,
    methods: Annotated[list[str] | None, typer.Argument(help="Which to compare; default: all.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data whose shape and size to use; named data need not be downloaded. Default: cifar10, or of records "
            "all."
        ),
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="How far to scale the published recipes; default: paper, or of records all.")
    ] = None,
    fidelity: Annotated[
        Literal["uniform", "native"],
        typer.Option(help="uniform: one encoder for all methods; native: each paper's own."),
    ] = "uniform",
    encoder: option.Encoder = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the encoder; default: the tier's.")] = None,
    precision: option.Precision = None,
    set_: option.Set = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each step is timed.")] = 3,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Images in a timed step, at most; default: as many as the time allows.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=0.1, help="Minutes that all of it may take: no step begins later.")
    ] = 9,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the best there is.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Method whose costs are the unit; default: deacl.")
    ] = None,
    from_results: Annotated[
        bool, typer.Option("--from-results", help="Measure nothing: show the costs in the records.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the figures to this file, as JSON.")] = None,
    results_dir: option.Results = option.RESULTS,
    data_dir: Annotated[Path, typer.Option(help="Where datasets are kept.")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Time a step of every stage of every method, alternately, and project the whole recipes.

    Examples:
      bench timing
      bench timing deacl acl --fidelity native
      bench timing deacl --dataset digits --tier tiny
      bench timing deacl simclr --encoder timm:vit_tiny_patch16_224 --set encoder.options.img_size=32
      bench timing --from-results
    """
    from bench.errors import BenchError, Faults
    from bench.files import check_output, json_bytes, write_output
    from bench.record import COST_REFERENCE
    from bench.results import PublishedCosts, measured_costs

    typed = [param.opts[0] for param in option.typed_params(ctx) if param.name not in _OF_RECORDS]
    if from_results and typed:
        raise BenchError(f"{', '.join(typed)}: --from-results measures nothing, so this has no effect. Leave it out.")
    reference = option.method_name(reference or COST_REFERENCE)
    methods = [option.method_name(each) for each in methods or []]

    if output is not None:
        check_output(output)
    if from_results:
        dataset = option.recorded_name(dataset)
        costs, left_out = measured_costs(results_dir, methods or None, reference, dataset=dataset, tier=tier)
        shown = {row.method for table in costs for row in table.rows}
        absent = [name for name in dict.fromkeys(methods) if name not in shown]
        terms = "".join(f" at {what} {value}" for what, value in (("dataset", dataset), ("tier", tier)) if value)
        whose = " or ".join(absent or ["a method"])
        lack = f"no record under {results_dir} has the pre-training cost of {whose}{terms}"
        if not costs:
            raise BenchError(f"{lack}. Make one with `bench run`, or name another --results-dir.")
        values: Any = {
            "tables": [table.model_dump(mode="json") for table in costs],
            "absent": absent,
            "left_out": [bad.model_dump(mode="json") for bad in left_out],
        }
        tables, notes = (
            [measured_table(table) for table in costs],
            [*([lack] if absent else []), *(f"left out {bad.file}: {bad.reason}" for bad in left_out)],
        )
    else:
        from bench.cost import Effort, Subject, data_like, time_methods, timed_methods
        from bench.device import pick_device, starvation
        from bench.recipe import load_tier

        overrides = {"encoder.width": width} if width else {}
        overrides |= option.overrides(None, set_, precision, encoder)
        with saying("reading the data") as said:
            data, scaling = data_like(dataset or "cifar10", data_dir), load_tier(tier or "paper")
            subjects, faults = [], Faults()
            for name in dict.fromkeys(methods or timed_methods()):
                with faults:
                    subjects.append(Subject.of(name, data, tier=scaling, fidelity=fidelity, overrides=overrides))
            faults.refuse()
            where = pick_device(device)
            starved = starvation(where)
            found = time_methods(
                subjects,
                Effort(rounds, 60 * time_limit, batch, said),
                device=where,
                papers=PublishedCosts.under(results_dir).of,
                reference=reference,
            )
        values, tables = found.model_dump(mode="json"), [steps_table(found), whole_table(found)]
        notes = [f"left out {name}: {reason}" for name, reason in found.left_out.items()]
        notes += filter(None, [starved()])
    if output is not None:
        write_output(output, json_bytes(values))
    if as_json:
        print(json.dumps(values, indent=1))
        return
    show(*tables)
    for note in notes:
        print(note)
