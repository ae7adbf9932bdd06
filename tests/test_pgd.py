"""The attack engine: where its images may lie, what it maximises, what it leaves untouched."""

import copy
import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import (
    Objective,
    Threat,
    attacking,
    cross_entropy_objective,
    iterates,
    pgd,
)
from bench.errors import BenchError
from bench.recipe import Norm, Start

RADII: dict[Norm, tuple[float, ...]] = {"linf": (0.0, 1e-9, 8 / 255, 0.3, 1.0), "l2": (0.0, 1e-6, 0.5, 3.0)}
THREATS = [Threat(norm=norm, eps=eps) for norm, radii in RADII.items() for eps in radii]
LINF, L2 = Threat(eps=8 / 255), Threat(norm="l2", eps=0.5)
STARTS: tuple[Start, ...] = ("uniform", "uniform-clamped", "gaussian", "clean")


def run_pgd(
    objective: Objective,
    images: Tensor,
    *,
    steps: int = 3,
    start: Start = "uniform",
    generator: torch.Generator | None = None,
) -> Tensor:
    """PGD with the papers' step of 2/255."""
    return pgd(objective, images, threat=LINF, steps=steps, step_size=2 / 255, start=start, generator=generator)


DTYPES = (torch.float32, torch.float64)
FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPE = (4, 3, 8, 8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On images this small threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=rng.generator(0, name), dtype=dtype)


def edge_images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels all over [0, 1], many on its ends and some a hair off them, where rounding is at its worst."""
    images = (0.5 + 0.5 * noise("images", dtype)).clamp(0, 1)
    images[0, 0] = torch.tensor([0, 1, 1e-30, 1e-8, 1 - 2**-24, 0.5, 2**-126, 1 / 3], dtype=dtype)
    return images


def inner_images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels so far from 0 and 1 that the pixel range never cuts the balls of LINF and L2."""
    return (0.5 + 0.02 * noise("images", dtype)).clamp(0.45, 0.55)


def linear(weight: Tensor) -> Objective:
    return lambda x: (weight * x).flatten(1).sum(1)


class Net(nn.Module):
    """A classifier with everything an attack could disturb: parameters, running statistics, two modes."""

    def __init__(self) -> None:
        super().__init__()
        with rng.scoped(0, "net"):
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(8 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


LABELS = torch.tensor([0, 1, 2, 3])


def assert_inside(x_adv: Tensor, images: Tensor, threat: Threat) -> None:
    assert threat.distance(x_adv, images).max() <= threat.eps  # float64, and no tolerance
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
    ball = threat.around(images)
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
    x = Threat(eps=eps).around(images).project(images + 10 * noise("direction"))
    for moved, pixel in zip(x.flatten().tolist(), images.flatten().tolist(), strict=True):
        assert abs(Fraction(moved) - Fraction(pixel)) <= Fraction(eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_l2_projection_is_inside_where_only_the_last_bit_decides(dtype: torch.dtype) -> None:
    # Small images, many of them: nothing but the rounding of a length of exactly eps is at stake.
    images = torch.full((20000, 1, 1, 3), 0.5, dtype=dtype)
    far = images + torch.randn(images.shape, generator=rng.generator(0, "far"), dtype=dtype)
    threat = Threat(norm="l2", eps=0.1)
    distance = threat.distance(threat.around(images).project(far), images)
    assert distance.max() <= threat.eps
    outside = threat.distance(far, images) > threat.eps
    assert distance[outside].min() > threat.eps * (1 - 1e-6)


def test_projection_moves_a_point_no_farther_than_it_must() -> None:
    images, far = edge_images(), edge_images() + 10 * noise("direction")
    box = torch.minimum(torch.maximum(far, images - LINF.eps), images + LINF.eps).clamp(0, 1)
    torch.testing.assert_close(LINF.around(images).project(far), box, rtol=0, atol=1e-7)

    delta = far - images
    pulled = images + L2.eps * delta / delta.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(L2.around(images).project(far), pulled.clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_every_iterate_is_inside_to_the_last_bit(
    threat: Threat, start: Start, memory_format: torch.memory_format
) -> None:
    images = edge_images().contiguous(memory_format=memory_format)
    objective = cross_entropy_objective(Net().eval(), LABELS)
    run = list(
        iterates(
            objective,
            images,
            threat=threat,
            steps=3,
            step_size=0.7 * threat.eps + 1e-3,
            start=start,
            generator=rng.generator(0, "attack"),
        )
    )
    assert len(run) == 4  # the projected start is the first
    for x in run:
        assert_inside(x, images, threat)
        assert x.is_contiguous(memory_format=memory_format)
        assert threat.eps > 0 or torch.equal(x, images)


def test_distance_is_the_largest_and_the_euclidean_change() -> None:
    images = torch.zeros(2, 1, 1, 2)
    moved = torch.tensor([[[[0.75, -1.0]]], [[[0.0, 0.5]]]])
    assert Threat(eps=1).distance(moved, images).tolist() == [1.0, 0.5]
    assert Threat(norm="l2", eps=1).distance(moved, images).tolist() == [1.25, 0.5]


# What is maximised


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linf_closed_form_on_a_linear_objective(start: Start, dtype: torch.dtype) -> None:
    images, weight = edge_images(dtype), noise("weight", dtype)
    x = pgd(
        linear(weight),
        images,
        threat=LINF,
        steps=8,
        step_size=LINF.eps / 4,  # 8 * eps / 4 crosses the ball from side to side
        start=start,
        generator=rng.generator(0, "attack"),
    )
    assert x.dtype == dtype
    best = (images + LINF.eps * weight.sign()).clamp(0, 1)
    # A Gaussian start may lie a little outside [0, 1] and so needs a little more than a start in the ball.
    assert start != "gaussian" or LINF.eps > 8 * 0.001
    torch.testing.assert_close(x, best, rtol=0, atol=1e-7)


@pytest.mark.parametrize("start", STARTS)
def test_l2_closed_form_on_a_linear_objective(start: Start) -> None:
    images, weight = inner_images(), noise("weight")
    x = pgd(
        linear(weight),
        images,
        threat=L2,
        steps=20,
        step_size=5 * L2.eps,  # the angle to the weight shrinks about sixfold a step
        start=start,
        generator=rng.generator(0, "attack"),
    )
    best = images + L2.eps * weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(x, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_no_step_lowers_a_linear_objective(start: Start) -> None:
    weight, generator = noise("weight"), rng.generator(0, "attack")
    step = {"steps": 6, "start": start, "generator": generator}
    run = list(iterates(linear(weight), edge_images(), threat=LINF, step_size=0.01, **step))  # type: ignore[arg-type]
    for before, after in pairwise(run):
        assert ((after - before) * weight >= 0).all()  # pixel by pixel, exactly
    run = list(iterates(linear(weight), inner_images(), threat=L2, step_size=0.1, **step))  # type: ignore[arg-type]
    values = torch.stack([linear(weight.double())(x.double()) for x in run])
    assert (values.diff(dim=0) >= -1e-6).all()
    assert (values[-1] > values[0]).all()


def test_each_image_is_attacked_as_if_alone() -> None:
    net, images = Net().eval().double(), edge_images(torch.float64)
    kind = {"threat": LINF, "steps": 4, "step_size": 0.01, "start": "clean"}
    together = pgd(cross_entropy_objective(net, LABELS), images, **kind)  # type: ignore[arg-type]
    alone = [
        pgd(cross_entropy_objective(net, LABELS[i : i + 1]), images[i : i + 1], **kind)  # type: ignore[arg-type]
        for i in range(len(images))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


def test_cross_entropy_of_equal_logits_is_log_of_the_classes() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 7, bias=False))
    values = cross_entropy_objective(flat, LABELS)(torch.zeros(SHAPE))
    torch.testing.assert_close(values, torch.full((4,), math.log(7)))


def test_the_kth_iterate_is_pgd_with_k_steps() -> None:
    objective = cross_entropy_objective(Net().eval(), LABELS)
    run = iterates(
        objective,
        edge_images(),
        threat=LINF,
        steps=3,
        step_size=2 / 255,
        start="uniform",
        generator=rng.generator(0, "attack"),
    )
    for steps, x in enumerate(run):
        generator = rng.generator(0, "attack")
        alone = run_pgd(objective, edge_images(), steps=steps, generator=generator)
        assert torch.equal(x, alone)


# Where it starts


def first_seen(start: Start, images: Tensor, threat: Threat, seed: int = 0) -> Tensor:
    """Return the images at which the attack takes its first gradient."""
    seen: list[Tensor] = []

    def objective(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1)

    pgd(
        objective,
        images,
        threat=threat,
        steps=1,
        step_size=0.01,
        start=start,
        generator=rng.generator(seed, "attack"),
    )
    return seen[0]


def test_uniform_start_fills_the_ball_and_leaves_the_pixel_range() -> None:
    images = edge_images()
    delta = first_seen("uniform", images, LINF) - images
    assert delta.abs().max() <= LINF.eps * 1.0001
    # A uniform draw on [-eps, eps] has mean 0 and variance eps^2 / 3; 768 draws know them to a few percent.
    assert abs(delta.mean().item()) < 0.1 * LINF.eps
    assert delta.var().item() == pytest.approx(LINF.eps**2 / 3, rel=0.1)
    assert first_seen("uniform", images, LINF).min() < 0


def test_uniform_l2_start_has_the_radii_of_a_ball() -> None:
    images = torch.full((4000, 1, 1, 2), 0.5)
    moved = L2.distance(first_seen("uniform", images, L2), images) / L2.eps
    assert moved.max() <= 1.0001
    # In two dimensions the share within radius r is r^2; 0.03 is four standard errors of the median's.
    assert (moved <= math.sqrt(0.5)).double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_clamped_start_is_the_uniform_one_cut_to_the_pixel_range() -> None:
    images = edge_images()
    uniform = first_seen("uniform", images, LINF)
    assert torch.equal(first_seen("uniform-clamped", images, LINF), uniform.clamp(0, 1))


def test_gaussian_and_clean_starts() -> None:
    images = edge_images()
    delta = first_seen("gaussian", images, LINF) - images
    assert delta.std().item() == pytest.approx(0.001, rel=0.1)
    assert first_seen("gaussian", images, LINF).min() < 0
    assert torch.equal(first_seen("clean", images, LINF), images)


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_the_generator_decides_the_start_and_the_memory_format_does_not(threat: Threat, start: Start) -> None:
    state = torch.get_rng_state()
    images = edge_images()
    first = first_seen(start, images, threat)
    assert torch.equal(first, first_seen(start, images, threat))
    assert torch.equal(first, first_seen(start, images.contiguous(memory_format=torch.channels_last), threat))
    assert torch.equal(first, first_seen(start, images, threat, seed=1)) == (start == "clean")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("start", ["uniform", "uniform-clamped", "gaussian"])
def test_a_random_start_needs_a_generator(start: Start) -> None:
    with pytest.raises(BenchError, match=r"draws noise and got no generator.*start='clean'"):
        run_pgd(linear(noise("weight")), edge_images(), start=start)


def test_a_misspelt_start_is_refused() -> None:
    with pytest.raises(BenchError, match=r"unknown start 'unifrom'. Did you mean 'uniform'"):
        pgd(linear(noise("weight")), edge_images(), threat=LINF, steps=1, step_size=0.01, start="unifrom")  # type: ignore[arg-type]


# What it leaves untouched


def attack(net: nn.Module, images: Tensor) -> Tensor:
    generator = rng.generator(0, "attack")
    return run_pgd(cross_entropy_objective(net, LABELS), images, generator=generator)


def test_no_gradient_reaches_parameters_or_images() -> None:
    net, images = Net(), edge_images().requires_grad_()
    x = attack(net, images)
    assert not x.requires_grad
    assert images.grad is None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_works_under_no_grad_and_leaves_the_grad_mode_alone() -> None:
    net, images = Net().eval(), edge_images()
    expected = attack(net, images)
    with torch.no_grad():
        assert torch.equal(attack(net, images), expected)
        run = iterates(
            cross_entropy_objective(net, LABELS), images, threat=LINF, steps=2, step_size=0.01, start="clean"
        )
        for _ in run:
            assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert not torch.equal(expected, images)


def half_frozen_net() -> Net:
    """Return a net in training whose batch norm is in eval mode and whose head is frozen."""
    net = Net().train()
    net.body[1].eval()
    net.head.requires_grad_(False)
    return net


@pytest.mark.parametrize("fails", [False, True])
def test_attacking_gives_back_modes_gradients_and_buffers(fails: bool) -> None:
    net, other = half_frozen_net(), Net()
    before = copy.deepcopy((net.state_dict(), other.state_dict()))
    modes = [part.training for part in net.modules()]
    learnt = [parameter.requires_grad for parameter in net.parameters()]
    assert len(set(modes)) == len(set(learnt)) == 2

    def step() -> None:
        with attacking(net, other):
            for module in (net, other):
                assert not any(part.training for part in module.modules())
                assert not any(parameter.requires_grad for parameter in module.parameters())
                attack(module, edge_images())
            if fails:
                raise RuntimeError("the objective failed")

    if fails:
        with pytest.raises(RuntimeError, match="the objective failed"):
            step()
    else:
        step()
    assert [part.training for part in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == learnt
    assert all(part.training for part in other.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in other.parameters())
    for module, saved in zip((net, other), before, strict=True):
        assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_attacking_in_train_mode_leaves_modes_alone_and_freezes_parameters() -> None:
    net = half_frozen_net()
    net.body[1].train()
    modes = [part.training for part in net.modules()]
    mean = net.body[1].running_mean.clone()  # type: ignore[operator]
    with attacking(net, train_mode=True):
        assert [part.training for part in net.modules()] == modes
        assert not any(parameter.requires_grad for parameter in net.parameters())
        attack(net, edge_images())
    assert not torch.equal(net.body[1].running_mean, mean)  # type: ignore[arg-type]


# What a user may set


def test_eps_is_read_as_papers_write_it() -> None:
    assert Threat.parse({"eps": "8/255"}, "threat").eps == 8 / 255
    assert Threat.parse({"eps": 0.031}, "threat").eps == 0.031


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps": 8}, r"eps 8 outside \[0, 1\]; images live in \[0, 1\], so write 8/255"),
        ({"eps": -0.1}, r"eps -0.1 outside \[0, 1\]"),
        ({"eps": -1, "norm": "l2"}, "eps -1 is negative"),
        ({"eps": "8/0"}, "not a number; write 8/255 or 0.031"),
        ({"eps": "eight"}, "not a number; write 8/255 or 0.031"),
        ({"eps": math.nan}, "finite number"),
        ({"eps": 0.1, "norm": "l1"}, "'linf' or 'l2'"),
        ({"eps": 0.1, "epsilon": 0.1}, "epsilon: Extra inputs"),
        ({}, "eps: Field required"),
    ],
)
def test_an_impossible_threat_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Threat.parse(values, "threat")


def test_an_l2_radius_may_exceed_one() -> None:
    assert Threat(norm="l2", eps=3).eps == 3
