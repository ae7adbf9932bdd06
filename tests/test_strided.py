"""Strided convolutions: the framework's own result, and sound gradients where its kernels return none."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.nn.strided import StridedConv2d


def gradients(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the result of ``conv``, and the gradients of its sum of squares towards ``x`` and the parameters."""
    x = x.clone().requires_grad_()
    out: Tensor = conv(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])]


@pytest.mark.parametrize("size", [(7, 8), (1, 1), (1, 4), (4, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_frameworks_convolution(kernel: int, stride: int, size: tuple[int, int], bias: bool) -> None:
    with rng.scoped(0, "test"):
        ours = StridedConv2d(3, 5, kernel, stride, padding=kernel // 2, bias=bias).double()
        theirs = nn.Conv2d(3, 5, kernel, stride, padding=kernel // 2, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(4, 3, *size, dtype=torch.float64, generator=rng.generator(0, "x"))
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_half_precision_gradients_of_single_pixels_are_finite_and_right(seed: int) -> None:
    """The framework's own are whatever was in memory before, on a CPU that computes in bfloat16."""
    with rng.scoped(seed, "test"):
        conv = StridedConv2d(8, 16, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(128, 8, 1, 1, generator=rng.generator(seed, "x")).bfloat16()
    middle = conv.weight.detach()[:, :, 1, 1].bfloat16().float()
    out = F.linear(x.flatten(1).float(), middle).bfloat16().float()
    expected = torch.zeros_like(conv.weight)
    expected[:, :, 1, 1] = 2 * out.T @ x.flatten(1).float()
    torch.full((1 << 14,), torch.nan)  # freed at once: what memory may hold
    found = gradients(conv.bfloat16(), x)[2].float()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_odd_batches_of_a_narrow_encoder_do_not_corrupt_memory() -> None:
    steps = """
import torch
from bench.nn import build_encoder
from bench.recipe import EncoderSettings
torch.set_num_threads(2)
encoder = build_encoder(EncoderSettings(width=8), image_shape=(1, 16, 16), mean=(0.5,), std=(0.2,)).train()
for _ in range(60):
    encoder(torch.rand(29, 1, 16, 16)).square().mean().backward()
"""
    patient = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # on a busy core, waiting threads take most of the time
    done = subprocess.run([sys.executable, "-c", steps], capture_output=True, text=True, check=False, env=patient)
    assert done.returncode == 0, done.stderr[-500:]
