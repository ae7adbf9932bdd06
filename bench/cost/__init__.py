"""Costs: steps probed and timed, whole recipes projected, and epochs chosen for a budget."""

from bench.cost.budget import at_budget, epoch_flops
from bench.cost.memory import live_bytes
from bench.cost.probe import Passes, StageProbe
from bench.cost.profile import Profile
from bench.cost.projection import (
    AttackSeconds,
    PhaseEstimate,
    Projector,
    attack_digest,
    step_digest,
)
from bench.cost.side_by_side import time_methods, time_pretraining
from bench.cost.step_times import Effort, StepTimes, time_in_turn
from bench.cost.subject import Data, Subject, data_like, random_facts, timed_methods
from bench.cost.timing import MethodTiming, PaperCost, StageTiming, Timing

__all__ = [
    "AttackSeconds",
    "Data",
    "Effort",
    "MethodTiming",
    "PaperCost",
    "Passes",
    "PhaseEstimate",
    "Profile",
    "Projector",
    "StageProbe",
    "StageTiming",
    "StepTimes",
    "Subject",
    "Timing",
    "at_budget",
    "attack_digest",
    "data_like",
    "epoch_flops",
    "live_bytes",
    "random_facts",
    "step_digest",
    "time_in_turn",
    "time_methods",
    "time_pretraining",
    "timed_methods",
]
