"""The strided 1x1 convolution: the framework's own result, and no crash where its kernel crashes."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from bench import rng
from bench.nn.projection import Projection


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_strided_convolution(stride: int, bias: bool) -> None:
    with rng.scoped(0, "test"):
        ours = Projection(3, 5, stride, bias=bias).double()
        theirs = nn.Conv2d(3, 5, 1, stride, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(4, 3, 7, 8, dtype=torch.float64, generator=rng.generator(0, "x"))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    results = [conv(part) for conv, part in zip((ours, theirs), inputs, strict=True)]
    assert results[0].shape == results[1].shape
    assert torch.allclose(results[0], results[1], rtol=0, atol=1e-14)
    for result in results:
        result.square().sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-13)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=0, atol=1e-12)


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
    done = subprocess.run([sys.executable, "-c", steps], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
