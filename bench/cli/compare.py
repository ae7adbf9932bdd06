"""``bench compare``: two records image by image, or two methods or variants of one over their seeds."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli._options import RESULTS, Results, method_name, recorded_name, typed_params
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.compare import Measure, RecordComparison, SeedComparison

_SHOWN_DIFFERENCES = 12
_OF_METHODS = ("tier", "fidelity", "precision")
_OF_RECORDS = ("images", "across_protocols")


def compare(
    ctx: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            help="A record's file or name, or its run's. With --dataset a method, or 'METHOD KEY=VALUE ...' with "
            "settings as after --set. local/ in front: your own."
        ),
    ],
    b: Annotated[str, typer.Argument(help="The other; differences are A minus B.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A and B are methods or variants: compare them over their seeds on this dataset.",
            callback=recorded_name,
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Which of a run's records to take, such as slf or knn; for methods slf.")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Of methods: the tier, where there are several.")] = None,
    fidelity: Annotated[Literal["uniform", "native"], typer.Option(help="Of methods: the fidelity.")] = "uniform",
    measures: Annotated[str, typer.Option(help="What to compare, with commas.")] = "sa,ra,aa",
    across_protocols: Annotated[
        bool, typer.Option("--across-protocols", help="Compare records of different protocols.")
    ] = False,
    across_precisions: Annotated[
        bool, typer.Option("--across-precisions", help="Compare what was trained in different precisions.")
    ] = False,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(help="Of methods: what their --precision was; default: the recipe without one."),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Print the images that only one of the two got right.")
    ] = False,
    results_dir: Results = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON on stdout.")] = False,
) -> None:
    """Show how far apart two results are, and whether chance may explain it.

    Records are compared on their common images: the difference of their accuracies with a 95 % interval, and
    McNemar's exact test. Methods, and variants of one, are compared over their seeds: means, standard deviations,
    Welch's interval.

    Examples:
      bench compare deacl-tiny-uniform-s0-aff simclr-tiny-uniform-s0-aff --images
      bench compare a.json b.json --measures aa
      bench compare deacl simclr --dataset digits --protocol slf
      bench compare deacl "deacl stage2.loss=ae2gt_infonce" --dataset digits
      bench compare local/deacl deacl --dataset digits
      bench compare ./my_method.py:MyMethod deacl --dataset digits
    """
    from bench.compare import compare_records, compare_seeds, find_record, find_seeds, split_name
    from bench.errors import unknown
    from bench.recipe import ALL_PROTOCOLS

    chosen = _measures(measures)
    idle = _OF_METHODS if dataset is None else _OF_RECORDS
    if given := [param.opts[0] for param in typed_params(ctx) if param.name in idle]:
        wanted = "methods, which --dataset names the data of" if dataset is None else "records, without --dataset"
        raise BenchError(f"{', '.join(given)}: only for {wanted}. Leave {'it' if len(given) == 1 else 'them'} out.")
    if protocol not in (None, *ALL_PROTOCOLS):
        raise unknown("protocol", str(protocol), ALL_PROTOCOLS)
    if dataset is None:
        first, second = (find_record(method_name(name), results_dir, protocol=protocol) for name in (a, b))
        pair = compare_records(
            first,
            second,
            measures=chosen,
            across_protocols=across_protocols,
            across_precisions=across_precisions,
            results_dir=results_dir,
        )
        if as_json:
            print(json.dumps(pair.model_dump(mode="json"), indent=1))
        else:
            _show_records(pair, images)
        return
    groups = [
        find_seeds(
            " ".join([method_name(method), *settings]),
            results_dir,
            dataset=dataset,
            protocol=protocol or "slf",
            tier=tier,
            fidelity=fidelity,
            precision=precision,
        )
        for method, *settings in map(split_name, (a, b))
    ]
    seeds = compare_seeds(*groups, measures=chosen, across_precisions=across_precisions)
    if as_json:
        print(json.dumps(seeds.model_dump(mode="json"), indent=1))
    else:
        _show_seeds(seeds)


def _measures(text: str) -> "list[Measure]":
    from bench.compare import MEASURES
    from bench.errors import Faults, unknown

    names, faults = [name.strip().lower() for name in text.split(",")], Faults()
    for name in names:
        with faults:
            if name not in MEASURES:
                raise unknown("measure", name, MEASURES)
    faults.refuse()
    return [measure for measure in MEASURES if measure in names]


def _show_records(found: "RecordComparison", images: bool) -> None:
    table = _table("A", "B", "A - B", "95 % interval", "p", "only A", "only B", "n")
    for measure, one in found.measures.items():
        table.add(
            *(measure.upper(), _percent(one.a), _percent(one.b), *_difference(one.difference, one.interval)),
            *(_p_value(one.p_value), str(len(one.only_a)), str(len(one.only_b)), str(one.n)),
        )
    _show(table, found, [f"{corrected} was {why.said}" for corrected, why in found.corrections.items()])
    print("percent of the n images that both measured; interval: Newcombe 1998, method 10; p: McNemar's exact test")
    if images:
        for measure, one in found.measures.items():
            for side, positions in (("A", one.only_a), ("B", one.only_b)):
                print(f"{measure.upper()}, only {side} is right: {', '.join(map(str, positions)) or 'none'}")


def _show_seeds(found: "SeedComparison") -> None:
    table = _table("A", "B", "A - B", "95 % interval", "p")
    for measure, one in found.measures.items():
        spreads = [f"{_percent(spread.mean)} ± {_percent(spread.std)}" for spread in (one.a, one.b)]
        table.add(measure.upper(), *spreads, *_difference(one.difference, one.interval), _p_value(one.p_value))
    _show(table, found)
    for side, seeds in (("A", found.seeds_a), ("B", found.seeds_b)):
        print(f"{side}: n = {len(seeds)}, seeds {', '.join(map(str, seeds))}")
    untested = [measure.upper() for measure, one in found.measures.items() if one.p_value is None]
    if untested:
        print(f"{', '.join(untested)}: no spread between seeds: no test. Compare single records, or run more seeds")
    print("percent: mean ± sample standard deviation over n seeds; interval and p: Welch's t test")


def _table(*columns: str) -> DataTable:
    return DataTable("measure", *(Column(column, number=True) for column in columns))


def _show(table: DataTable, found: "RecordComparison | SeedComparison", notes: "Sequence[str]" = ()) -> None:
    one, other = found.conditions
    where = [f"on {found.dataset}, {one}"]
    if one != other:
        where = [f"on {found.dataset}", f"A under {one}", f"B under {other}"]
    print(f"A: {found.a}", f"B: {found.b}", *where, *notes, sep="\n")
    show(table)
    for measure, reason in found.missing.items():
        print(f"{measure.upper()}: {reason}")
    shown = found.differences[:_SHOWN_DIFFERENCES]
    if shown:
        more = len(found.differences) - len(shown)
        print("they also differ in " + "; ".join(f"{key}: {a}, {b}" for key, a, b in shown), end="")
        print(f"; and {more} more (--json)" if more else "")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _difference(difference: float, interval: tuple[float, float] | None) -> tuple[str, str]:
    ends = "–" if interval is None else "[{:+.2f}, {:+.2f}]".format(*(100 * end for end in interval))
    return f"{100 * difference:+.2f}", ends


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"
