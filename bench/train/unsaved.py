"""What a stage keeps outside its state dict: no saved state has it, and a run that is continued loses it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.method import Stage
from bench.monitor import Monitor


class Unsaved:
    """The plain attributes and non-persistent buffers of ``stage`` at the first step, to be looked at after an epoch.

    One that exists only later, such as what a step leaves for ``after_step``, is no state: a step that continues a run
    could not begin with it.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before = _values(stage)

    def begin_epoch(self, epoch: int) -> None:
        """Call ``before_epoch`` of the stage. What it sets alike each time it is called needs no saved state.

        In the first epoch that is tried, as a run that is continued within an epoch calls it again.
        """
        self._stage.before_epoch(epoch)
        first = _values(self._stage) if self._before else {}
        if _changed(self._before, first):
            attributes = dict(vars(self._stage))
            self._stage.before_epoch(epoch)
            others = _changed(first, _values(self._stage))
            vars(self._stage).update(attributes)  # what counts its calls goes on as if it was called once
            self._before = first | {name: value for name, value in self._before.items() if name in others}

    def tell(self, monitor: Monitor) -> None:
        """Report to ``monitor``, in the first call, one of them that training has changed."""
        before, self._before = self._before, {}
        now = _values(self._stage) if before else {}
        if changed := _changed(before, now):
            buffers = dict(self._stage.named_buffers())
            what = "a buffer with persistent=False" if changed[0] in buffers else "a plain attribute"
            monitor.note(
                f"stage {self._stage.name}: {changed[0]!r} is {what} that training changes, and no saved state has it. "
                "Make it a persistent buffer, or this run, once interrupted, may end with other weights"
            )


def _values(stage: Stage) -> dict[str, Any]:
    """Return the numbers, words and tensors, copied, that the stage and its modules hold and do not save, by name."""
    return {
        f"{prefix}.{name}".lstrip("."): value.clone() if isinstance(value, Tensor) else value
        for prefix, module in stage.named_modules()
        for name, value in _unsaved(module)
        if isinstance(value, int | float | complex | str | Tensor) and name != "training"  # the engine sets that one
    }


def _unsaved(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from vars(module).items()
    for name in module._non_persistent_buffers_set:
        yield name, module._buffers[name]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, value in before.items() if not _same(value, now.get(name))]


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor):
        return isinstance(now, Tensor) and before.shape == now.shape and torch.equal(before.to(now), now)
    return type(before) is type(now) and (before == now or before != before)
