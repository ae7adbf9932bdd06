"""What a stage keeps outside its state dict: no saved state has it, and a run that is continued loses it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from bench.code import modules_of, reached
from bench.method import Stage
from bench.monitor import Monitor
from bench.optim import unsaved_settings
from bench.train.values import GeneratorState, attributes, changed, values_of

_OF_EVERY_NETWORK = frozenset(vars(nn.Module()))
"""Attributes of torch's: hooks, a flag that the engine sets, and what is saved or looked at by its own name."""


class _Holder(NamedTuple):
    """Objects by name, and the words of a message about a value that they hold."""

    objects: dict[str, Any]
    what: str
    """Of each value: "a plain attribute"."""
    instead: str = "Make it a persistent buffer"
    also: str = ""
    """Which other runs may end with other weights, too."""


class Unsaved:
    """What ``stage``, its ``optimizer`` and the modules of their code hold at the first step and no saved state has.

    It is looked at again after an epoch. What exists only later, such as what a step leaves for ``after_step``, is no
    state: a step that continues a run could not begin with it.
    """

    def __init__(self, stage: Stage, optimizer: Optimizer) -> None:
        self._stage, self._optimizer = stage, optimizer
        roots = modules_of(stage)
        packages = frozenset(root.partition(".")[0] for root in roots) - {"bench"}
        own = reached(roots, packages & sys.modules.keys())
        self._modules = {name: sys.modules[name] for name in sorted(own & sys.modules.keys())}
        self._before = self._values()

    def begin_epoch(self, epoch: int) -> None:
        """Call ``before_epoch`` of the stage. What it sets alike each time it is called needs no saved state.

        In the first epoch that is tried, as a run that is continued within an epoch calls it again.
        """
        self._stage.before_epoch(epoch)
        first = self._values() if self._before else {}
        if changed(self._before, first):
            own = dict(vars(self._stage))
            self._stage.before_epoch(epoch)
            others = changed(first, self._values())
            vars(self._stage).update(own)  # what counts its calls goes on as if it was called once
            self._before = first | {key: value for key, value in self._before.items() if key in others}

    def tell(self, monitor: Monitor) -> None:
        """Report to ``monitor``, in the first call, one of them that training has changed."""
        before, self._before = self._before, {}
        now = self._values() if before else {}
        for number, name in changed(before, now)[:1]:
            _, what, instead, also = list(self._holders())[number]
            if isinstance(now.get((number, name)), GeneratorState):
                what, instead = "a generator", "Draw from the generator that views() receives"
            monitor.note(
                f"stage {self._stage.name}: {name!r} is {what} that training changes, and no saved state has it. "
                f"{instead}, or this run, once interrupted, may end with other weights{also}"
            )

    def _values(self) -> dict[tuple[int, str], Any]:
        """Return copies of the values, by the number of their holder and their name."""
        stage, optimizer = self._stage, self._optimizer
        saved = (*stage.modules(), *stage.parameters(), *stage.buffers())
        seen = {id(one) for one in (*saved, optimizer, optimizer.state, optimizer.param_groups)}
        seen -= {id(buffer) for buffer in self._temporary().values()}
        return {
            (number, name): value
            for number, holder in enumerate(self._holders())
            for name, value in values_of(holder.objects, self._modules, seen).items()
        }

    def _holders(self) -> Iterator[_Holder]:
        for name, module in self._modules.items():
            file = Path(getattr(module, "__file__", None) or name).name
            what, also = f"a value outside of the stage, in {file},", ", and so may the next run of --seeds"
            yield _Holder(vars(module), what, "Make it a persistent buffer of the stage", also)
        yield _Holder(self._attributes(), "a plain attribute")
        yield _Holder(self._temporary(), "a buffer with persistent=False")
        of_optimizer = attributes(self._optimizer, self._modules) | unsaved_settings(self._optimizer)
        in_a_group = "Keep it as a number in a group, or in the state of a parameter"
        yield _Holder(of_optimizer, "an attribute of the optimiser", in_a_group)

    def _attributes(self) -> dict[str, Any]:
        return {
            f"{prefix}.{name}".lstrip("."): value
            for prefix, module in self._stage.named_modules()
            for name, value in attributes(module, self._modules).items()
            if name not in _OF_EVERY_NETWORK
        }

    def _temporary(self) -> dict[str, Any]:
        """Return the buffers that are not saved."""
        return {
            f"{prefix}.{name}".lstrip("."): module._buffers[name]
            for prefix, module in self._stage.named_modules()
            for name in module._non_persistent_buffers_set
        }
