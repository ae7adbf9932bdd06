"""Strided convolutions, called so that no CPU kernel gets an input that it computes wrongly."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

Stride = tuple[int, int]


class StridedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with its result, and with gradients that oneDNN can be trusted with: see :func:`stride_left`."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W'], as ``nn.Conv2d``."""
        x, stride = stride_left(self, x)
        return F.conv2d(x, self.weight, self.bias, stride, self.padding)


def stride_left(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Stride]:
    """Return what of ``x``, [B, C, H, W], ``conv`` has to look at, and the stride that it still takes there.

    Two of oneDNN's kernels for the gradient of the weights fail where the stride could as well be left out
    (torch 2.15):

    - of a 1x1 convolution, which reads every ``stride``-th pixel of every ``stride``-th row, with fewer than 16
      input channels, an odd number of images and more than one thread: it writes outside its memory, and narrow
      encoders crash, minutes later and somewhere else. Here the pixels are picked first.
    - of a larger one on pictures of a single pixel, in bfloat16 on CPUs that compute in it: it returns memory that
      nobody wrote. A single pixel has no second one for a stride to reach.
    """
    rows, columns = stride = cast(Stride, conv.stride)
    if conv.kernel_size == (1, 1):
        return x[:, :, ::rows, ::columns], (1, 1)
    return x, (1, 1) if x.shape[2:] == (1, 1) else stride
