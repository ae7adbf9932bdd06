"""The pre-activation ResNet of AP-DPE: batch-norm and ReLU come before a convolution, not after it.

Outside the blocks it is the ResNet of ``bench.nn.resnet``: a stem with batch-norm and ReLU, four stages, and the
mean of the last stage's raw sum. Unlike the original (He et al., ECCV 2016) there is no batch-norm and no ReLU
after the last block, so features can be negative, and the projecting shortcut carries a batch-norm.

Names are those of the authors' code, except the shortcut: ``downsample`` here, ``shortcut`` there.
``stem_init = "default"`` leaves every convolution, not only the stem, at the framework's own initialisation,
as that code does: without a batch-norm at the end of the blocks, features scale with the weights.

Source: VITA-Group/Adv-SS-Pretraining at 4ffbebe, ``pretraining/resnetv2.py`` and ``finetune/resnetv2.py``.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bench.nn.resnet import Block, ResNet, shortcut
from bench.nn.strided import StridedConv2d


class PreactBlock(nn.Module):
    """Two 3x3 convolutions, each after batch-norm and ReLU; a projecting shortcut reads the first activation."""

    expansion = 1
    foldable = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels_in)
        self.conv1 = StridedConv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.downsample = shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H / stride, W / stride]."""
        active = F.relu(self.bn0(x), inplace=True)
        out = F.relu(self.bn1(self.conv1(active)), inplace=True)
        last: Tensor = self.conv2(out)
        return last + _around(self.downsample, x, active)


class PreactBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after batch-norm and ReLU; the 3x3 carries the stride."""

    expansion = 4
    foldable = 2

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.bn0 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = StridedConv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.downsample = shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, 4 C, H / stride, W / stride]."""
        active = F.relu(self.bn0(x), inplace=True)
        out = F.relu(self.bn1(self.conv1(active)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        last: Tensor = self.conv3(out)
        return last + _around(self.downsample, x, active)


def preact_resnet18(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> ResNet:
    """Pre-activation ResNet-18: 512 features at width 64."""
    return _build(PreactBlock, [2, 2, 2, 2], width, image_shape, stem_padding, stem_init)


def preact_resnet34(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> ResNet:
    """Pre-activation ResNet-34: 512 features at width 64."""
    return _build(PreactBlock, [3, 4, 6, 3], width, image_shape, stem_padding, stem_init)


def preact_resnet50(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str) -> ResNet:
    """Pre-activation ResNet-50, AP-DPE's own encoder: 2,048 features at width 64."""
    return _build(PreactBottleneck, [3, 4, 6, 3], width, image_shape, stem_padding, stem_init)


def _build(
    block: Block, blocks: Sequence[int], width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str
) -> ResNet:
    network = ResNet(block, blocks, width, image_shape[0], stem_padding, stem_init)
    if stem_init == "default":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return network


def _around(downsample: nn.Module, x: Tensor, active: Tensor) -> Tensor:
    """Return the input of the shortcut: the raw input if nothing is projected, else the activation."""
    around: Tensor = x if isinstance(downsample, nn.Identity) else downsample(active)
    return around
