"""What a layer with derivatives in closed form has to agree with: finite differences, and the framework's own layer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck


def assert_finite_differences_agree(layer: nn.Module, x: Tensor) -> None:
    """Check both derivatives of ``layer``, float64, with respect to ``x`` and to its parameters."""
    parameters = dict(layer.named_parameters())

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))
        return out

    inputs = (x.requires_grad_(), *parameters.values())
    assert gradcheck(forward, inputs)
    assert gradgradcheck(forward, inputs)


def assert_layers_agree(layers: Iterable[nn.Module], x: Tensor) -> None:
    """Check that all ``layers`` have the same outputs, and the same gradients of a function of a gradient."""
    x.requires_grad_()
    found = []
    for layer in layers:
        out = layer(x)
        (gradient,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        wanted = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
        found.append([out, *torch.autograd.grad(gradient.square().sum(), wanted)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
