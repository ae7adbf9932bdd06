"""Layer-norm and GELU with second derivatives in closed form, beside the framework's."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from twice_differentiated import assert_finite_differences_agree, assert_layers_agree

from bench import rng
from methods.ap_dpe.gelu import gelu
from methods.ap_dpe.layer_norm import TwiceDifferentiableLayerNorm


def activations(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng.generator(0, "x"), dtype=torch.float64).mul_(2).add_(0.5)


def layer_norms(channels: int) -> tuple[nn.LayerNorm, nn.LayerNorm]:
    """Return the framework's with random weights, one of them 0, and ours with the same."""
    generator = rng.generator(0, "layer-norm")
    plain, quick = (kind(channels, eps=1e-3).double() for kind in (nn.LayerNorm, TwiceDifferentiableLayerNorm))
    for parameter in plain.parameters():
        nn.init.normal_(parameter, generator=generator)
    with torch.no_grad():
        plain.weight[0] = 0
    quick.load_state_dict(plain.state_dict())
    return plain, quick


def test_layer_norms_derivatives_are_those_of_finite_differences() -> None:
    assert_finite_differences_agree(layer_norms(5)[1], activations(2, 3, 5))


@pytest.mark.parametrize("frozen", [True, False])
def test_layer_norm_is_the_frameworks(*, frozen: bool) -> None:
    assert_layers_agree((norm.requires_grad_(not frozen) for norm in layer_norms(8)), activations(4, 3, 8))


def test_gelu_is_the_frameworks_with_both_derivatives() -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64).requires_grad_()
    found = []
    for function in (gelu, lambda t: F.gelu(t, approximate="tanh")):
        out = function(x)
        (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        found.append([out, first, second])
    torch.testing.assert_close(found[0], found[1])
    assert gradcheck(gelu, activations(7).requires_grad_())
    assert gradgradcheck(gelu, activations(7).requires_grad_())
