"""Which parameters the steps of a stage update: those that its optimiser holds, and that have a gradient."""

from torch.optim import Optimizer

from bench.method import Stage
from bench.monitor import Monitor
from bench.optim import refuse_strangers, untrained


class Updates:
    """The parameters of ``stage`` that ``optimizer`` updates; reports to ``monitor`` which it does not.

    Raises:
        BenchError: the optimiser holds what is no parameter of the stage.
    """

    def __init__(self, stage: Stage, optimizer: Optimizer, monitor: Monitor) -> None:
        self._stage, self._monitor = stage, monitor
        refuse_strangers(optimizer, stage)
        left = untrained(optimizer, stage)
        if left:
            self._note(f"no group of its optimiser holds {_some(left)}, which keep their first values")
        self._held = {name: one for name, one in stage.named_parameters() if one.requires_grad and name not in left}
        self._idle = self._held
        """Those that no step had a gradient for."""

    def look(self) -> None:
        """Look at the gradients of a step; they tell nothing where the stage has cleared all of them since."""
        if self._idle and any(one.grad is not None for one in self._held.values()):
            # What a stage has frozen for a time needs no gradient.
            self._idle = {name: one for name, one in self._idle.items() if one.requires_grad and one.grad is None}

    def tell(self, epoch: int) -> None:
        """Report, in the first call, the parameters that no step of the 1-based ``epoch`` had a gradient for."""
        if 0 < len(self._idle) < len(self._held):
            self._note(
                f"no step of epoch {epoch} had a gradient for {_some(list(self._idle))}, which keep their values. Look "
                "whether the loss uses them, and for a detach() or no_grad() between them and it"
            )
        self._idle = {}

    def _note(self, message: str) -> None:
        self._monitor.note(f"stage {self._stage.name}: {message}")


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
