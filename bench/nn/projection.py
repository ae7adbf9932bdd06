"""Projections: 1x1 convolutions with a stride, written so that no CPU kernel has to know strides."""

from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Conv2d):
    """A 1x1 convolution that looks at every ``stride``-th pixel of every ``stride``-th row: ``nn.Conv2d``'s result.

    The pixels are picked first and convolved with stride 1. oneDNN's own kernel for the strided gradient of the
    weights writes outside its memory where there are fewer than 16 input channels, an odd number of images and
    more than one thread (torch 2.15): narrow encoders then crash, minutes later and somewhere else.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, *, bias: bool) -> None:
        super().__init__(channels_in, channels_out, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)
