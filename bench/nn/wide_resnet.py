"""Wide ResNets: that of Zagoruyko and Komodakis (BMVC 2016), and that of semi-supervised learning.

The latter is solo-learn's and DeACL's WRN-28-10. Convolutions have biases, LeakyReLU of slope 0.1 replaces ReLU, and
batch-norm has eps 0.001 and momentum 0.001. With that momentum the running statistics need some thousands of steps to
converge; after the few hundred of a tier they are still near their start.

Source: pantheon5100/DeACL at 3fb81e3, ``solo/models/wide_resnet.py``; val-iisc/ProFeAT and yaodongyu/TRADES,
``models/wideresnet.py``, whose networks of 28 and 34 layers are the original ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from bench.nn.strided import StridedConv2d

_WIDENING = 10


class Style(NamedTuple):
    """In what the two differ."""

    bias: bool
    slope: float
    """Of the activation below 0."""
    eps: float
    momentum: float
    all_activated: bool
    """Whether the first block of every group reads the activation of its input, or that of the first group alone."""

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Return a batch-norm."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


ORIGINAL = Style(bias=False, slope=0.0, eps=1e-5, momentum=0.1, all_activated=True)
SEMI_SUPERVISED = Style(bias=True, slope=0.1, eps=0.001, momentum=0.001, all_activated=False)


class WideBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Convolution and projection read the activation of the input. In the first blocks of groups 2 and 3 of the
    semi-supervised style both read the raw input (``activated`` is False). The authors' blocks own a batch-norm
    there too, whose output they do not use; it is left out here.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, *, activated: bool, style: Style) -> None:
        super().__init__()
        self.slope = style.slope
        self.bn1 = style.norm(channels_in) if activated else None
        self.conv1 = StridedConv2d(channels_in, channels, 3, stride, padding=1, bias=style.bias)
        self.bn2 = style.norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=style.bias)
        self.downsample = None
        if channels_in != channels:
            self.downsample = StridedConv2d(channels_in, channels, 1, stride, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H / stride, W / stride]."""
        active = x if self.bn1 is None else F.leaky_relu(self.bn1(x), self.slope)
        out: Tensor = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), self.slope))
        return out + (x if self.downsample is None else self.downsample(active))


class WideResNet(nn.Module):
    """A 3x3 stem, three groups of blocks, batch-norm, activation and global average pooling.

    Args:
        blocks: in each group: (depth - 4) / 6.
        width: channels of the stem. The published 16 gives groups of 160, 320 and 640 channels: ten, twenty and
            forty times the width. (With the encoder section's usual 64 it has 583 million parameters.)
    """

    def __init__(
        self, blocks: int, width: int, in_channels: int, stem_padding: int, stem_init: str, style: Style
    ) -> None:
        super().__init__()
        self.slope = style.slope
        groups = [width * _WIDENING * 2**group for group in range(3)]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=stem_padding, bias=style.bias)
        self.layer1 = _group(blocks, width, groups[0], stride=1, activated=True, style=style)
        self.layer2 = _group(blocks, *groups[:2], stride=2, activated=style.all_activated, style=style)
        self.layer3 = _group(blocks, *groups[1:], stride=2, activated=style.all_activated, style=style)
        self.bn1 = style.norm(groups[2])
        self.feature_dim = groups[2]
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and (module is not self.conv1 or stem_init == "kaiming"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> pooled features [B, feature_dim]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.leaky_relu(self.bn1(x), self.slope).mean(dim=(2, 3))


def wide_resnet28_10(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> WideResNet:
    """WRN-28-10 of DeACL: 36,481,920 parameters and 640 features at its published width of 16."""
    return WideResNet(4, width, image_shape[0], stem_padding, stem_init, SEMI_SUPERVISED)


def wrn28_10(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> WideResNet:
    """WRN-28-10 as first published: 36,472,784 parameters and 640 features at its published width of 16."""
    return WideResNet(4, width, image_shape[0], stem_padding, stem_init, ORIGINAL)


def wrn34_10(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> WideResNet:
    """WRN-34-10 as first published: 46,154,064 parameters and 640 features at its published width of 16."""
    return WideResNet(5, width, image_shape[0], stem_padding, stem_init, ORIGINAL)


def _group(
    blocks: int, channels_in: int, channels: int, *, stride: int, activated: bool, style: Style
) -> nn.Sequential:
    rest = [WideBlock(channels, channels, 1, activated=True, style=style) for _ in range(blocks - 1)]
    return nn.Sequential(WideBlock(channels_in, channels, stride, activated=activated, style=style), *rest)
