"""Losses: closed forms, invariances, finite differences, and the papers' formulas written out in loops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench import rng
from methods.advcl import multi_view_contrastive
from methods.ap_dpe.pretexts import selfie_loss
from methods.barlow_twins import barlow_twins_loss
from methods.deacl_losses import divergence, info_nce
from methods.losses import negative_cosine, nt_xent
from methods.mocov2 import queue_contrast
from methods.rocl import directed_nt_xent, instance_loss
from methods.vicreg import covariance_loss, invariance_loss, variance_loss


def embeddings(count: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = rng.generator(seed, "embeddings")
    first, second = torch.randn(2, count, dim, generator=generator, dtype=torch.float64).unbind()
    return first, second


def slow_cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR, algorithm 1: interleaved embeddings, l(i, j) over ordered pairs, averaged over both orders."""
    z = torch.stack([z1, z2], dim=1).flatten(0, 1)
    similarity = [[torch.dot(a, b) / a.norm() / b.norm() for b in z] for a in z]

    def pair_loss(i: int, j: int) -> Tensor:
        others = torch.stack([similarity[i][k] / temperature for k in range(len(z)) if k != i]).exp().sum()
        return torch.sub(others.log(), similarity[i][j] / temperature)

    losses = [pair_loss(2 * k, 2 * k + 1) + pair_loss(2 * k + 1, 2 * k) for k in range(len(z1))]
    return torch.stack(losses).sum() / len(z)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize(("count", "dim"), [(1, 3), (2, 1), (2, 5), (7, 4), (16, 8)])
def test_nt_xent_against_a_slow_reference(count: int, dim: int, temperature: float) -> None:
    z1, z2 = embeddings(count, dim)
    found = nt_xent(z1, z2, temperature)
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert float(found) == pytest.approx(float(slow_nt_xent(z1, z2, temperature)), abs=1e-11)


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_nt_xent_of_identical_embeddings(count: int) -> None:
    """All 2N - 1 candidates are equally likely: ln(2N - 1), whatever the temperature."""
    z = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64).expand(count, 3)
    for temperature in (0.05, 0.2, 1.0):
        assert float(nt_xent(z, 2 * z, temperature)) == pytest.approx(math.log(2 * count - 1), abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_nt_xent_of_perfectly_separated_pairs(count: int) -> None:
    """Cosine 1 to the partner and 0 to the 2N - 2 others: ln(e^(1/T) + 2N - 2) - 1/T."""
    z = torch.eye(count, dtype=torch.float64)
    expected = math.log(math.exp(1 / 0.2) + 2 * count - 2) - 1 / 0.2
    assert float(nt_xent(z, z, 0.2)) == pytest.approx(expected, abs=1e-12)


def test_nt_xent_is_symmetric_in_the_views() -> None:
    z1, z2 = embeddings(9, 4)
    assert float(nt_xent(z1, z2, 0.2)) == pytest.approx(float(nt_xent(z2, z1, 0.2)), abs=1e-13)


def test_nt_xent_knows_pairs_but_not_their_order() -> None:
    z1, z2 = embeddings(9, 4)
    before, order = float(nt_xent(z1, z2, 0.2)), torch.randperm(9, generator=rng.generator(0, "order"))
    assert float(nt_xent(z1[order], z2[order], 0.2)) == pytest.approx(before, abs=1e-13)
    assert abs(float(nt_xent(z1[order], z2, 0.2)) - before) > 1e-3


def test_nt_xent_sees_directions_only() -> None:
    z1, z2 = embeddings(9, 4)
    before = float(nt_xent(z1, z2, 0.2))
    lengths = torch.rand(9, 1, generator=rng.generator(0, "lengths"), dtype=torch.float64) * 10 + 0.1
    assert float(nt_xent(z1 * lengths, z2 * 3, 0.2)) == pytest.approx(before, abs=1e-12)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=rng.generator(0, "q"), dtype=torch.float64))
    assert float(nt_xent(z1 @ rotation, z2 @ rotation, 0.2)) == pytest.approx(before, abs=1e-12)
    assert abs(float(nt_xent(z1 + 1, z2, 0.2)) - before) > 1e-3


def test_gradients_match_finite_differences() -> None:
    z1, z2 = (z.requires_grad_() for z in embeddings(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (z1, z2))
    assert torch.autograd.gradcheck(negative_cosine, (z1, z2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_at_least_float32_before_it_overflows(dtype: torch.dtype) -> None:
    """exp(1 / 0.05) is beyond float16, and so is the square of 300."""
    z1, z2 = (300 * z.clamp(-1, 1).to(dtype) for z in embeddings(8, 64))
    found, expected = nt_xent(z1, z2, 0.05), nt_xent(z1.double(), z2.double(), 0.05)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    cosines = negative_cosine(z1, z2)
    assert cosines.dtype == torch.float32
    assert torch.allclose(cosines.double(), negative_cosine(z1.double(), z2.double()), atol=1e-6)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ACL, DeACL, SimCLR": lambda a, b: nt_xent(a, b, 0.2),
    "AdvCL": lambda a, b: multi_view_contrastive([a, b, a + b], 0.5),
    "AP-DPE": lambda a, b: selfie_loss(torch.stack([a, b]), "double-softmax", channels=8),
    "Barlow Twins": lambda a, b: barlow_twins_loss(a, b, redundancy=0.005),
    "BYOL, DeACL": negative_cosine,
    "DeACL, InfoNCE": lambda a, b: info_nce(a, b, 0.2),
    "DeACL, KL": lambda a, b: divergence(a, b, 0.2),
    "MoCo": lambda a, b: queue_contrast(a, b, a + b, 0.2, filled=torch.tensor(16)),
    "RoCL": lambda a, b: directed_nt_xent([a, b], 0.5),
    "RoCL, attack": lambda a, b: instance_loss(a, b, 0.5),
    "VICReg": lambda a, b: invariance_loss(a, b) + variance_loss(a) + covariance_loss(b),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_autocast_lowers_no_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """In bf16 there is no number between 0.996 and 1, where the similarities of alike embeddings lie."""
    z1, z2 = (z.float().requires_grad_() for z in embeddings(16, 16))
    exact = loss(z1, z2)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(z1, z2)
    assert torch.equal(low, exact)
    gradients = (torch.autograd.grad(value.sum(), [z1, z2]) for value in (low, exact))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(z1.bfloat16(), z2.bfloat16()).dtype == torch.float32


def test_negative_cosine_has_its_closed_forms() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[5.0, 0.0], [0.0, -1.0], [0.0, 7.0], [4.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    expected = [-1.0, 1.0, 0.0, -24 / 25, -(0.5**0.5)]
    assert negative_cosine(a, b).tolist() == pytest.approx(expected, abs=1e-15)


def test_negative_cosine_is_row_by_row_symmetric_and_blind_to_length() -> None:
    a, b = embeddings(6, 5)
    found = negative_cosine(a, b)
    assert found.shape == (6,)
    expected = [-slow_cosine(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-14)
    assert torch.allclose(negative_cosine(b, a), found, atol=1e-15)
    assert torch.allclose(negative_cosine(a * 7, b / 3), found, atol=1e-14)
    assert torch.allclose(negative_cosine(a, -b), -found, atol=1e-15)


def test_the_gradient_of_the_cosine_is_orthogonal_to_the_embedding() -> None:
    """It turns an embedding and never stretches it: a . d(cos)/da = 0, with length sin / |a|."""
    a, b = embeddings(6, 5)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(negative_cosine(a, b).sum(), a)
    assert (gradient * a).sum(dim=1).tolist() == pytest.approx([0.0] * 6, abs=1e-14)
    sine = (1 - negative_cosine(a, b) ** 2).sqrt() / a.norm(dim=1)
    assert gradient.norm(dim=1).tolist() == pytest.approx(sine.tolist(), abs=1e-13)
