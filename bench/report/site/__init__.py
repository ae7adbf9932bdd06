"""The records as a static site: one folder that needs no server and no network."""

from bench.report.site.build import Site, write_site
from bench.report.site.serve import serving

__all__ = ["Site", "serving", "write_site"]
