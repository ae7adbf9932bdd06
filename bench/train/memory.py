"""How much memory a step needs beside what is there before it."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def step_memory(work: Callable[[], Any], resident: Iterable[Tensor], device: torch.device) -> int:
    """Return the bytes that ``resident`` and, at the peak of ``work``, everything made by it take together.

    A CUDA device's own allocator tells. Elsewhere the tensors that are alive are counted, which leaves out what
    the kernels take for themselves, but not what other work in this process has left behind.

    Args:
        work: is run once.
        resident: what is there before it and stays: weights, buffers, momenta.
        device: where both are.
    """
    storages: dict[int, int] = {}
    for tensor in resident:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return sum(storages.values()) + int(torch.cuda.max_memory_allocated(device)) - before
    with _LiveTensors(storages) as live:
        work()
    return sum(storages.values()) + int(live.peak)


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages of all tensors that operators return, while they live; ``known`` ones do not count."""

    def __init__(self, known: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known, self._live = set(known), dict[int, int]()
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._known or place in self._live:
            return
        self._live[place] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self._now -= self._live.pop(place)
