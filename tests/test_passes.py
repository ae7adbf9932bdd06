"""What ``bench methods`` says an image costs is what passes through the network."""

import re
from functools import cache
from typing import Any

import pytest
import torch

from bench.cost import Data, StageProbe, Subject, random_facts, timed_methods
from bench.method import METHODS
from bench.recipe import load_tier

CPU = torch.device("cpu")
DATA = Data(random_facts("random", (3, 16, 16), num_classes=10, train_images=40), images=40)


@cache
def probes(name: str, **changes: int) -> list[StageProbe]:
    """All stages of a method, as narrow as can be, with ``changes`` of their plans, built before any is probed."""
    plans = METHODS.get(name).config_type().plans()
    changed = {"batch_size": 8, **changes}
    small: dict[str, Any] = {
        f"{stage}.{key}": value for stage, plan in plans.items() for key, value in changed.items() if hasattr(plan, key)
    }
    heads = (stage for stage, plan in plans.items() if type(getattr(plan, "projector", None)) is tuple)
    small |= {f"{stage}.projector": [8, 4] for stage in heads}
    small["encoder.width"] = 1
    built = list(Subject.of(name, DATA, tier=load_tier("paper"), overrides=small).stages(CPU))
    return [StageProbe(stage, DATA.random_images(), device=CPU) for stage in built]


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", timed_methods())
def test_passes_are_counted(name: str) -> None:
    """Of one step of the attack and of two, which are alike, follow those of as many as the recipe has."""
    steps = [getattr(plan, "steps", 1) for plan in METHODS.get(name).config_type().plans().values()]
    one, two = ([probe.passes() for probe in probes(name, steps=count)] for count in (1, min(2, max(steps))))
    counted = [
        {
            "fb": first.both + (count - 1) * (second.both - first.both),
            "f": first.forward + (count - 1) * (second.forward - first.forward),
        }
        for count, first, second in zip(steps, one, two, strict=True)
    ]
    stated = [
        {"fb": 0.0, "f": 0.0} | {kind: float(number) for number, kind in re.findall(r"([\d.]+) (fb|f)\b", part)}
        for part in METHODS.get(name).info.passes.split(", then ")
    ]
    assert counted == [pytest.approx(each) for each in stated]


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", timed_methods())
def test_operations_and_memory_of_any_batch_follow_from_those_of_small_ones(name: str) -> None:
    for probe in probes(name, steps=1):
        counted = probe._counts(8)
        assert probe.flops(8) == counted.learning_flops + probe._view_flops(8) > 0
        assert probe.memory(8) == max(counted.live_bytes) > 0


def test_only_methods_with_pre_training_are_timed() -> None:
    assert set(METHODS) - set(timed_methods()) == {"supervised"}
    assert METHODS.get("supervised").info.passes == "none"
