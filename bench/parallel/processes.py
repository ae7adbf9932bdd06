"""The processes of one run, one a device: what they agree on, and the work that they divide among them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from bench.errors import BenchError
from bench.own_code import UserError, told

T = TypeVar("T")
R = TypeVar("R")


_alone = False
"""Whether this process works by itself at present, while the others wait: they answer no collective call."""


def devices() -> int:
    """Return how many devices work together at present: 1 in a run without others, and within :func:`by_itself`."""
    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this is the one process that writes files and prints."""
    return devices() == 1 or dist.get_rank() == 0


def any_device(flag: bool) -> bool:
    """Return whether ``flag`` is true on any device; all devices call this together and get the same answer."""
    return over_all(flag) > 0


def over_all(value: float) -> float:
    """Return the sum of ``value`` over the devices; all devices call this together and get the same answer."""
    if devices() == 1:
        return value
    total = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def refuse_uneven(section: str, batch_size: int) -> None:
    """Raise BenchError if the batches of ``section`` of a recipe do not divide by the devices of this run."""
    if batch_size % devices():
        nearest = max(1, round(batch_size / devices())) * devices()
        raise BenchError(
            f"{section}.batch_size is {batch_size}, which does not divide by {devices()} devices. Choose another "
            f"number of devices, or another batch: --set {section}.batch_size={nearest}"
        )


def on_first(work: Callable[[], T]) -> T:
    """Do ``work`` on the first device alone, as in a run on one; all devices get its result, or raise its error.

    Results and errors are pickled between processes of the same program.
    """
    if devices() == 1:
        return work()
    outcome: list[Any] = [_attempt(partial(by_itself, work)) if is_first() else None]
    dist.broadcast_object_list(outcome, src=0)
    result: T = _result(outcome[0])
    return result


def by_itself(work: Callable[[], T]) -> T:
    """Return what ``work`` returns, done on this device as in a run on one: it waits for no other."""
    global _alone
    before, _alone = _alone, True
    try:
        return work()
    finally:
        _alone = before


def first_then_others(work: Callable[[], T]) -> T:
    """Do ``work`` on all devices, on the first before the others: what it downloads is then there.

    An error on any device, such as one that only work for several devices has, is raised on all of them.
    """
    done: list[tuple[T | None, UserError | None]] = []
    on_first(lambda: done.append((work(), None)))
    mine = done[0] if done else _attempt(work)
    errors: list[UserError | None] = [None] * devices()
    if devices() > 1:
        dist.all_gather_object(errors, mine[1])
    result: T = _result((mine[0], next(filter(None, errors), None)))
    return result


@contextmanager
def held_by_first(enter: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Hold the context that ``enter`` returns, such as a lock, on the first device, while all are in this block."""
    with ExitStack() as stack:
        on_first(lambda: _enter(stack, enter))
        yield


def _enter(stack: ExitStack, enter: Callable[[], AbstractContextManager[Any]]) -> None:
    stack.enter_context(enter())


def in_turn(items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    """Return an iterator of ``work(item)`` for each of ``items`` in order; at any time each device works on another.

    All devices get all results. An error on one device, such as a request to stop, is raised on all of them.
    """
    return map(work, items) if devices() == 1 else _gathered(items, work)


def _gathered(items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    for first in range(0, len(items), devices()):
        mine = items[first : first + devices()][dist.get_rank() :][:1]
        outcomes: list[Any] = [None] * devices()
        dist.all_gather_object(outcomes, _attempt(partial(_each, mine, work)))
        for found in [_result(outcome) for outcome in outcomes]:
            yield from found


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` in place with those of the first device."""
    if devices() > 1:
        with torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


def refuse_difference(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise BenchError if ``tensors``, the state of ``what``, are not the same to the bit on all devices."""
    if devices() == 1:
        return
    mine = {name: _digest(tensor) for name, tensor in tensors.items()}
    found: list[Any] = [None] * devices()
    dist.all_gather_object(found, mine)
    for number, theirs in enumerate(found):
        if other := [name for name, value in found[0].items() if theirs.get(name) != value]:
            raise BenchError(
                f"{what} is not the same on all devices: {other[0]} and {len(other) - 1} other tensors of device "
                f"{number} differ from those of device 0. Nothing of this epoch was saved. A stage must compute the "
                "same on every device; train it on one (leave out --devices)."
            )


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().view(-1)
    return hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).hexdigest() if plain.numel() else ""


def _each(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    return [work(item) for item in items]


def _attempt(work: Callable[[], T]) -> tuple[T | None, UserError | None]:
    try:
        return work(), None
    except (Exception, SystemExit) as error:
        return None, told(error)  # here, where its traceback is: it is pickled without


def _result(outcome: Any) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value
