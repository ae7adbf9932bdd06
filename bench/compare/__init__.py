"""Two results side by side: how far apart they are, and whether that may be chance."""

from bench.compare.conditions import MEASURES, Measure
from bench.compare.find import find_record
from bench.compare.records import MeasureComparison, RecordComparison, compare_records
from bench.compare.seeds import SeedComparison, SeedMeasure, compare_seeds
from bench.compare.variants import find_seeds, split_name

__all__ = [
    "MEASURES",
    "Measure",
    "MeasureComparison",
    "RecordComparison",
    "SeedComparison",
    "SeedMeasure",
    "compare_records",
    "compare_seeds",
    "find_record",
    "find_seeds",
    "split_name",
]
