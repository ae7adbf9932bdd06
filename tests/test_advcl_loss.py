"""AdvCL's contrastive loss against its formula, anchor by anchor, and where its value is known."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from bench import rng
from methods.advcl import multi_view_contrastive


def slow_contrastive(views: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the loss of each image from the formula, anchor by anchor."""
    z = [v / v.norm(dim=1, keepdim=True) for v in views]
    count = len(z[0])
    losses = []
    for image in range(count):
        of_image = []
        for anchor in range(len(z)):
            a = z[anchor][image]
            others = [
                torch.dot(a, z[v][i]) / temperature
                for v in range(len(z))
                for i in range(count)
                if (v, i) != (anchor, image)
            ]
            everyone = torch.stack(others).exp().sum().log()
            positives = [torch.dot(a, z[v][image]) / temperature for v in range(len(z)) if v != anchor]
            of_image.append(-torch.stack([p - everyone for p in positives]).mean())
        losses.append(torch.stack(of_image).mean())
    return temperature / 0.07 * torch.stack(losses)


def embeddings(count: int = 3, views: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return list(torch.randn(views, count, 6, generator=rng.generator(0, "z"), dtype=dtype))


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_loss_and_gradient_are_those_of_the_formula(temperature: float) -> None:
    ours = [z.requires_grad_() for z in embeddings()]
    slow = [z.requires_grad_() for z in embeddings()]
    loss, expected = multi_view_contrastive(ours, temperature), slow_contrastive(slow, temperature)
    torch.testing.assert_close(loss.double(), expected, atol=2e-5, rtol=1e-6)
    weights = torch.tensor([0.2, 1.0, 3.0])
    gradients = torch.autograd.grad((loss * weights).sum(), ours)
    for found, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), slow), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_collapsed_embeddings_lose_log_of_the_others() -> None:
    """All 4 N = 20 embeddings equal: every share is 1 / 19, and the factor is 0.5 / 0.07 = 7.142857."""
    loss = multi_view_contrastive([torch.ones(5, 3)] * 4, 0.5)
    torch.testing.assert_close(loss, torch.full((5,), 7.142857 * math.log(19)))


def test_orthogonal_images_reach_the_closed_form() -> None:
    """Views agree and images are orthogonal: log(3 e^2 + 4 (N - 1)) - 2 for tau = 0.5."""
    loss = multi_view_contrastive([torch.eye(6) * scale for scale in (1.0, 2.0, 0.1, 9.0)], 0.5)
    expected = 0.5 / 0.07 * (math.log(3 * math.exp(2) + 4 * 5) - 2)
    torch.testing.assert_close(loss, torch.full((6,), expected))


def test_no_view_is_special_and_images_keep_their_own_loss() -> None:
    views = embeddings(dtype=torch.float32)
    loss = multi_view_contrastive(views, 0.5)
    torch.testing.assert_close(multi_view_contrastive(views[::-1], 0.5), loss)
    torch.testing.assert_close(multi_view_contrastive([v.flip(0) for v in views], 0.5), loss.flip(0))
    assert loss.unique().numel() == 3
