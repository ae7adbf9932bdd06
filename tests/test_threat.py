"""The threat model: where the images of an attack may lie, to the last bit, and which radii a user may set."""

import math
from fractions import Fraction

import pytest
import torch
from attacked_images import DTYPES, FORMATS, L2, LABELS, LINF, STARTS, Net, edge_images, noise
from torch import Tensor

from bench import rng
from bench.attack import PGD, ball_around, distance, margin_objective
from bench.errors import BenchError
from bench.recipe import Norm, Start, Threat

pytestmark = pytest.mark.usefixtures("one_thread")

RADII: dict[Norm, tuple[float, ...]] = {"linf": (0.0, 1e-9, 8 / 255, 0.3, 1.0), "l2": (0.0, 1e-6, 0.5, 3.0)}
THREATS = [Threat(norm=norm, eps=eps) for norm, radii in RADII.items() for eps in radii]


def assert_inside(x_adv: Tensor, images: Tensor, threat: Threat) -> None:
    assert distance(x_adv, images, threat.norm).max() <= threat.eps  # float64, and no tolerance
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if threat.norm == "linf":
        assert (x_adv - images).abs().max().item() <= threat.eps  # in the images' own precision


# Where the images lie


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_projection_is_inside_to_the_last_bit(
    threat: Threat, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    images = edge_images(dtype).contiguous(memory_format=memory_format)
    ball = ball_around(images, threat)
    direction = noise("direction", dtype).contiguous(memory_format=memory_format)
    for scale in (0.0, threat.eps, threat.eps * (1 + 1e-7), 1e-3, 1.0, 1e6, 1e30):
        for outside in (images + scale * ball.step(direction), images + scale * direction):
            x = ball.project(outside)
            assert_inside(x, images, threat)
            assert x.dtype == dtype
            assert x.is_contiguous(memory_format=memory_format)
            assert torch.equal(ball.project(x), x)


@pytest.mark.parametrize("eps", RADII["linf"])
def test_linf_projection_is_inside_in_exact_arithmetic(eps: float) -> None:
    images = edge_images()
    x = ball_around(images, Threat(eps=eps)).project(images + 10 * noise("direction"))
    for moved, pixel in zip(x.flatten().tolist(), images.flatten().tolist(), strict=True):
        assert abs(Fraction(moved) - Fraction(pixel)) <= Fraction(eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_l2_projection_is_inside_where_only_the_last_bit_decides(dtype: torch.dtype) -> None:
    # Small images, many of them: nothing but the rounding of a length of exactly eps is at stake.
    images = torch.full((20000, 1, 1, 3), 0.5, dtype=dtype)
    far = images + torch.randn(images.shape, generator=rng.generator(0, "far"), dtype=dtype)
    threat = Threat(norm="l2", eps=0.1)
    moved = distance(ball_around(images, threat).project(far), images, threat.norm)
    assert moved.max() <= threat.eps
    outside = distance(far, images, threat.norm) > threat.eps
    assert moved[outside].min() > threat.eps * (1 - 1e-6)


def test_projection_moves_a_point_no_farther_than_it_must() -> None:
    images, far = edge_images(), edge_images() + 10 * noise("direction")
    box = torch.minimum(torch.maximum(far, images - LINF.eps), images + LINF.eps).clamp(0, 1)
    torch.testing.assert_close(ball_around(images, LINF).project(far), box, rtol=0, atol=1e-7)

    delta = far - images
    pulled = images + L2.eps * delta / delta.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(ball_around(images, L2).project(far), pulled.clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_every_iterate_is_inside_to_the_last_bit(
    threat: Threat, start: Start, memory_format: torch.memory_format
) -> None:
    images = edge_images().contiguous(memory_format=memory_format)
    objective = margin_objective(Net().eval(), LABELS)
    attack = PGD(3, 0.7, start)
    run = list(attack.iterates(objective, images, threat=threat, generator=rng.generator(0, "attack")))
    assert len(run) == 4  # the projected start is the first
    for x in run:
        assert_inside(x, images, threat)
        assert x.is_contiguous(memory_format=memory_format)
        assert threat.eps > 0 or torch.equal(x, images)


def test_distance_is_the_largest_and_the_euclidean_change() -> None:
    images = torch.zeros(2, 1, 1, 2)
    moved = torch.tensor([[[[0.75, -1.0]]], [[[0.0, 0.5]]]])
    assert distance(moved, images, Threat(eps=1).norm).tolist() == [1.0, 0.5]
    assert distance(moved, images, Threat(norm="l2", eps=1).norm).tolist() == [1.25, 0.5]


# What a user may set


def test_eps_is_read_as_papers_write_it() -> None:
    assert Threat.parse({"eps": "8/255"}, "threat").eps == 8 / 255
    assert Threat.parse({"eps": 0.031}, "threat").eps == 0.031


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps": 8}, r"eps 8 outside \[0, 1\]; pixels are in \[0, 1\], so write 8/255"),
        ({"eps": -0.1}, r"eps -0.1 outside \[0, 1\]"),
        ({"eps": -1, "norm": "l2"}, "eps -1 is negative"),
        ({"eps": "8/0"}, "not a number; write 8/255 or 0.031"),
        ({"eps": "eight"}, "not a number; write 8/255 or 0.031"),
        ({"eps": math.nan}, "finite number"),
        ({"eps": 0.1, "norm": "l1"}, "'linf' or 'l2'"),
        ({"eps": 0.1, "epsilon": 0.1}, "epsilon: there is no such key"),
        ({}, "eps: is missing"),
    ],
)
def test_an_impossible_threat_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Threat.parse(values, "threat")


def test_an_l2_radius_may_exceed_one() -> None:
    assert Threat(norm="l2", eps=3).eps == 3
