"""Layer-norm and GELU with second derivatives in closed form, beside the framework's."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

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
    quick = layer_norms(5)[1]
    parameters = dict(quick.named_parameters())

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(quick, {"weight": weight, "bias": bias}, (x,))
        return out

    inputs = (activations(2, 3, 5).requires_grad_(), parameters["weight"], parameters["bias"])
    assert gradcheck(forward, inputs)
    assert gradgradcheck(forward, inputs)


@pytest.mark.parametrize("frozen", [True, False])
def test_layer_norm_is_the_frameworks(*, frozen: bool) -> None:
    x = activations(4, 3, 8).requires_grad_()
    found = []
    for norm in layer_norms(8):
        norm.requires_grad_(not frozen)
        out = norm(x)
        (gradient,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        wanted = [x, *(p for p in norm.parameters() if p.requires_grad)]
        found.append([out, *torch.autograd.grad(gradient.square().sum(), wanted)])
    torch.testing.assert_close(found[1], found[0])


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
