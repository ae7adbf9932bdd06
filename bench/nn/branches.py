"""Branches: networks that share their weights but not their batch-norm (Xie et al., CVPR 2020).

A multi-branch encoder is nothing but several plain encoders whose convolutions are the same parameters. Each
has its own batch-norm scale, shift and running statistics, can be used, attacked and handed on by itself, and
exporting one needs no conversion.
"""

from copy import deepcopy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def branches(module: M, count: int) -> list[M]:
    """Return ``count`` networks, the first of them ``module``, that share all weights but batch-norm's.

    Args:
        module: an encoder or a head; its batch-norm layers are copied, everything else is shared.
        count: number of branches, at least 1.

    Source: ACL (Jiang et al., NeurIPS 2020) with two branches, AdvCL (Fan et al., NeurIPS 2021) with three.
    """
    own = {id(p) for part in module.modules() if isinstance(part, _NORMS) for p in part.parameters(recurse=False)}
    shared = {id(p): p for p in module.parameters() if id(p) not in own}
    # deepcopy takes what its memo holds for already copied, and so leaves the shared parameters alone.
    return [module, *(deepcopy(module, dict(shared)) for _ in range(count - 1))]


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
