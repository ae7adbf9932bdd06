"""Seconds that `bench site` takes for a thousand records, made from one of the bench's records.

Run from the repository's root: ``python perf/site.py [--records 1000] [--profile]``.
"""

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from pathlib import Path

from bench.record import load_record
from bench.report.site import write_site

RECORDS = "deacl-tiny-uniform-s0-slf-*.json"


def fill(results: Path, count: int) -> None:
    """Write ``count`` records of five seeds a recipe under ``results``."""
    template = load_record(next(Path("results/digits").glob(RECORDS)))
    (results / "digits").mkdir(parents=True)
    for i in range(count):
        record = template.model_copy(update={"seed": i % 5, "protocol_sha256": f"{i // 5:064}"}).sealed()
        (results / "digits" / f"{i}.json").write_text(record.model_dump_json())


def main() -> None:
    """Write the site, and print the seconds on the clock and of the processor."""
    parser = argparse.ArgumentParser(description="Seconds to write the site.")
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "results", options.records)
        profile = cProfile.Profile()
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
        if options.profile:
            profile.enable()
        site = write_site(Path(folder) / "results", Path(folder) / "site")
        profile.disable()
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    print(f"{site.records} records: {seconds:.1f} s on the clock, {used:.1f} s of the processor")
    if options.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(35)


if __name__ == "__main__":
    main()
