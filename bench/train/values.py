"""The values that Python objects hold, by the names of their attributes: copies, to be compared later."""

import pickle
import random
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Name = TypeVar("Name", bound=object)
_Scalar = int | float | complex | str | np.generic
_CONTAINERS = (dict, list, tuple, deque)


class GeneratorState(bytes):
    """The state of a random generator."""


class _Array(NamedTuple):
    """The numbers of a tensor or an array, in the memory of the CPU: that of the device belongs to training."""

    dtype: str
    shape: tuple[int, ...]
    numbers: bytes


class _Computed:
    """Stands for a tensor that a step computed with a gradient: it follows from others."""


def values_of(objects: Mapping[str, Any], modules: Collection[str], seen: set[int]) -> dict[str, Any]:
    """Return copies of the numbers, words, tensors, arrays and states of generators that ``objects`` hold, by name.

    Lists and dicts are looked into, networks, and what one of ``modules`` defines: classes, functions, and objects of
    these classes.

    Args:
        objects: by name; names of Python's own, such as ``__doc__``, are left out.
        modules: names of modules.
        seen: the ids of objects to leave out; what was looked into is added.
    """
    found: dict[str, Any] = {}
    left = deque(objects.items())
    while left:
        name, value = left.popleft()
        if name.rpartition(".")[2].startswith("__"):
            continue
        if _plain(value):
            found[name] = value
        elif id(value) not in seen:
            seen.add(id(value))
            if (copy := _copied(value)) is not None:
                found[name] = copy
            parts = dict(_parts(value, modules))
            if isinstance(value, _CONTAINERS):
                found[name] = {part: one for part, one in parts.items() if _plain(one)}
                parts = {part: one for part, one in parts.items() if part not in found[name]}
            left.extend((f"{name}.{part}", one) for part, one in parts.items())
    return found


def attributes(owner: object, modules: Collection[str]) -> dict[str, Any]:
    """Return the attributes of ``owner`` and those of its classes in ``modules``, which an assignment hides."""
    found: dict[str, Any] = {}
    for each in reversed(type(owner).__mro__):
        found |= vars(each) if each.__module__ in modules else {}
    return found | getattr(owner, "__dict__", {})


def changed(before: Mapping[Name, Any], now: Mapping[Name, Any]) -> list[Name]:
    """Return the names of the values, from :func:`values_of`, that are others ``now``, or are gone.

    What was added to a list or a dict is not: a step that continues a run could not begin with it.
    """
    return [name for name, value in before.items() if not _same(value, now.get(name))]


def _plain(value: Any) -> bool:
    return isinstance(value, _Scalar) or (isinstance(value, tuple) and all(map(_plain, value)))


def _copied(value: Any) -> Any:
    """Return a copy of a tensor or an array, or the state of a generator; None: ``value`` is none of them."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            return _Computed()
        odd = value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested
        if odd or type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            return None
        plain = value.detach().cpu().resolve_conj().resolve_neg().flatten()
        return _Array(str(value.dtype), tuple(value.shape), plain.view(torch.uint8).numpy().tobytes())
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else _Array(str(value.dtype), value.shape, value.tobytes())
    return _state(value)


def _state(value: Any) -> GeneratorState | None:
    if isinstance(value, torch.Generator):
        return GeneratorState(value.get_state().numpy().tobytes())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return GeneratorState(pickle.dumps(value.getstate()))
    if isinstance(value, np.random.Generator):
        return GeneratorState(pickle.dumps(value.bit_generator.state))
    return GeneratorState(pickle.dumps(value.get_state())) if isinstance(value, np.random.RandomState) else None


def _parts(value: Any, modules: Collection[str]) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for number, (key, one) in enumerate(value.items()):
            yield key if isinstance(key, str | int) else number, one
    elif isinstance(value, _CONTAINERS):
        yield from enumerate(value)
    elif isinstance(value, nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
    elif (value if isinstance(value, type | FunctionType) else type(value)).__module__ in modules:
        yield from attributes(value, modules).items()


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, _Computed) or isinstance(now, _Computed):
        return True
    if isinstance(before, dict) and isinstance(now, dict):
        return not changed(before, now)
    return type(before) is type(now) and bool(before == now or before != before)
