"""The losses of MoCo v2+, BYOL, Barlow Twins and VICReg against loops, known values and finite differences."""

import math

import pytest
import torch
from ssl_stages import embeddings, slow_barlow, unit

from methods.barlow_twins import barlow_twins_loss
from methods.byol import prediction_error
from methods.losses import off_diagonal
from methods.mocov2 import queue_contrast
from methods.vicreg import covariance_loss, invariance_loss, variance_loss


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_queue_contrast_against_loops(temperature: float) -> None:
    query, key, queue = unit(5, 3), unit(5, 3, seed=1), unit(7, 3, seed=2)
    total = 0.0
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(q @ k) / temperature)
        negatives = sum(math.exp(float(q @ n) / temperature) for n in queue)
        total -= math.log(positive / (positive + negatives)) / len(query)
    found = queue_contrast(query, key, queue, temperature, filled=torch.tensor(7))
    assert float(found) == pytest.approx(total, abs=1e-12)
    part = queue_contrast(query, key, queue, temperature, filled=torch.tensor(3))
    alone = queue_contrast(query, key, queue[:3], temperature, filled=torch.tensor(3))
    torch.testing.assert_close(part, alone, rtol=0, atol=1e-14)
    assert float(queue_contrast(query, key, queue, temperature, filled=torch.tensor(0))) == 0


@pytest.mark.parametrize("length", [1, 10, 32768])
def test_queue_contrast_of_a_perfect_key_among_orthogonal_negatives(length: int) -> None:
    """ln(1 + L e^(-1/T)): 5.40 for the published L and T."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    queue = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(length, 2)
    found = float(queue_contrast(query, query, queue, 0.2, filled=torch.tensor(length)))
    assert found == pytest.approx(math.log1p(length * math.exp(-5)), abs=1e-12)
    if length == 32768:
        assert found == pytest.approx(5.40, abs=0.005)


def test_prediction_error_is_the_squared_distance_of_unit_vectors() -> None:
    p, z = embeddings(6, 4), embeddings(6, 4, seed=1)
    slow = sum(float(((a / a.norm() - b / b.norm()) ** 2).sum()) for a, b in zip(p, z, strict=True)) / 6
    assert float(prediction_error(p, z)) == pytest.approx(slow, abs=1e-12)
    assert float(prediction_error(p, 3 * p)) == pytest.approx(0, abs=1e-12)
    assert float(prediction_error(p, -p)) == pytest.approx(4, abs=1e-12)


@pytest.mark.parametrize("redundancy", [0.0, 0.005, 1.0])
def test_barlow_twins_loss_against_loops(redundancy: float) -> None:
    z1, z2 = embeddings(6, 4), embeddings(6, 4, seed=1)
    found = float(barlow_twins_loss(z1, z2, redundancy=redundancy))
    assert found == pytest.approx(slow_barlow(z1, z2, redundancy), abs=1e-11)
    moved = barlow_twins_loss(z1 * 100 - 3, z2 * 100 + 7, redundancy=redundancy)  # standardised away
    assert float(moved) == pytest.approx(found, rel=1e-4)


def test_barlow_twins_loss_where_the_correlation_is_known() -> None:
    """Orthogonal columns of +-1: M is the identity (loss 0); one feature twice: two entries off it are 1."""
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(barlow_twins_loss(z, z, redundancy=0.005)) == pytest.approx(0, abs=1e-8)
    twice = z[:, :1].expand(4, 2)
    assert float(barlow_twins_loss(twice, twice, redundancy=0.005)) == pytest.approx(0.01, abs=1e-6)
    assert float(barlow_twins_loss(z, -z, redundancy=0.005)) == pytest.approx(8, abs=1e-3)  # M = -I: 2 (-2)^2


def test_vicreg_terms_against_loops() -> None:
    z1, z2 = 0.5 * embeddings(6, 4), embeddings(6, 4, seed=1)
    entries = [float(a - b) ** 2 for a, b in zip(z1.flatten(), z2.flatten(), strict=True)]
    assert float(invariance_loss(z1, z2)) == pytest.approx(sum(entries) / 24, abs=1e-12)
    means = [sum(float(z1[n, j]) for n in range(6)) / 6 for j in range(4)]
    covariance = [
        [sum(float((z1[n, i] - means[i]) * (z1[n, j] - means[j])) for n in range(6)) / 5 for j in range(4)]
        for i in range(4)
    ]
    hinges = [max(0.0, 1 - math.sqrt(covariance[j][j] + 1e-4)) for j in range(4)]
    assert sum(hinges) > 0
    assert float(variance_loss(z1)) == pytest.approx(sum(hinges) / 4, abs=1e-12)
    squares = sum(covariance[i][j] ** 2 for i in range(4) for j in range(4) if i != j)
    assert float(covariance_loss(z1)) == pytest.approx(squares / 4, abs=1e-12)


def test_vicreg_terms_of_collapsed_and_of_spread_embeddings() -> None:
    collapsed = torch.ones(8, 3, dtype=torch.float64)
    assert float(variance_loss(collapsed)) == pytest.approx(1 - math.sqrt(1e-4), abs=1e-12)
    assert float(covariance_loss(collapsed)) == 0
    spread = 10 * embeddings(8, 3)
    assert float(variance_loss(spread)) == 0
    assert float(invariance_loss(collapsed, collapsed + 2)) == pytest.approx(4, abs=1e-12)


def test_off_diagonal_keeps_all_else_and_passes_no_gradient_through_the_diagonal() -> None:
    matrix = embeddings(4, 4).requires_grad_()
    eye = torch.eye(4, dtype=torch.bool)
    assert torch.equal(off_diagonal(matrix)[~eye], matrix[~eye])
    assert torch.equal(off_diagonal(matrix)[eye], torch.zeros(4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(off_diagonal(matrix).sum(), matrix)
    assert torch.equal(gradient, (~eye).double())


def test_gradients_are_those_of_finite_differences() -> None:
    z1, z2 = embeddings(5, 3).requires_grad_(), embeddings(5, 3, seed=1).requires_grad_()
    queue = unit(4, 3, seed=2)
    for loss in (
        lambda a, b: queue_contrast(a, b, queue, 0.2, filled=torch.tensor(3)),
        prediction_error,
        lambda a, b: barlow_twins_loss(a, b, redundancy=0.005),
        lambda a, b: invariance_loss(a, b) + variance_loss(a) + covariance_loss(b),
    ):
        assert torch.autograd.gradcheck(loss, (z1, z2))
