"""``bench methods``, ``datasets``, ``tiers``, ``runs`` and ``list``: what is available."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli._method import show_method
from bench.cli._tables import Column, DataTable, show

_RUNS = Path("runs")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with all its settings; default: all methods.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods, with year and paper; or all settings of one, with its paper's values.

    Examples:
      bench methods
      bench methods deacl
      bench methods --json
    """
    if name is not None:
        show_method(name, as_json)
        return
    from bench.method import METHODS

    rows = []
    for name in METHODS:
        method = METHODS.get(name)
        stages = list(method.config_type().plans())
        rows.append(
            {
                "name": name,
                "title": method.info.title,
                "year": method.info.year,
                "stages": len(stages),
                "views": method.info.views,
                "passes": method.info.passes,
                "uses": method.info.outside,
                "robust": method.info.robust,
                "summary": method.info.summary,
                "paper": method.info.paper,
                "url": method.info.url,
            }
        )
    _show(
        rows,
        as_json,
        *("name", "year", Column("stages", number=True, drop=4), Column("views", drop=3), Column("passes", drop=5)),
        *(Column("uses", drop=2), "robust", Column("paper", drop=1)),
    )


def datasets(as_json: AsJson = False) -> None:
    """List the named datasets and the forms for your own.

    Examples:
      bench datasets
      bench run deacl --dataset npz:my.npz
    """
    from bench.data import DATASETS, OWN_FORMS

    rows: list[dict[str, Any]] = []
    for name in DATASETS:
        source = DATASETS.get(name)
        rows.append(
            {
                "name": name,
                "classes": source.num_classes,
                "image": "x".join(map(str, source.image_shape)),
                "train": source.train,
                "test": source.test,
                "summary": source.summary,
                "from": source.origin,
            }
        )
    for form, meaning in OWN_FORMS.items():
        rows.append({"name": f"{form}:PATH", "summary": meaning.partition(", ")[2], "from": "your own data"})
    numbers = [Column(heading, number=True) for heading in ("image", "train", "test")]
    classes = Column("classes", number=True, drop=2)
    _show(rows, as_json, "name", classes, *numbers, Column("summary", prose=True), Column("from", drop=1))


def tiers(as_json: AsJson = False) -> None:
    """List the tiers: how far each scales the published recipes.

    Examples:
      bench tiers
      bench run deacl --tier ./my-tier.toml
    """
    from bench.recipe import load_tier, tier_names

    rows = []
    for name in tier_names():
        tier = load_tier(name)
        rows.append(
            {
                "name": name,
                "epochs": f"x {tier.epochs:g}",
                "batch": f"x {tier.batch_size:g}",
                "width": tier.encoder.get("width", 64),
                "summary": tier.summary,
            }
        )
    numbers = [Column(heading, number=True) for heading in ("epochs", "batch", "width")]
    _show(rows, as_json, "name", *numbers, Column("summary", prose=True))


def runs(
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = _RUNS,
    weights: Annotated[
        Path | None,
        typer.Option(help="Write a page there with the encoder file of each published record: its size and SHA-256."),
    ] = None,
    results_dir: Annotated[Path, typer.Option(help="Folder of the published records, for --weights.")] = Path(
        "results"
    ),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and how far each has come.

    Examples:
      bench runs
      bench runs --weights results/WEIGHTS.md
    """
    from bench.errors import BenchError
    from bench.run import list_runs

    if not runs_dir.is_dir() and runs_dir != _RUNS:  # the first run creates the default folder
        raise BenchError(f"there is no folder {runs_dir}. Name one that holds runs with --runs-dir.")
    if weights:
        _write_weights(weights, runs_dir, results_dir)
        return
    _show(
        [row.model_dump() for row in list_runs(runs_dir)],
        as_json,
        *("name", Column("method", drop=1), Column("dataset", drop=4), Column("tier", drop=2)),
        *(Column("seed", number=True, drop=3), "encoder", "records", "now", Column("targets", drop=5)),
    )


def _write_weights(path: Path, runs_dir: Path, results_dir: Path) -> None:
    from bench.leaderboard import write_weights_page

    found, kept, lacking = write_weights_page(path, runs_dir, results_dir)
    typer.echo(f"{path}: {found + kept} encoders of published records, {kept} of them kept from the page of before")
    if lacking:
        named = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        typer.echo(f"without a line, since not under {runs_dir}: the encoders of {named}", err=True)


def list_(
    kind: Annotated[str, typer.Argument(metavar="robustbench", help="The collection.")],
    dataset: Annotated[str | None, typer.Option(help="Only what was trained on these data.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the classifiers of RobustBench: how each is named, and the accuracies that RobustBench publishes.

    Examples:
      bench list robustbench --dataset cifar10
      bench evaluate robustbench:Carmon2019Unlabeled
    """
    from bench.errors import unknown
    from bench.results import eps_text
    from bench.robustbench import entries, entries_source

    if kind != "robustbench":
        others = "`bench methods`, `bench datasets`, `bench tiers` and `bench runs` list the others."
        raise unknown("collection", kind, ["robustbench"], others)
    known = {entry.dataset: entry for entry in entries()}
    if dataset not in (None, *known):
        raise unknown("dataset of RobustBench", str(dataset), known)
    listed = [entry for entry in entries() if dataset in (None, entry.dataset)]
    if as_json:
        named = [
            {**each.model_dump(mode="json"), "name": each.origin.partition(":")[2], "obstacle": each.obstacle}
            for each in listed
        ]
        print(json.dumps(named, indent=1))
        return
    for data, threat in dict.fromkeys((each.dataset, each.threat) for each in listed):
        group = [each for each in listed if (each.dataset, each.threat) == (data, threat)]
        numbers = [Column(heading, number=True) for heading in ("eps", "clean", "AA", "corruptions")]
        table = DataTable(
            "NAME",
            *numbers,
            Column("architecture", drop=1),
            title=f"robustbench:{data}/{threat}/NAME",
            caption="\n".join(f"not here: {each.name}, {each.obstacle}" for each in group if each.obstacle),
        )
        for each in group:
            percent = [None if one is None else f"{one:.2f}" for one in (each.clean, each.autoattack, each.corruptions)]
            table.add(each.name, each.eps and eps_text(each.eps), *percent, each.architecture)
        show(table)
    print(f"percent, as published: {entries_source()}. Evaluate one with: bench evaluate robustbench:NAME")


def _show(rows: list[dict[str, Any]], as_json: bool, *columns: Column | str) -> None:
    """Print ``rows`` as a table of ``columns``, or all they hold as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print("none")
        return
    table = DataTable(*columns)
    for row in rows:
        table.add(*(_cell(row.get(column.heading)) for column in table.columns))
    show(table)


def _cell(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
