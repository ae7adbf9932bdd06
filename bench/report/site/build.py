"""The site on disk: every page rendered, every record copied, the folder replaced as a whole."""

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from bench.folders import replaced_folder
from bench.record import load_record
from bench.report import facts
from bench.report.reproduce import reproduction
from bench.report.site import tables
from bench.report.site.content import Content, Entry, MethodEntry, entry_name, read_content
from bench.report.site.figures_page import cost_figures, sweep_figures
from bench.report.site.record_page import measures, trainings
from bench.report.templating import templates
from bench.results import settings_text

_PACKAGE = "bench.report.site"
_STATIC = (
    *("style.css", "site.js", "charts.js"),
    *(f"vega/{name}" for name in ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "LICENSES.txt")),
)


class Site(NamedTuple):
    """What was written."""

    folder: Path
    records: int
    methods: int
    left_out: Sequence[tuple[str, str]]
    """Files that cannot be trusted, each with the reason."""
    failed: Sequence[str]
    """What to say of each record whose evaluation failed a check."""


def write_site(results_dir: Path, output: Path) -> Site:
    """Write the site of ``results_dir`` to the folder ``output``, the same to the byte for the same records.

    Raises:
        BenchError: no such results folder, faulty published numbers, or an ``output`` that is not a site, or
            cannot be written.
    """
    content = read_content(results_dir)
    with replaced_folder(output, "a site") as folder:
        for name in _STATIC:
            _write(folder / name, (resources.files(_PACKAGE) / "static" / name).read_bytes())
        for path, text in _pages(content):
            _write(folder / path, text.encode())
        swept = [file for row in content.board.sweeps for file in row.files]
        failed = [one.file for one in content.board.failed]
        for file in [*(entry.file for entry in content.entries), *failed, *content.corrected, *swept]:
            _write(folder / "records" / file, (results_dir / file).read_bytes())
    left_out = [(bad.file, bad.reason) for bad in content.board.left_out]
    return Site(
        output, len(content.entries), len(content.methods), left_out, [one.said for one in content.board.failed]
    )


def _write(path: Path, content: bytes) -> None:
    # Not synced one by one: the folder is put in place only when complete, and can be made again.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pages(content: Content) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page."""
    environment = templates(_PACKAGE)

    def page(path: str, template: str, **values: Any) -> tuple[str, str]:
        root = "../" * path.count("/")
        return path, environment.get_template(template).render(root=root, path=path, **values)

    measured, published = tables.measured_groups(content), tables.published_groups(content, content.board.published)
    yield page("index.html", "index.html", content=content, measured=measured, published=published)
    figures = {
        kind: cost_figures(groups, root="", published=kind == "published")
        for kind, groups in (("measured", measured), ("published", published))
    }
    yield page("figures.html", "figures.html", figures=figures, sweeps=sweep_figures(content.board))
    yield page("all-methods.html", "all-methods.html", content=content)
    for method in content.methods:
        yield page(method.page, "method.html", **_method_values(content, method))
    for entry in content.entries:
        yield page(entry.page, "record.html", **_record_values(content, entry))
    for one in content.board.corrections:
        if at := content.corrected.get(one.record):
            yield page(at, "corrected.html", correction=one, newer=content.entry.get(one.superseded_by or ""))


def _method_values(content: Content, method: MethodEntry) -> dict[str, Any]:
    return {
        "method": method,
        "lines": [(row, tables.measured_line(content, row)) for row in method.rows],
        "records": [[content.entry[file] for file in row.records] for row in method.rows],
        "published": tables.published_groups(content, method.published),
    }


def _record_values(content: Content, entry: Entry) -> dict[str, Any]:
    record = load_record(content.results_dir / entry.file)
    return {
        "entry": entry,
        "record": record,
        "method_page": content.method_pages[entry_name(record)],
        "overrides": settings_text(record.overrides),
        "newer": content.entry[entry.newer] if entry.newer else None,
        "measures": measures(content, entry),
        "survivals": facts.survivals(record),
        "listed": facts.listed(record),
        "trainings": trainings(record),
        "flags": facts.flags(record),
        "diagnoses": facts.diagnoses(record),
        "costs": facts.costs(record),
        "settings": facts.settings(record),
        "reproduction": reproduction(record),
    }
