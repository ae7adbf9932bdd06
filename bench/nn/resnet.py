"""The post-activation ResNet of the CIFAR papers, with settings for the points in which their copies differ."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bench.errors import BenchError, unknown
from bench.nn.strided import StridedConv2d

STEMS = ("cifar", "imagenet")


class Block(Protocol):
    """The class of a residual block; its shortcut is the block's attribute ``downsample``."""

    expansion: int
    """Output channels, in units of the block's ``channels``."""
    foldable: int
    """How many of its convolutions, from ``conv1`` on, are directly followed by their own batch-norm."""

    def __call__(self, channels_in: int, channels: int, stride: int) -> nn.Module:
        """Return a block: [B, channels_in, H, W] -> [B, expansion * channels, H / stride, W / stride]."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 2)."""

    expansion = 1
    foldable = 2

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = StridedConv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 carries the stride, as in torchvision."""

    expansion = 4
    foldable = 3

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = StridedConv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, 4 C, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x), inplace=True)


class ResNet(nn.Module):
    """A ResNet: a stem, four stages, global average pooling, no head.

    Parameters carry torchvision's names (``layer2.0.downsample.0.weight``), so its checkpoints map 1:1.

    Args:
        block: the residual block.
        blocks: how many of them in each of the four stages.
        width: channels of the first stage; each later stage doubles them.
        in_channels: channels of the images.
        stem_padding: zero padding of the stem: 1 keeps the image's size, 2 (DeACL, solo-learn) adds two pixels.
        stem_init: ``kaiming`` as all other convolutions, or ``default``, the framework's own.
        stem: ``cifar``, 3x3 of stride 1; or ``imagenet``, 7x7 of stride 2 and padding 3, then a 3x3 max-pool of stride
            2, as in torchvision. The latter has no choice of padding: ``stem_padding`` must be 1.

    Raises:
        BenchError: an unknown ``stem``, or a padding that it does not have.
    """

    def __init__(
        self,
        block: Block,
        blocks: Sequence[int],
        width: int,
        in_channels: int,
        stem_padding: int,
        stem_init: str,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise unknown("encoder.options.stem", str(stem), STEMS)
        if stem == "imagenet" and stem_padding != 1:
            raise BenchError(
                f"encoder.stem_padding={stem_padding} is for the 3x3 stem; the 7x7 stem pads by 3. Leave it out."
            )
        self.conv1 = (
            nn.Conv2d(in_channels, width, 3, padding=stem_padding, bias=False)
            if stem == "cifar"
            else StridedConv2d(in_channels, width, 7, 2, padding=3, bias=False)
        )
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        outs = [width, *(width * 2**stage * block.expansion for stage in range(4))]
        self.layer1 = _stage(block, outs[0], width, blocks[0], stride=1)
        self.layer2 = _stage(block, outs[1], width * 2, blocks[1], stride=2)
        self.layer3 = _stage(block, outs[2], width * 4, blocks[2], stride=2)
        self.layer4 = _stage(block, outs[3], width * 8, blocks[3], stride=2)
        self.feature_dim = outs[4]
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and (module is not self.conv1 or stem_init == "kaiming"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> pooled features [B, feature_dim]."""
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def prepare_for_attack(self) -> None:
        """Fold each batch-norm, in eval mode, into the convolution before it."""
        for parent, conv, norm in list(self.conv_bn_pairs()):
            _fold(getattr(parent, conv), getattr(parent, norm))
            setattr(parent, norm, nn.Identity())

    def conv_bn_pairs(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Yield (parent, convolution's name, batch-norm's name) wherever one directly follows the other."""
        yield self, "conv1", "bn1"
        for block in self.modules():
            for number in range(1, 1 + getattr(block, "foldable", 0)):
                yield block, f"conv{number}", f"bn{number}"
            projection = getattr(block, "downsample", None)
            if isinstance(projection, nn.Sequential):
                yield projection, "0", "1"


def resnet18(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, stem: str = "cifar") -> ResNet:
    """ResNet-18: 11,168,832 parameters and 512 features at width 64."""
    return ResNet(BasicBlock, [2, 2, 2, 2], width, image_shape[0], stem_padding, stem_init, stem)


def resnet34(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, stem: str = "cifar") -> ResNet:
    """ResNet-34: 512 features at width 64."""
    return ResNet(BasicBlock, [3, 4, 6, 3], width, image_shape[0], stem_padding, stem_init, stem)


def resnet50(width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, stem: str = "cifar") -> ResNet:
    """ResNet-50: 2,048 features at width 64."""
    return ResNet(Bottleneck, [3, 4, 6, 3], width, image_shape[0], stem_padding, stem_init, stem)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make ``conv`` compute what ``norm`` in eval mode computes from its output."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _stage(block: Block, channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [block(channels * block.expansion, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(block(channels_in, channels, stride), *rest)


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Return the identity, or a 1x1 convolution and batch-norm where the block changes its input's shape."""
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    conv = StridedConv2d(channels_in, channels_out, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))
