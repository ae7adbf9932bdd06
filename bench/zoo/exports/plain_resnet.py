"""A ResNet classifier for CIFAR that needs nothing but torch: the head of a module for RobustBench's zoo."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or in a bottleneck 1x1, 3x3 and 1x1."""

    def __init__(self, before: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        after = channels * 4 if bottleneck else channels
        kernels = ((1, 1), (3, stride), (1, 1)) if bottleneck else ((3, stride), (3, 1))
        sizes = (before, channels, channels, after) if bottleneck else (before, channels, channels)
        for place, (kernel, step) in enumerate(kernels):
            conv = nn.Conv2d(sizes[place], sizes[place + 1], kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{place + 1}", conv)
            self.add_module(f"bn{place + 1}", nn.BatchNorm2d(sizes[place + 1]))
        self.depth = len(kernels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H / stride, W / stride]."""
        out = x
        for place in range(1, self.depth + 1):
            out = getattr(self, f"bn{place}")(getattr(self, f"conv{place}")(out))
            if place < self.depth:
                out = F.relu(out)
        return F.relu(out + self.downsample(x))


class ResNetClassifier(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> logits [B, classes]; they are normalised inside."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        bottleneck: bool,
        width: int,
        stem_padding: int,
        imagenet_stem: bool,
        classes: int,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.conv1 = (
            nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
            if imagenet_stem
            else nn.Conv2d(3, width, 3, padding=stem_padding, bias=False)
        )
        self.pool = nn.MaxPool2d(3, 2, padding=1) if imagenet_stem else nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            layer = nn.Sequential()
            for place in range(count):
                layer.append(Block(before, channels, 2 if stage and not place else 1, bottleneck))
                before = channels * 4 if bottleneck else channels
            self.add_module(f"layer{stage + 1}", layer)
        self.stages = len(blocks)
        self.linear = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ``images``."""
        x = (images - self.mean[:, None, None]) / self.std[:, None, None]
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
