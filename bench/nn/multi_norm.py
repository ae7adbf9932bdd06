"""Branches: networks that share their weights but not their batch-norm (Xie et al., CVPR 2020).

A multi-branch encoder is several plain encoders whose convolutions are the same parameters. Each has its own
batch-norm scale, shift and running statistics, can be used, attacked and passed on separately, and is exported
without conversion.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

M = TypeVar("M", bound=nn.Module)


def branches(module: M, count: int) -> list[M]:
    """Return ``count`` networks, of which the first is ``module``; they share all weights except batch-norm's.

    Args:
        module: an encoder or a head; its batch-norm layers are copied, everything else is shared.
        count: number of branches, at least 1.

    Source: ACL (Jiang et al., NeurIPS 2020) with two branches, AdvCL (Fan et al., NeurIPS 2021) with three.
    """
    own = {id(p) for norm in _norms(module) for p in norm.parameters()}
    shared = {id(p): p for p in module.parameters() if id(p) not in own}
    # deepcopy treats objects in its memo as already copied, so it does not copy the shared parameters.
    return [module, *(deepcopy(module, dict(shared)) for _ in range(count - 1))]


@runtime_checkable
class OwnNorms(Protocol):
    """A backbone whose normalisation is not, or not only, batch-norm."""

    def norms(self) -> Iterable[nn.Module]:
        """Return the layers of which every branch has its own copy."""

    def modules(self) -> Iterator[nn.Module]:
        """Return all its modules."""


def _norms(module: nn.Module) -> list[nn.Module]:
    """Return the norms that backbones name, and the batch-norm layers of all other modules."""
    saying = [part for part in module.modules() if isinstance(part, OwnNorms)]
    said = {id(part) for backbone in saying for part in backbone.modules()}
    usual = (nn.BatchNorm1d, nn.BatchNorm2d)
    named = [norm for backbone in saying for norm in backbone.norms()]
    return named + [part for part in module.modules() if isinstance(part, usual) and id(part) not in said]
