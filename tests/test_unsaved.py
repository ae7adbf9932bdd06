"""What a stage keeps outside its state dict, and training changes, is reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_stage import EPOCHS, StopAfter, ToyStage, make_plan, run


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
