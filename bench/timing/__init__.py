"""What methods cost: steps timed side by side, whole recipes projected, and the costs in records."""

from bench.timing.measure import time_methods, time_pretraining
from bench.timing.model import MethodTiming, StageTiming, Timing, compare
from bench.timing.subject import Data, Subject, data_like, random_facts, subject, timed_methods

__all__ = [
    "Data",
    "MethodTiming",
    "StageTiming",
    "Subject",
    "Timing",
    "compare",
    "data_like",
    "random_facts",
    "subject",
    "time_methods",
    "time_pretraining",
    "timed_methods",
]
