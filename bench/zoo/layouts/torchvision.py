"""ResNets with the names of torchvision and timm, or with ``shortcut`` for ``downsample``, of any origin.

A 7x7 stem and 1,000 classes mean ImageNet and its constants. With another stem or classifier the names do not show how
the input was normalised, and of a 3x3 stem not how it was padded.

Source: pytorch/vision, ``torchvision/models/resnet.py``; timm 1.0.9, ``timm/models/resnet.py`` (same keys and shapes).
"""

from bench.zoo.layout import Layout

PLAIN = Layout("plain", {"plain": ("ResNet", 2016)}, signs=(), classes={1000: "imagenet"}, classes_stem="imagenet")
LAYOUTS = (PLAIN,)
