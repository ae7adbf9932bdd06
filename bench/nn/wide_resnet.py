"""The Wide ResNet of semi-supervised learning, as in solo-learn and DeACL: WRN-28-10.

Unlike in Zagoruyko and Komodakis (BMVC 2016), convolutions have biases, LeakyReLU of slope 0.1 replaces ReLU,
and batch-norm has eps 0.001 and momentum 0.001. With that momentum the running statistics need some thousands of steps
to converge; after the few hundred of a tier they are still near their start.

Source: pantheon5100/DeACL at 3fb81e3, ``solo/models/wide_resnet.py``.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from bench.nn.strided import StridedConv2d

_WIDENING = 10
_BLOCKS_PER_GROUP = 4  # (28 - 4) / 6
_SLOPE = 0.1

_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.001)


class WideBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    In the first block, convolution and projection read the activation of the input; in the first blocks of
    groups 2 and 3 both read the raw input (``activated`` is False). The authors' blocks own a batch-norm there
    too, whose output they do not use; it is left out here.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, *, activated: bool) -> None:
        super().__init__()
        self.bn1 = _norm(channels_in) if activated else None
        self.conv1 = StridedConv2d(channels_in, channels, 3, stride, padding=1)
        self.bn2 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.downsample = None
        if channels_in != channels:
            self.downsample = StridedConv2d(channels_in, channels, 1, stride, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H / stride, W / stride]."""
        active = x if self.bn1 is None else F.leaky_relu(self.bn1(x), _SLOPE)
        out: Tensor = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), _SLOPE))
        return out + (x if self.downsample is None else self.downsample(active))


class WideResNet(nn.Module):
    """A 3x3 stem, three groups of four blocks, batch-norm, LeakyReLU and global average pooling.

    Args:
        width: channels of the stem. The published 16 gives groups of 160, 320 and 640 channels: ten, twenty and
            forty times the width. (With the encoder section's usual 64 it has 583 million parameters.)
    """

    def __init__(self, width: int, in_channels: int, stem_padding: int, stem_init: str) -> None:
        super().__init__()
        groups = [width * _WIDENING * 2**group for group in range(3)]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=stem_padding)
        self.layer1 = _group(width, groups[0], stride=1, activated=True)
        self.layer2 = _group(groups[0], groups[1], stride=2, activated=False)
        self.layer3 = _group(groups[1], groups[2], stride=2, activated=False)
        self.bn1 = _norm(groups[2])
        self.feature_dim = groups[2]
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and (module is not self.conv1 or stem_init == "kaiming"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> pooled features [B, feature_dim]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.leaky_relu(self.bn1(x), _SLOPE).mean(dim=(2, 3))


def wide_resnet28_10(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> WideResNet:
    """WRN-28-10: 36,481,920 parameters and 640 features at its published width of 16."""
    return WideResNet(width, image_shape[0], stem_padding, stem_init)


def _group(channels_in: int, channels: int, *, stride: int, activated: bool) -> nn.Sequential:
    rest = [WideBlock(channels, channels, 1, activated=True) for _ in range(_BLOCKS_PER_GROUP - 1)]
    return nn.Sequential(WideBlock(channels_in, channels, stride, activated=activated), *rest)
