"""Read all records as a table, one line a record.

Run it as ``python examples/read_records.py [RESULTS]``. With pandas it is ``pandas.DataFrame(bench.load_records())``;
here plain Python finds the best AA of each method, so that pandas need not be installed.
"""

import sys

import bench


def main(results: str = "results") -> None:
    """Print the best AA of each method on each dataset under SLF, best first."""
    rows = [row for row in bench.load_records(results) if row["protocol"] == "slf" and row["aa"] is not None]
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["dataset"], row["title"]
        best[key] = max(row["aa"], best.get(key, 0.0))
    for (dataset, title), aa in sorted(best.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{dataset}: {title} {aa:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
