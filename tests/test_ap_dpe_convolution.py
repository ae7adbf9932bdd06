"""Convolution with a lean second derivative, beside the framework's, and networks made of such layers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from twice_differentiated import assert_finite_differences_agree, assert_layers_agree

from bench import rng
from bench.nn.resnet import resnet18
from bench.nn.strided import StridedConv2d
from methods.ap_dpe.batch_norm import TwiceDifferentiableBatchNorm2d
from methods.ap_dpe.convolution import TwiceDifferentiableConv2d
from methods.ap_dpe.twice import make_twice_differentiable

GEOMETRIES = [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (3, 1, 2)]
"""Kernel, stride and padding of the residual networks' convolutions."""


def pair(kernel: int, stride: int, padding: int, *, bias: bool = False) -> tuple[nn.Conv2d, nn.Conv2d]:
    with rng.scoped(0, "convolution"):
        plain = nn.Conv2d(2, 3, kernel, stride, padding, bias=bias, dtype=torch.float64)
    return plain, TwiceDifferentiableConv2d(plain)


def activations(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng.generator(0, "x"), dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_both_derivatives_are_those_of_finite_differences(geometry: tuple[int, int, int]) -> None:
    assert_finite_differences_agree(pair(*geometry, bias=True)[1], activations(2, 2, 5, 4))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_gradient_of_gradients_is_the_frameworks(geometry: tuple[int, int, int], *, frozen: bool) -> None:
    convolutions = (conv.requires_grad_(not frozen) for conv in pair(*geometry))
    assert_layers_agree(convolutions, activations(3, 2, 6, 5))


def test_half_precision_is_the_frameworks() -> None:
    x = activations(3, 2, 6, 5).float().requires_grad_()
    found = []
    for conv in pair(3, 1, 1):
        conv.float()
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(x)
        assert out.dtype == torch.bfloat16
        found.append([out, *torch.autograd.grad(out.float().square().sum(), [x, conv.weight])])
    torch.testing.assert_close(found[1], found[0])


class _Kernels(TorchDispatchMode):
    """Adds the kernel sizes of all convolutions to ``seen``."""

    def __init__(self, seen: set[tuple[int, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self._seen.add(tuple(args[1].shape[2:]))
        return func(*args, **(kwargs or {}))


def kernels(network: nn.Module) -> set[tuple[int, int]]:
    """Return the kernel sizes that a second derivative through ``network`` convolves with."""
    x = torch.rand(2, 3, 16, 16, generator=rng.generator(0, "x")).requires_grad_()
    seen: set[tuple[int, int]] = set()
    with _Kernels(seen):
        (gradient,) = torch.autograd.grad(network(x).sin().sum(), x, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), x)
    return seen


def test_no_convolution_is_as_large_as_the_picture() -> None:
    with rng.scoped(0, "network"):
        network = resnet18(4, image_shape=(3, 32, 32), stem_padding=1, stem_init="kaiming").requires_grad_(False)
    assert (16, 16) in kernels(network), "the framework has become leaner: compare again"
    make_twice_differentiable(network)
    assert kernels(network) == {(3, 3), (1, 1)}


def layers(network: nn.Module) -> Iterator[nn.Module]:
    return (m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.Conv2d))


def test_every_plain_layer_of_a_network_is_replaced_once() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), StridedConv2d(4, 4, 1, 2, bias=False))
    )
    before = network.state_dict()
    make_twice_differentiable(network)
    replaced = list(layers(network))
    quick = [TwiceDifferentiableConv2d, TwiceDifferentiableBatchNorm2d, TwiceDifferentiableConv2d]
    assert [type(layer) for layer in replaced] == quick
    torch.testing.assert_close(network.state_dict(), before)
    make_twice_differentiable(network)
    assert list(layers(network)) == replaced
