"""Networks: encoders, and the heads that are put on top of them."""

from bench.nn.adapted import LeftOut, Outsider, UnfitImagesError
from bench.nn.copying import frozen_copy, load_tensors_into, trainable_copy
from bench.nn.encoder import (
    ENCODERS,
    FIXED_CONSTANTS,
    BackboneFactory,
    Encoder,
    Normalise,
    backbone_factory,
    build_encoder,
    unread_settings,
    with_loaded_encoder,
)
from bench.nn.heads import Classifier, mlp
from bench.nn.multi_norm import branches
from bench.nn.resnet import ResNet, resnet18
from bench.nn.strided import StridedConv2d, stride_left

__all__ = [
    "ENCODERS",
    "FIXED_CONSTANTS",
    "BackboneFactory",
    "Classifier",
    "Encoder",
    "LeftOut",
    "Normalise",
    "Outsider",
    "ResNet",
    "StridedConv2d",
    "UnfitImagesError",
    "backbone_factory",
    "branches",
    "build_encoder",
    "frozen_copy",
    "load_tensors_into",
    "mlp",
    "resnet18",
    "stride_left",
    "trainable_copy",
    "unread_settings",
    "with_loaded_encoder",
]
