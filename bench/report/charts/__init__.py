"""Charts as SVG text: no script, no font, and colours that a page's style sheet decides."""

from bench.report.charts.curve import curve
from bench.report.charts.lines import Line, lines
from bench.report.charts.scatter import Point, scatter
from bench.report.charts.standalone import standalone

__all__ = ["Line", "Point", "curve", "lines", "scatter", "standalone"]
