"""Pages from templates: the one way in which values become text."""

from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from bench.recipe import protocol_title
from bench.record import Outcome
from bench.report.verdict import Verdict
from bench.results import DASH, escape, machine_text, percent


def templates(package: str) -> Environment:
    """Return the templates that come with ``package``, and those that all share.

    In HTML all values of a record are text, never markup.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("bench.report")]),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"url": url, "percent": _percent, "markdown": escape, "zip": zip, "protocol": protocol_title}
    environment.filters |= {"interval": _interval, "machine": machine_text}
    environment.globals |= {"DASH": DASH, "Verdict": Verdict}
    return environment


def url(page: str) -> str:
    """Return a page of a site, perhaps with an anchor, as an address."""
    path, sign, anchor = page.partition("#")
    return quote(path) + sign + anchor


def _percent(outcome: Outcome) -> str:
    return percent(outcome.accuracy, outcome.n)


def _interval(outcome: Outcome) -> list[str]:
    return [percent(end, outcome.n) for end in outcome.interval]
