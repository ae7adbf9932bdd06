"""RobustBench's entries and the numbers that it publishes for them, for readers that need no network."""

from bench.robustbench.entry import KIND, Entry, entries, entries_source, find_entry, find_released

__all__ = ["KIND", "Entry", "entries", "entries_source", "find_entry", "find_released"]
