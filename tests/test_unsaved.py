"""What a stage keeps outside its state dict, and training changes, is reported."""

import math
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from toy_stage import EPOCHS, StopAfter, ToyStage, make_plan, run

from bench.method import StepLoss
from bench.own_code import load_own


def notes(stage: ToyStage, folder: Path) -> list[str]:
    """What a training reports, up to "no saved state"."""
    monitor = StopAfter(10**6)
    run(stage, folder, monitor=monitor)
    return [note.partition(" no saved")[0] for note in monitor.notes]


class Plain(ToyStage):
    """Keeps four things that no state dict has, and a step changes one of them."""

    turns: Tensor

    def __init__(self, change: Callable[[Any], None] = lambda stage: None) -> None:
        super().__init__(make_plan())
        self.warm, self.kind, self.centre = 0.5, "cold", torch.zeros(4)
        self.register_buffer("turns", torch.zeros(()), persistent=False)
        self._change = change

    def after_step(self) -> None:
        super().after_step()
        self._change(self)


@pytest.mark.parametrize(
    ("name", "kind", "change"),
    [
        ("warm", "a plain attribute", lambda stage: setattr(stage, "warm", 2 * stage.warm)),
        ("kind", "a plain attribute", lambda stage: setattr(stage, "kind", "warm")),
        ("centre", "a plain attribute", lambda stage: stage.centre.add_(1)),
        ("head.in_features", "a plain attribute", lambda stage: setattr(stage.head, "in_features", 5)),
        ("turns", "a buffer with persistent=False", lambda stage: stage.turns.add_(1)),
    ],
)
def test_state_that_no_checkpoint_has_is_reported_once(
    name: str, kind: str, change: Callable[[Any], None], tmp_path: Path
) -> None:
    monitor, same = StopAfter(10**6), StopAfter(10**6)
    run(Plain(), tmp_path / "same", monitor=same)
    assert same.notes == []
    run(Plain(change), tmp_path / "changed", monitor=monitor)
    (note,) = monitor.notes
    assert note.startswith(f"stage toy: '{name}' is {kind} that training changes, and no saved state has it")


STEPS = [0]
NAMED = {"kind": "cold"}
AVERAGE = nn.Linear(2, 2)
DRAWS = torch.Generator()


class Schedule:
    """Counts in an attribute that at first its class alone has."""

    turns = 0


SCHEDULE = Schedule()


def ramp() -> None:
    ramp.turns += 1  # type: ignore[attr-defined]


ramp.turns = 0  # type: ignore[attr-defined]


class Holding(Plain):
    """Holds values in everything that is looked into."""

    steps_done = 0

    def __init__(self, change: Callable[[Any], None]) -> None:
        super().__init__(change)
        self.counts, self.named, self.window = [0, 1], {"turns": 0}, deque([0.0], maxlen=1)
        self.nested: list[Any] = [{"last": torch.zeros(2)}, None]
        self.teacher = [nn.Linear(2, 2)]
        self.array, self.number = np.zeros(2), np.int64(0)
        self.schedule = Schedule()
        self.torch, self.python, self.numpy = torch.Generator(), random.Random(0), np.random.default_rng(0)
        self.legacy = np.random.RandomState(0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counts", lambda stage: stage.counts.__setitem__(0, 1)),
        ("named", lambda stage: stage.named.update(turns=1)),
        ("window", lambda stage: stage.window.append(1.0)),
        ("nested.0.last", lambda stage: stage.nested[0]["last"].add_(1)),
        ("teacher.0.weight", lambda stage: stage.teacher[0].weight.data.mul_(2)),
        ("array", lambda stage: np.add(stage.array, 1, out=stage.array)),
        ("number", lambda stage: setattr(stage, "number", stage.number + 1)),
        ("schedule.turns", lambda stage: setattr(stage.schedule, "turns", stage.schedule.turns + 1)),
        ("steps_done", lambda stage: setattr(stage, "steps_done", stage.steps_done + 1)),
    ],
)
def test_values_in_what_a_stage_holds_are_looked_at(name: str, change: Callable[[Any], None], tmp_path: Path) -> None:
    assert notes(Holding(change), tmp_path) == [f"stage toy: {name!r} is a plain attribute that training changes, and"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("STEPS", lambda stage: STEPS.__setitem__(0, STEPS[0] + 1)),
        ("NAMED", lambda stage: NAMED.update(kind=NAMED["kind"] + "er")),
        ("AVERAGE.weight", lambda stage: AVERAGE.weight.data.add_(1)),
        ("Schedule.turns", lambda stage: setattr(Schedule, "turns", Schedule.turns + 1)),
        ("SCHEDULE.turns", lambda stage: setattr(SCHEDULE, "turns", SCHEDULE.turns + 1)),
        ("Holding.steps_done", lambda stage: setattr(Holding, "steps_done", Holding.steps_done + 1)),
        ("ramp.turns", lambda stage: ramp()),
    ],
)
def test_values_outside_of_a_stage_are_looked_at(name: str, change: Callable[[Any], None], tmp_path: Path) -> None:
    where = "a value outside of the stage, in test_unsaved.py,"
    assert notes(Holding(change), tmp_path) == [f"stage toy: {name!r} is {where} that training changes, and"]


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("torch", lambda stage: torch.rand(1, generator=stage.torch)),
        ("python", lambda stage: stage.python.random()),
        ("numpy", lambda stage: stage.numpy.random()),
        ("legacy", lambda stage: stage.legacy.rand()),
        ("DRAWS", lambda stage: torch.rand(1, generator=DRAWS)),
    ],
)
def test_a_generator_of_its_own_is_reported(name: str, draw: Callable[[Any], None], tmp_path: Path) -> None:
    assert notes(Holding(draw), tmp_path) == [f"stage toy: {name!r} is a generator that training changes, and"]


def test_the_message_says_what_to_do(tmp_path: Path) -> None:
    def both(stage: Holding) -> None:
        torch.rand(1, generator=DRAWS)

    monitor = StopAfter(10**6)
    run(Holding(both), tmp_path, monitor=monitor)
    (note,) = monitor.notes
    assert note.endswith(
        "no saved state has it. Draw from the generator that views() receives, or this run, once interrupted, may end "
        "with other weights, and so may the next run of --seeds"
    )


def test_a_file_of_the_user_s_is_named_as_it_is_called(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from toy_stage import ToyStage\nSTEPS = [0]\n"
        "class Own(ToyStage):\n    def after_step(self):\n        super().after_step()\n        STEPS[0] += 1\n"
    )
    stage = load_own(f"{file}:Own", "method", callable).value(make_plan())
    expected = "stage toy: 'STEPS' is a value outside of the stage, in own.py, that training changes, and"
    assert notes(stage, tmp_path) == [expected]


class Ticking(SGD):
    """Counts its steps where no saved state has them."""

    ticks = 0

    def step(self, closure: Any = None) -> Any:
        self.ticks += 1
        self.param_groups[0]["pair"] = (self.ticks, 1)
        return super().step(closure)


def test_what_an_optimiser_counts_for_itself_is_reported(tmp_path: Path) -> None:
    class Stepped(ToyStage):
        def optimizer(self) -> Optimizer:
            return Ticking(self.parameters(), lr=0.1)

    expected = "stage toy: 'ticks' is an attribute of the optimiser that training changes, and"
    assert notes(Stepped(make_plan()), tmp_path) == [expected]


def test_what_is_saved_or_computed_or_added_is_not_reported(tmp_path: Path) -> None:
    class Sound(Holding):
        def __init__(self) -> None:
            super().__init__(lambda stage: stage.log.append(1.0))
            self.scaled = nn.utils.weight_norm(nn.Linear(4, 4))
            self.trained = list(self.parameters()), [self.head, self.queue]
            self.log: list[float] = [0.5]
            self.labels, self.missing = torch.full((2,), math.nan), math.nan
            self.odd = [torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), torch.zeros(()), torch.zeros(0)]
            self.later: list[Tensor] = []
            self.none: list[Any] = [None, None]

        def optimizer(self) -> Optimizer:
            self.made = SGD(self.parameters(), lr=0.1, momentum=0.9)
            return self.made

        def forward(self, views: Tensor) -> StepLoss:
            loss = super().forward(views)
            return StepLoss(loss.total + self.scaled(self._keys).square().mean(), loss.scalars)

        def after_step(self) -> None:
            ToyStage.after_step(self)
            self._change(self)
            self.later.append(self._keys)
            self.none[0] = self._keys

    assert notes(Sound(), tmp_path) == []


class Curriculum(Plain):
    """``begin`` sets what changes between epochs."""

    def __init__(self, begin: Callable[[Any, int], None], change: Callable[[Any], None] = lambda stage: None) -> None:
        super().__init__(change)
        self._begin = begin

    def before_epoch(self, epoch: int) -> None:
        self._begin(self, epoch)


@pytest.mark.parametrize(
    "begin",
    [
        lambda stage, epoch: setattr(stage, "warm", (epoch + 1) / EPOCHS),
        lambda stage, epoch: setattr(stage, "kind", f"epoch {epoch}"),
        lambda stage, epoch: setattr(stage, "centre", torch.full((4,), epoch + 1.0)),
        lambda stage, epoch: stage.centre.fill_(epoch + 1),
        lambda stage, epoch: stage.turns.fill_(epoch + 1),
    ],
)
def test_what_an_epoch_begins_with_needs_no_saved_state(begin: Callable[[Any, int], None], tmp_path: Path) -> None:
    monitor = StopAfter(10**6)
    run(Curriculum(begin), tmp_path, monitor=monitor)
    assert monitor.notes == []


def test_what_a_step_changes_is_reported_even_if_each_epoch_begins_with_it(tmp_path: Path) -> None:
    def begin(stage: Plain, epoch: int) -> None:
        stage.warm = epoch + 1.0

    monitor = StopAfter(10**6)
    run(Curriculum(begin, lambda stage: setattr(stage, "warm", stage.warm / 2)), tmp_path, monitor=monitor)
    assert [note.split(" is ")[0] for note in monitor.notes] == ["stage toy: 'warm'"]


def test_what_depends_on_the_epochs_before_is_reported_and_counted_once(tmp_path: Path) -> None:
    def begin(stage: Plain, epoch: int) -> None:
        stage.warm *= 2

    monitor, stage = StopAfter(10**6), Curriculum(begin)
    run(stage, tmp_path, monitor=monitor)
    assert [note.split(" is ")[0] for note in monitor.notes] == ["stage toy: 'warm'"]
    assert stage.warm == 0.5 * 2**EPOCHS
