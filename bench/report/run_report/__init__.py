"""One run as a report with pictures, in Markdown and in HTML."""

from bench.report.run_report.example_images import Example, examples
from bench.report.run_report.write import Report, write_report

__all__ = ["Example", "Report", "examples", "write_report"]
