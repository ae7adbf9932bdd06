"""The memory that a step needs: its live tensors."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def live_bytes(work: Callable[[], Any], resident: Iterable[Tensor], *, since: nn.Module) -> list[int]:
    """Run ``work`` once and return the bytes of all live tensors after each of its operators.

    Temporary memory of kernels and tensors of other work in this process are not counted.

    Args:
        work: runs the operators.
        resident: tensors that exist before and stay: weights, buffers, momenta. All tensors that ``work`` makes are
            added to them.
        since: the list begins when this module is called. Views are made before, in pieces, and by operators that
            differ between steps.
    """
    with _LiveTensors(resident) as live:
        handle = since.register_forward_pre_hook(lambda *_: live.history.clear())
        try:
            work()
        finally:
            handle.remove()
    history: list[int] = live.history
    return history


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages of all live tensors that operators have returned."""

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, int] = {}
        for tensor in resident:
            storage = tensor.untyped_storage()
            self._live[storage._cdata] = storage.nbytes()
        self._now = sum(self._live.values())
        self.history: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        self.history.append(self._now)
        return out

    def _see(self, storage: UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._live:
            self._live[place] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self._now -= self._live.pop(place)
