"""The site in a real headless Chromium: sorting, filtering, themes, a phone, and nobody shut out."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_records import fill

from bench.report.site import write_site

pytest.importorskip("selenium", reason="selenium is not installed: python -m pip install -e '.[dev]'")
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
DRIVER = shutil.which("chromedriver")
MISSING = [name for name, found in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if not found]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; Debian has chromium-driver"),
]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--window-size=1280,1000"]

# How far the texts of a page stand out, as WCAG 2.1 computes it; and what a screen reader would miss.
CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function over(colour, below) {
  canvas.fillStyle = `rgb(${below})`; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
function ground(element) {
  const chain = [];
  for (let e = element; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
  return chain.reduce((below, colour) => over(colour, below), [255, 255, 255]);
}
function light(rgb) {
  const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, style = getComputedStyle(element);
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script")) continue;
  const below = ground(element);
  const colour = element.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(over(colour, below)), light(below)];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
}
return found;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    return write_site(fill(root / "results"), root / "out").folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Site:
    """The site in the browser."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, page: str = "index.html") -> None:
        self.visit(f"{self.folder.as_uri()}/{page}")

    def visit(self, address: str) -> None:
        self.driver.get("about:blank")  # so that a page that differs in its anchor alone loads anew
        self.driver.get(address)
        # On a busy machine the driver comes back now and then while the page is still loading.
        self.until(self.loaded)

    def loaded(self) -> bool:
        return bool(self.js("return location.href !== 'about:blank' && document.readyState === 'complete'"))

    def until(self, holds: Callable[[], bool]) -> None:
        WebDriverWait(self.driver, 30).until(lambda _: holds())

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def rows(self) -> list[str]:
        """The visible rows of the measured table, as block and method."""
        words: list[str] = self.js(
            "return [...document.querySelectorAll('table.board')[0].tBodies].flatMap(body => "
            "[...body.rows].filter(row => row.cells[0].scope === 'row' && row.checkVisibility()).map(row => "
            "body.dataset.protocol + ' ' + row.cells[0].querySelector('a').textContent))"
        )
        return words

    def device(self, width: int, scheme: str = "light") -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        # Reduced motion: a smooth scroll would still be under way when the next click falls.
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


@pytest.fixture
def site(chromium: Any, folder: Path) -> Iterator[Site]:
    site = Site(chromium, folder)
    site.device(1280)
    chromium.get_log("browser")
    yield site
    site.js("localStorage.clear()")
    assert [entry["message"] for entry in chromium.get_log("browser")] == []


def pages(folder: Path) -> list[str]:
    record = next((folder / "records").rglob("*.html")).relative_to(folder).as_posix()
    return ["index.html", "all-methods.html", "figures.html", "methods/deacl.html", record]


def heading(site: Site, name: str) -> Any:
    return next(th for th in site.all("table.board thead th") if th.text == name)


def test_a_heading_sorts_the_rows_of_each_block_and_says_so(site: Site) -> None:
    site.open()
    assert site.rows() == ["SLF DeACL 2022", "SLF SimCLR 2020", "ALF SimCLR 2020", "AFF DeACL 2022"]
    aa = heading(site, "AA")
    button = aa.find_element("css selector", "button")
    assert aa.get_attribute("aria-sort") is None
    button.click()
    assert aa.get_attribute("aria-sort") == "descending"
    assert site.rows()[:2] == ["SLF DeACL 2022", "SLF SimCLR 2020"]
    button.send_keys("\n")  # from the keyboard
    assert aa.get_attribute("aria-sort") == "ascending"
    assert site.rows()[:2] == ["SLF SimCLR 2020", "SLF DeACL 2022"]
    method = heading(site, "Method")
    method.find_element("css selector", "button").click()
    assert (method.get_attribute("aria-sort"), aa.get_attribute("aria-sort")) == ("ascending", None)
    assert site.rows()[:2] == ["SLF DeACL 2022", "SLF SimCLR 2020"]


def test_filters_narrow_the_tables_count_the_rows_and_stand_in_the_address(site: Site) -> None:
    site.open()
    assert site.one("#count").text == "99 of 99 rows"
    site.one("[name=q]").send_keys("simclr digits")
    assert site.rows() == ["SLF SimCLR 2020", "ALF SimCLR 2020"]
    assert site.one("#count").text == "2 of 99 rows"
    site.one("[name=protocol]").send_keys("ALF")
    assert site.rows() == ["ALF SimCLR 2020"]
    address = site.driver.current_url
    assert address.endswith("#q=simclr+digits&protocol=ALF")
    site.visit(address)
    assert site.rows() == ["ALF SimCLR 2020"]
    site.one("button[type=reset]").click()
    site.until(lambda: len(site.rows()) == 4)
    site.one("[name=q]").send_keys("no such method")
    assert site.one("#count").text == "0 of 99 rows"


def test_the_address_says_all_that_is_filtered_in_any_case(site: Site) -> None:
    site.open("index.html#protocol=ALF&q=simclr")
    assert site.rows() == ["ALF SimCLR 2020"]
    # The same page, another address: what that does not name is not filtered any more.
    site.js("location.hash = '#protocol=slf'")
    site.until(lambda: len(site.rows()) == 2)
    assert site.rows() == ["SLF DeACL 2022", "SLF SimCLR 2020"]
    assert site.one("[name=q]").get_attribute("value") == ""
    assert site.one("[name=protocol]").get_attribute("value") == "SLF"
    site.js("location.hash = '#protocol=nonsense'")
    site.until(lambda: len(site.rows()) == 4)


@pytest.mark.parametrize("width", [1000, 1400])
def test_the_measured_table_fits_and_its_records_are_in_sight(site: Site, width: int) -> None:
    site.device(width)
    site.open()
    box, inside = site.js(
        "const box = document.querySelector('[aria-labelledby=measured].scroll'); "
        "return [box.clientWidth, box.scrollWidth]"
    )
    assert inside <= box
    assert all(link.is_displayed() and link.rect["x"] + link.rect["width"] <= width for link in site.all(".seeds a"))


def test_flags_are_notes_that_stay_below_their_block(site: Site) -> None:
    site.open()
    block = "tbody[data-tier=tiny][data-protocol=ALF] tr"
    warned = f"return [...document.querySelectorAll('{block}')].map(row => row.className)"
    assert site.js(warned) == ["group", "", "notes"]
    heading(site, "AA").find_element("css selector", "button").click()
    assert site.js(warned) == ["group", "", "notes"]
    assert "⚑1 AutoAttack warned: the model is randomized" in site.one("[data-protocol=ALF] .notes").text


def test_a_number_opens_its_record_and_the_record_its_file(site: Site) -> None:
    site.open()
    site.one("[name=q]").send_keys("simclr")
    next(link for link in site.all("a.number") if link.is_displayed()).click()
    site.until(lambda: "/records/digits/simclr-tiny-uniform-s0-slf-" in site.driver.current_url and site.loaded())
    assert site.one("h1").text.startswith("SimCLR")
    assert all(site.js("return [...document.images].map(image => image.complete && image.naturalWidth > 1)"))
    site.one("#file ~ p a").click()
    site.until(lambda: site.driver.current_url.endswith(".json") and site.loaded())
    assert '"schema_version"' in site.driver.page_source


def test_the_citation_can_be_copied(site: Site) -> None:
    site.open("methods/deacl.html")
    button = site.one(".copyable button")
    button.click()
    # A page that is a file may lack the permission; then the text is selected, ready for Ctrl-C.
    site.until(lambda: button.text in {"Copied", "Selected"})
    if button.text == "Selected":
        assert site.js("return String(getSelection())").startswith("@inproceedings{zhang2022deacl")


def test_dark_is_the_systems_choice_or_the_readers(site: Site, folder: Path) -> None:
    def ground() -> str:
        return str(site.js("return getComputedStyle(document.body).backgroundColor"))

    site.open()
    light = ground()
    site.device(1280, "dark")
    dark = ground()
    assert light != dark
    toggle = site.one("#theme")
    assert toggle.get_attribute("aria-label") == "Switch to the light theme"
    toggle.click()
    assert ground() == light
    site.open("all-methods.html")  # remembered
    assert ground() == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(site: Site, folder: Path, scheme: str) -> None:
    site.device(1280, scheme)
    for page in pages(folder):
        site.open(page)
        drawn(site)
        found = site.js(CONTRASTS)
        assert len(found) > 20
        assert [(text, ratio) for ratio, text in found if ratio < 4.5] == [], page


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_page_is_wider_than_a_phone(site: Site, folder: Path, width: int) -> None:
    site.device(width)
    for page in pages(folder):
        site.open(page)
        drawn(site)
        assert site.js("return document.documentElement.scrollWidth") <= width, page
        # Whatever is wider scrolls within a region that the keyboard reaches.
        assert (
            site.js(
                "return [...document.querySelectorAll('.scroll, pre')].filter("
                "e => e.scrollWidth > e.clientWidth && e.tabIndex !== 0).length"
            )
            == 0
        )
        small = site.js(
            "return [...document.querySelectorAll('button, select, input')].filter("
            "e => e.checkVisibility() && e.getBoundingClientRect().height < 16).length"
        )
        assert small == 0, page


def test_the_keyboard_reaches_the_content_first_and_shows_where_it_is(site: Site) -> None:
    site.open()
    body = site.one("body")
    body.send_keys("\t")
    skip = site.driver.switch_to.active_element
    assert skip.text == "Skip to the content"
    assert site.js("return getComputedStyle(arguments[0]).outlineStyle", skip) == "solid"
    skip.send_keys("\n")
    assert site.driver.switch_to.active_element.get_attribute("id") == "main"


def drawn(site: Site) -> list[Any]:
    """Scroll through the page until each of its charts is drawn."""
    charts = site.all(".vega")
    for chart in charts:
        site.js("arguments[0].scrollIntoView()", chart)
        wait = WebDriverWait(chart, 20)
        wait.until(lambda shown: shown.find_elements("css selector", "svg"))
    return charts


def test_charts_are_drawn_from_the_file_without_a_request(site: Site, folder: Path) -> None:
    for page in pages(folder)[2::2]:
        site.open(page)
        charts = drawn(site)
        assert len(charts) > 3
        for chart in charts:
            assert chart.find_element("css selector", "svg [aria-label]").get_attribute("aria-label")
        loaded = site.js(
            "return [...document.querySelectorAll('[src], link[href]')].map(e => e.src || e.href)"
            ".concat(performance.getEntriesByType('resource').map(e => e.name))"
        )
        assert all(address.startswith(("file://", "data:")) for address in loaded)


def test_the_labels_of_a_cost_chart_do_not_meet(site: Site) -> None:
    site.open("figures.html")
    chart = drawn(site)[0]
    texts = site.js(
        "return [...arguments[0].querySelectorAll('.labels text')].filter(text => text.textContent"
        " && getComputedStyle(text).opacity > 0).map(text => [text.textContent,"
        " ...['left', 'right', 'top', 'bottom'].map(side => text.getBoundingClientRect()[side])])",
        chart,
    )
    assert {text[0] for text in texts} == {"DeACL 2022", "SimCLR 2020"}
    for number, (_, left, right, top, bottom) in enumerate(texts):
        for _, other_left, other_right, other_top, other_bottom in texts[:number]:
            assert right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top


def test_a_mark_shows_its_numbers_and_leads_to_its_record(site: Site) -> None:
    site.open("figures.html")
    mark = drawn(site)[0].find_element("css selector", ".labelled_marks path")
    ActionChains(site.driver).move_to_element(mark).perform()
    site.until(lambda: bool(site.all("#vg-tooltip-element.visible")))
    assert "FLOPs" in site.one("#vg-tooltip-element").text
    mark.click()
    site.until(lambda: "figures.html" not in site.driver.current_url)
    assert "/methods/deacl.html#row-" in site.driver.current_url or "/records/" in site.driver.current_url


def test_controls_have_names(site: Site, folder: Path) -> None:
    for page in pages(folder):
        site.open(page)
        for element in site.all("button, input, select, img, [role=region]"):
            assert element.accessible_name.strip() or not element.is_displayed(), element.get_attribute("outerHTML")


def test_the_tables_stand_without_the_script(site: Site, folder: Path) -> None:
    site.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        site.open()
        assert not site.one("#filter").is_displayed()
        assert not site.one("#theme").is_displayed()
        assert sum(row.is_displayed() for row in site.all("table.board tbody tr:not(.group, .notes)")) == 99
    finally:
        site.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
