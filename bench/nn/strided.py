"""Strided convolutions, called so that no CPU kernel gets an input for which its result is wrong."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

Stride = tuple[int, int]


class StridedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with the same result, and gradients that oneDNN computes correctly: see :func:`stride_left`."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W'], as ``nn.Conv2d``."""
        x, stride = stride_left(self, x)
        return F.conv2d(x, self.weight, self.bias, stride, self.padding)


def stride_left(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Stride]:
    """Return the part of ``x``, [B, C, H, W], that ``conv`` reads, and the stride that remains there.

    Two of oneDNN's kernels for the gradient of the weights fail where the stride could also be avoided
    (torch 2.15):

    - for a 1x1 convolution, which reads every ``stride``-th pixel of every ``stride``-th row, with fewer than 16
      input channels, an odd number of images and more than one thread: it writes outside its memory, and narrow
      encoders crash minutes later in other code. Here the pixels are selected first, by a pooling over single
      pixels, whose gradient keeps the memory format. That of indexing does not, and the layers before it then read two
      formats at once: PGD took 1.03 to 1.04 times as long (AMD EPYC, widths 16 and 64).
    - for a larger one on images of a single pixel, in bfloat16 on CPUs that compute in it: it returns
      uninitialised memory. On a single pixel the stride has no effect.
    """
    stride = cast(Stride, conv.stride)
    if conv.kernel_size == (1, 1):
        return F.avg_pool2d(x, 1, stride), (1, 1)
    return x, (1, 1) if x.shape[2:] == (1, 1) else stride
