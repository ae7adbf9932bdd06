"""An encoder of ``bench.load_encoder`` is a module like others: it can be saved whole, and says what it cannot take."""

import io
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bench
from bench.errors import BenchError
from bench.nn import Encoder


@pytest.fixture
def encoder(finished_toy: Path) -> Encoder:
    return bench.load_encoder(next(finished_toy.glob("runs/toy-*/encoder.safetensors")))


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"torch\.uint8 \[2, 3, 8, 8\]"),
        (torch.rand(3, 8, 8), r"torch\.float32 \[3, 8, 8\]"),
        (np.zeros((2, 3, 8, 8), np.float32), "a ndarray"),
    ],
)
def test_what_are_no_images_in_the_unit_interval_is_refused(encoder: Encoder, images: Any, given: str) -> None:
    with pytest.raises(BenchError, match=rf"in \[0, 1\], as a tensor of floats; given: {given}\. .*images / 255"):
        encoder(images)


def test_images_of_numpys_usual_floats_are_refused(encoder: Encoder) -> None:
    images = torch.from_numpy(np.zeros((2, 3, 8, 8), np.uint8) / 255)
    with pytest.raises(BenchError, match=r"these images are float64\. Give images\.float\(\)\.$"):
        encoder(images)
    assert encoder.double()(images).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_for_autocast_alone(encoder: Encoder, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 8, 8).to(dtype)
    with pytest.raises(BenchError, match=rf"these images are {str(dtype)[6:]}\. Give images\.float\(\)\.$"):
        encoder(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(images.bfloat16()).shape == (2, encoder.feature_dim)


def test_it_is_saved_whole(encoder: Encoder) -> None:
    file, images = io.BytesIO(), torch.rand(2, 3, 8, 8)
    torch.save(encoder, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(images), encoder(images))


def brighter(self: Encoder, images: Tensor) -> Tensor:
    return Encoder.forward(self, (images + 0.1).clamp(0, 1))


def test_a_forward_that_was_replaced_is_not_evaluated_as_if_it_were_not(encoder: Encoder) -> None:
    encoder.forward = MethodType(brighter, encoder)  # type: ignore[method-assign]
    with pytest.raises(BenchError, match=r"^modules, forward hooks or forward\(\) of this encoder are no longer those"):
        bench.evaluate(encoder)
