"""``bench methods``, ``datasets``, ``tiers`` and ``runs``: what there is."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def methods(as_json: AsJson = False) -> None:
    """List the methods, with year and paper.

    Examples:
      bench methods
      bench methods --json
    """
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
    _show(rows, as_json, hidden=("title", "summary", "url"))


def datasets(as_json: AsJson = False) -> None:
    """List the named datasets and the forms for your own.

    Examples:
      bench datasets
      bench run deacl --dataset npz:my.npz
    """
    from bench.data import DATASETS
    from bench.data.load import OWN_FORMS

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
    _show(rows, as_json)


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
    _show(rows, as_json)


def runs(
    runs_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and how far each has come.

    Examples:
      bench runs
    """
    from bench.run.listing import list_runs

    _show([row.model_dump() for row in list_runs(runs_dir)], as_json)


def _show(rows: list[dict[str, Any]], as_json: bool, hidden: tuple[str, ...] = ()) -> None:
    """Print ``rows`` as a table, without the columns ``hidden``, which are too wide for one, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in hidden]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console().print(table if rows else "none")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
