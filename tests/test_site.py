"""The site: every link leads somewhere, every number to its record, and nothing a record says is markup."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from site_records import add, fill, robust, template

from bench.method import METHODS
from bench.record import Outcome, load_record, record_files
from bench.report.site import write_site
from bench.results import build_leaderboard, cost_ratios, percent

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}

TITLES = ("DeACL 2022", "BYOL 2020", "SimCLR 2020")

PAPERS = {METHODS.get(name).info.url for name in METHODS}
"""All that the site may link to outside its folder."""


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]
    path: tuple[str, ...]


class Page(HTMLParser):
    """A page as a strict reader sees it: elements that are not closed in order are an error."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.elements: list[Element] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(file.read_text("utf-8"))
        assert not self._open, f"{file}: {self._open} left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{self.file}: {tag} has an attribute twice"
        self.elements.append(Element(tag, {key: value or "" for key, value in attrs}, tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {key: value or "" for key, value in attrs}, tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag, f"{self.file}:{self.getpos()[0]} closes {tag}"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [element.attributes for element in self.elements if element.tag == tag]

    @property
    def ids(self) -> list[str]:
        return [element.attributes["id"] for element in self.elements if "id" in element.attributes]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("site") / "results")


@pytest.fixture(scope="module")
def folder(results: Path) -> Path:
    return write_site(results, results.parent / "out").folder


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Page]:
    return {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}


def targets(page: Page) -> list[str]:
    links = [element.attributes.get("href", element.attributes.get("src")) for element in page.elements]
    return [link for link in links if link is not None and not link.startswith("data:") and link not in PAPERS]


def aim(page: Page, link: str) -> tuple[Path, str]:
    """The file that a link leads to, and the anchor in it."""
    parts = urlsplit(link)
    assert not parts.scheme, link
    assert not parts.netloc, link
    assert not parts.path.startswith("/"), f"{link} would not work below a path or from a file"
    target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
    return target, parts.fragment


# Links


def test_every_link_is_relative_and_leads_to_something_in_the_folder(folder: Path, pages: dict[str, Page]) -> None:
    count = 0
    for page in pages.values():
        for link in targets(page):
            target, anchor = aim(page, link)
            assert target.is_file(), f"{page.file}: {link}"
            assert folder.resolve() in target.parents
            if anchor:
                assert anchor in pages[target.relative_to(folder.resolve()).as_posix()].ids, link
            count += 1
    assert count > 300


def test_nothing_comes_from_the_network(folder: Path) -> None:
    # The chart library names addresses that it never loads; test_site_browser.py watches what it does load.
    for path in folder.rglob("*"):
        if path.suffix in {".html", ".css", ".js"} and path.parent.name != "vega":
            loaded = re.sub(r'<a href="[^"]*">', "", path.read_text())
            assert not re.findall(r"https?://[^\s\"'<)]+", loaded), path
            assert "@import" not in path.read_text()


def test_every_accuracy_of_the_board_links_to_its_record(folder: Path, results: Path, pages: dict[str, Page]) -> None:
    index = pages["index.html"]
    measured = [e for e in index.elements if e.tag == "a" and e.attributes.get("class") == "number"]
    links = {aim(index, e.attributes["href"]) for e in measured}
    board = build_leaderboard(results)
    rows = {row.method + row.protocol: row for row in board.rows}
    for row in rows.values():
        if len(row.seeds) == 1:
            page = (folder / "records" / row.records[0]).with_suffix(".html").resolve()
            assert (page, "") in links
    # A mean leads to where its seeds stand, and each of those to its record.
    (mean,) = [(page, anchor) for page, anchor in links if anchor.startswith("row-")]
    assert mean[0] == (folder / "methods" / "deacl.html").resolve()
    method = {aim(pages["methods/deacl.html"], link)[0] for link in targets(pages["methods/deacl.html"])}
    for file in rows["deaclslf"].records:
        assert (folder / "records" / file).with_suffix(".html").resolve() in method


def test_every_record_has_a_page_and_a_copy_to_the_byte(folder: Path, results: Path, pages: dict[str, Page]) -> None:
    files = list(record_files(results))
    assert len(files) == 6
    for path in files:
        file = path.relative_to(results)
        copy = folder / "records" / file
        assert copy.read_bytes() == path.read_bytes()
        page = pages[copy.with_suffix(".html").relative_to(folder).as_posix()]
        assert copy.resolve() in {aim(page, link)[0] for link in targets(page)}


def test_every_method_has_a_page_with_its_citation(pages: dict[str, Page]) -> None:
    text = "".join(data for path, data in pages["methods/deacl.html"].texts if "pre" in path)
    assert "@inproceedings{zhang2022deacl" in text
    listed = {Path(link).name for link in targets(pages["all-methods.html"]) if link.startswith("methods/")}
    assert {"deacl.html", "simclr.html", "supervised.html", "dynacl.html", "A-InfoNCE.html"} <= listed
    assert {f"methods/{name}" for name in listed} == {name for name in pages if name.startswith("methods/")}


def charts(page: Page) -> list[dict[str, Any]]:
    """The specifications that a page holds."""
    return [json.loads(data) for path, data in page.texts if path[-1:] == ("script",)]


def test_the_numbers_of_every_chart_stand_in_a_table_too(pages: dict[str, Page]) -> None:
    for name in ["figures.html", next(name for name in pages if name.startswith("records/"))]:
        page = pages[name]
        words = [data.strip() for path, data in page.texts if "table" in path and "details" in path]
        found = charts(page)
        assert found
        for spec in found:
            for row in spec["data"]["values"]:
                number = row["text"].split()[0] if "text" in row else format(row["value"], ".4g")
                assert number in words, spec["description"]


def test_a_cost_chart_counts_operations_and_names_the_machine_beside_wall_clock(pages: dict[str, Page]) -> None:
    found = [spec for spec in charts(pages["figures.html"]) if "as measured here" in spec["description"]]
    record = template()
    assert found
    for spec in found:
        assert spec["encoding"]["x"]["title"] == "pre-training, floating-point operations"
        for row in spec["data"]["values"]:
            assert row["cost"] == record.pretraining_flops
            assert row["facts"].endswith(" on " + record.environment.device.replace(", 1 threads", ", 1 thread"))


def test_a_sweep_is_drawn_and_listed_with_links_to_its_files(folder: Path, pages: dict[str, Page]) -> None:
    page = pages["figures.html"]
    (chart,) = [spec for spec in charts(page) if "RA under" in spec["description"]]
    assert chart["description"] == "RA under PGD-20 at a growing Linf radius: digits, SLF, tier tiny, fidelity uniform"
    text = page.file.read_text()
    sweeps = text[text.index('id="sweeps"') : text.index('id="published"')]
    cells = re.findall(r'<td class="n">([\d.]+)</td>', sweeps)
    assert cells[:6] == ["95.0", "80.0", "60.5", "97.0", "5.0", "0.0"]  # the first is the mean of two seeds
    copies = {aim(page, link)[0] for link in targets(page) if link.endswith(".json")}
    assert copies == {path.resolve() for path in folder.glob("records/digits/sweeps/*.json")}
    assert len(copies) == 3


def test_the_board_shows_ra_on_the_images_of_aa_cost_ratios_machines_and_local_rows(tmp_path: Path) -> None:
    record = template()
    results = tmp_path / "results"
    costs = {phase: cost.model_copy(update={"device": "one box"}) for phase, cost in record.cost.items()}
    dear = {phase: cost.model_copy(update={"seconds": 3 * cost.seconds}) for phase, cost in costs.items()}
    add(results, record, cost=costs)
    other = {"method": "simclr", "title": "SimCLR", "year": 2020, "protocol_sha256": "a" * 64}
    guess = {"sa": Outcome.pack([i < 30 for i in range(record.sa.n)], test_images=record.sa.n)}
    add(results, record, **other, **guess, cost=dear)
    add(results / "local", record, method="byol", title="BYOL", year=2020, protocol_sha256="b" * 64)
    text = (write_site(results, tmp_path / "out").folder / "index.html").read_text()
    cells = {row: re.sub(r"<[^>]+>", " ", text.split(f">{row}</a>")[1].split("</tr>")[0]) for row in TITLES}
    (line,) = [row for row in build_leaderboard(results).rows if row.method == "deacl"]
    assert line.ra_on_aa is not None
    assert "RA on AA's images" in text
    assert f" {percent(line.ra_on_aa.accuracy, line.ra_on_aa.n)} " in cells["DeACL 2022"]
    assert " one box " in cells["DeACL 2022"]
    assert "time x DeACL 3.00" in cells["SimCLR 2020"]
    assert "FLOPs x DeACL 1.00" in cells["SimCLR 2020"]
    assert "local" in cells["BYOL 2020"]
    assert "time x DeACL" not in cells["BYOL 2020"], "it ran on another machine"
    assert text.index(">SimCLR 2020</a>") > max(text.index(f">{row}</a>") for row in TITLES[:2])


def test_each_imported_encoder_has_a_page_of_its_own(tmp_path: Path) -> None:
    record, results = template(), tmp_path / "results"
    for number, title in enumerate(("Theirs, wide", "Theirs, deep")):
        add(results, record, method="imported", title=title, protocol_sha256=f"{number}" * 64)
    folder = write_site(results, tmp_path / "out").folder
    found = {path.read_text().split("<h1>")[1].split("<")[0].strip(): path for path in folder.glob("methods/imported*")}
    assert found.keys() == {"Theirs, wide", "Theirs, deep"}
    assert all(path.read_text().count('<th scope="row">') == 1 for path in found.values())
    assert all("An encoder of others" in path.read_text() for path in found.values())
    index = (folder / "index.html").read_text()
    assert all(f"methods/{path.name}" in index for path in found.values())


def test_an_evaluation_on_a_lent_encoder_takes_no_ratio_away(tmp_path: Path) -> None:
    record, results = template(), tmp_path / "results"
    add(results, record)
    add(results, record, seed=1, encoder_seed=0)
    assert [ratio.flops for ratio in cost_ratios(build_leaderboard(results).rows)] == [1.0, 1.0]


# Measured and published


def test_published_numbers_stand_only_inside_what_is_marked_published(pages: dict[str, Page]) -> None:
    index = (pages["index.html"].file).read_text()
    before, _, after = index.partition('<section class="published"')
    assert "not measured here" in after
    for number in ("46.99", "50.39"):  # of DynACL-AIR++ and of DeACL under AFF: nobody measured them here
        assert number in after
        assert number not in before


def test_the_papers_number_stands_beside_ours_on_the_papers_data_only(tmp_path: Path) -> None:
    record = template()
    facts = {**record.recipe["dataset"], "name": "cifar10", "published_as": "cifar10"}
    results = fill(tmp_path / "results")
    file = add(results, record, dataset="cifar10", recipe={**record.recipe, "dataset": facts})
    folder = write_site(results, tmp_path / "out").folder
    beside = re.compile(r'<td class="n published" data-sort="45.31">')
    assert len(beside.findall((folder / "index.html").read_text())) == 1
    page = (folder / "records" / file.relative_to(results)).with_suffix(".html").read_text()
    assert '<p class="paper published">45.31 <span class="badge">published</span>' in page


# Structure, for those who do not see the page


def test_ids_are_unique_and_references_to_them_hold(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert max(Counter(page.ids).values()) == 1, name
        for element in page.elements:
            assert element.attributes.get("aria-labelledby", page.ids[0]) in page.ids, (name, element)


def test_headings_go_down_one_by_one_from_a_single_h1(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        levels = [int(element.tag[1]) for element in page.elements if re.fullmatch(r"h[1-6]", element.tag)]
        assert levels.count(1) == 1, name
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), (name, levels)


def test_tables_pictures_and_regions_are_named(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        (html,) = page.all("html")
        assert html["lang"] == "en"
        assert all("scope" in cell for cell in page.all("th")), name
        assert all(image["alt"] for image in page.all("img")), name
        assert all(spec["description"] for spec in charts(page)), name
        assert all("aria-label" in nav for nav in page.all("nav")), name
        scrolled = [e.attributes for e in page.elements if e.attributes.get("class") == "scroll"]
        assert all(e["tabindex"] == "0" and (e.keys() & {"aria-label", "aria-labelledby"}) for e in scrolled), name
        controls = [e for e in page.elements if e.tag in {"input", "select"}]
        assert all("label" in control.path for control in controls), name
        assert page.all("a")[0] == {"class": "skip", "href": "#main"}


def test_the_table_is_complete_without_the_script(pages: dict[str, Page], results: Path) -> None:
    bodies = [e.attributes for e in pages["index.html"].elements if e.tag == "tbody"]
    assert {(b["data-dataset"], b["data-protocol"]) for b in bodies if b["data-tier"]} == {
        ("digits", "SLF"),
        ("digits", "ALF"),
        ("digits", "AFF"),
    }
    text = pages["index.html"].file.read_text()
    assert "AutoAttack warned: the model is randomized" in text
    assert '<form id="filter" class="filter" role="search" aria-label="Filter the tables" hidden>' in text


# What a record shows


def test_the_page_of_a_record_says_what_became_of_the_images(results: Path, pages: dict[str, Page]) -> None:
    record = load_record(next(results.glob("digits/deacl-tiny-uniform-s1-slf-*.json")))
    name = next(name for name in pages if "deacl-tiny-uniform-s1-slf" in name)
    alts = [image["alt"] for image in pages[name].all("img")]
    assert len(alts) == 3
    robust, broken, wrong = record.ra.outcome.correct, 0, 0
    for before, after in zip(record.sa.unpack(), record.ra.outcome.unpack(), strict=True):
        broken += before and not after
        wrong += not before and not after
    words = f"{robust} right under the attack, {broken} broken by the attack, {wrong} already wrong"
    assert any(words in alt for alt in alts)
    labels = [spec["description"] for spec in charts(pages[name])]
    loss = record.history["stage:ssl"]
    assert f"Stage ssl: loss over {len(loss)} epochs, from {loss[0]['loss']:.4g} to {loss[-1]['loss']:.4g}" in labels
    text = " ".join(data for _, data in pages[name].texts)
    assert "bench run deacl --dataset digits --tier tiny --fidelity uniform --protocols slf --seed 1" in text


def test_a_superseded_record_says_so_and_leads_to_the_newer_one(tmp_path: Path) -> None:
    record = template()
    old = add(tmp_path / "results", record)
    new = add(tmp_path / "results", record, finished="2030-01-01T00:00:00+00:00", **robust(record, 1))
    folder = write_site(tmp_path / "results", tmp_path / "out").folder
    texts = {path: (folder / "records" / "digits" / path.name).with_suffix(".html").read_text() for path in (old, new)}
    assert f'Superseded: <a href="../../records/digits/{new.stem}.html">' in texts[old]
    assert "Superseded" not in texts[new]


def test_a_record_that_cannot_be_trusted_is_named_and_has_no_page(tmp_path: Path) -> None:
    path = add(tmp_path / "results", template())
    bad = path.with_name("bad<b>.json")
    bad.write_text(json.dumps({**json.loads(path.read_text()), "seed": 7}))
    site = write_site(tmp_path / "results", tmp_path / "out")
    assert [file for file, _ in site.left_out] == ["digits/bad<b>.json"]
    assert "digits/bad&lt;b&gt;.json</code>: its checksum does not match" in (site.folder / "index.html").read_text()
    assert len(list((site.folder / "records").rglob("*.html"))) == 1


def test_what_a_record_says_is_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&--><img src=x onerror=alert(2)>"
    record = template()
    assert record.aa is not None
    changes = {
        "title": evil,
        "overrides": {"stage1.lr": evil},
        "aa": record.aa.model_copy(update={"warnings": [evil]}),
        "history": {f"stage:{evil}": [{evil: 1.0}, {evil: 2.0}]},
        "environment": record.environment.model_copy(update={"device": evil, "platform": evil}),
        "recipe": {**record.recipe, evil: {evil: evil}},
    }
    hostile = hostile_results(tmp_path, changes)
    site = write_site(hostile, tmp_path / "out")
    assert not site.left_out
    folder = site.folder
    for path in folder.rglob("*.html"):
        page = Page(path)
        root = "../" * len(path.relative_to(folder).parts[1:])
        library = [f"vega/{name}.min.js" for name in ("vega", "vega-lite", "vega-embed")]
        ours = {root + name for name in ("site.js", "charts.js", *library)}
        for script in page.all("script"):
            assert script.get("src") in ours or script == {"type": "application/json"}
        assert not any("onerror" in element.attributes for element in page.elements)
    assert not list(tmp_path.rglob("*<script>*"))


def hostile_results(tmp_path: Path, changes: dict[str, object]) -> Path:
    record = template().model_copy(update=changes).sealed()
    path = tmp_path / "results" / "digits" / "x%20#?.json"
    path.parent.mkdir(parents=True)
    path.write_text(record.model_dump_json())
    return tmp_path / "results"
