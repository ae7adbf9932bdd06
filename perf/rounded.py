"""The arithmetic of bf16 hardware on a processor that has none, at the speed of float32.

Hardware multiplies bf16 numbers exactly, sums in float32 and rounds the sum to bf16. So does this: convolutions and
matrix products of bf16 tensors are computed by float32 kernels and rounded. Only the order of summation differs, as it
does from one kind of hardware to another. PyTorch's own emulation takes many times as long, and adds up the gradient
of a kernel image by image in bf16, which loses digits that hardware keeps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.convolution, _ATEN.convolution_backward, _ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm}


class RoundedProducts(TorchDispatchMode):
    """While active, products of bf16 tensors are summed in float32 and rounded, forward and backward."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the result of ``func``."""
        kwargs = kwargs or {}
        low = (arg.dtype == torch.bfloat16 for arg in args if isinstance(arg, Tensor))
        if func.overloadpacket not in _PRODUCTS or not any(low):
            return func(*args, **kwargs)
        exact = tree_map_only(Tensor, Tensor.float, args)
        return tree_map_only(Tensor, Tensor.bfloat16, func(*exact, **kwargs))
