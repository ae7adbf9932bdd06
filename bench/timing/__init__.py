"""What methods cost: steps timed side by side, whole recipes projected, and the costs in records."""

from bench.timing.measure import time_methods
from bench.timing.model import MethodTiming, StageTiming, Timing, compare
from bench.timing.published import PublishedCosts
from bench.timing.subject import Data, Subject, data_like, random_facts, subject, timed_methods

__all__ = [
    "Data",
    "MethodTiming",
    "PublishedCosts",
    "StageTiming",
    "Subject",
    "Timing",
    "compare",
    "data_like",
    "random_facts",
    "subject",
    "time_methods",
    "timed_methods",
]
