"""Batch-norm with its second derivative in closed form, beside the framework's."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from twice_differentiated import assert_finite_differences_agree, assert_layers_agree

from bench import rng
from methods.ap_dpe.batch_norm import TwiceDifferentiableBatchNorm2d


def pair(channels: int, dtype: torch.dtype = torch.float64) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """Return a batch-norm with random weights, one of them 0, and its twice differentiable copy."""
    plain = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3, dtype=dtype)
    generator = rng.generator(0, "batch-norm")
    for parameter in plain.parameters():
        nn.init.normal_(parameter, generator=generator)
    with torch.no_grad():
        plain.weight[0] = 0
    return plain, TwiceDifferentiableBatchNorm2d(deepcopy(plain))


def activations(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng.generator(0, "x"), dtype=torch.float64).mul_(3).add_(1)


@pytest.mark.parametrize("frozen", [True, False])
def test_both_derivatives_are_those_of_finite_differences(*, frozen: bool) -> None:
    quick = pair(3)[1].requires_grad_(not frozen)
    inputs = (activations(4, 3, 2, 3).requires_grad_(),)
    assert gradcheck(quick, inputs)
    assert gradgradcheck(quick, inputs)


def test_both_derivatives_with_respect_to_the_weights() -> None:
    assert_finite_differences_agree(pair(2)[1], activations(3, 2, 2, 2))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [4, 8, 16])
def test_a_gradient_of_gradients_is_the_frameworks(channels: int, memory_format: torch.memory_format) -> None:
    assert_layers_agree(pair(channels), activations(5, channels, 6, 6).contiguous(memory_format=memory_format))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_running_statistics_are_the_frameworks(*, training: bool, frozen: bool) -> None:
    plain, quick = (norm.train(training).requires_grad_(not frozen) for norm in pair(4))
    for seed in range(3):
        x = activations(5, 4, 6, 6) + seed
        torch.testing.assert_close(quick(x), plain(x))
    torch.testing.assert_close(quick.state_dict(), plain.state_dict())
    assert int(quick.num_batches_tracked or 0) == (3 if training else 0)


class _Weights(TorchDispatchMode):
    """Notes whether each call of batch-norm's gradient kernel that asks for sums has weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm_backward.default and any(args[9][1:]):
            self.seen.append(args[2] is not None)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("channels", [4, 16])
def test_the_gradient_kernel_that_sums_has_weights(channels: int) -> None:
    """CUDA's kernel takes the form of the sums from the weights: without them it fails, or returns none."""
    x = activations(4, channels, 4, 4).requires_grad_()
    with _Weights() as calls:
        (gradient,) = torch.autograd.grad(pair(channels)[1](x).pow(3).sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert len(calls.seen) >= 2
    assert all(calls.seen)
