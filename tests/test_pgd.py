"""The attack engine: what it maximises, where it starts, what it leaves untouched."""

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from attacked_images import (
    DTYPES,
    L2,
    LABELS,
    LINF,
    STARTS,
    Net,
    edge_images,
    inner_images,
    linear,
    noise,
    run_pgd,
)
from torch import Tensor, nn

from bench import rng
from bench.attack import PGD, attacking, distance, margin_objective
from bench.errors import BenchError
from bench.recipe import Start, Threat

pytestmark = pytest.mark.usefixtures("one_thread")


# What is maximised


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linf_closed_form_on_a_linear_objective(start: Start, dtype: torch.dtype) -> None:
    images, weight = edge_images(dtype), noise("weight", dtype)
    attack = PGD(8, 0.25, start)  # 8 * eps / 4 crosses the ball from side to side
    x = attack(linear(weight), images, threat=LINF, generator=rng.generator(0, "attack"))
    assert x.dtype == dtype
    best = (images + LINF.eps * weight.sign()).clamp(0, 1)
    # A Gaussian start may lie a little outside [0, 1] and so needs a little more than a start in the ball.
    assert start != "gaussian" or LINF.eps > 8 * 0.001
    torch.testing.assert_close(x, best, rtol=0, atol=1e-7)


@pytest.mark.parametrize("start", STARTS)
def test_l2_closed_form_on_a_linear_objective(start: Start) -> None:
    images, weight = inner_images(), noise("weight")
    attack = PGD(20, 5, start)  # the angle to the weight shrinks about sixfold a step
    x = attack(linear(weight), images, threat=L2, generator=rng.generator(0, "attack"))
    best = images + L2.eps * weight / weight.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(x, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_no_step_lowers_a_linear_objective(start: Start) -> None:
    weight, generator = noise("weight"), rng.generator(0, "attack")
    attack = PGD(6, 0.3, start)
    run = list(attack.iterates(linear(weight), edge_images(), threat=LINF, generator=generator))
    for before, after in pairwise(run):
        assert ((after - before) * weight >= 0).all()  # pixel by pixel, exactly
    run = list(attack.iterates(linear(weight), inner_images(), threat=L2, generator=generator))
    values = torch.stack([linear(weight.double())(x.double()) for x in run])
    assert (values.diff(dim=0) >= -1e-6).all()
    assert (values[-1] > values[0]).all()


def test_each_image_is_attacked_as_if_alone() -> None:
    net, images = Net().eval().double(), edge_images(torch.float64)
    attack = PGD(4, 0.3, "clean")
    together = attack(margin_objective(net, LABELS), images, threat=LINF)
    alone = [
        attack(margin_objective(net, LABELS[i : i + 1]), images[i : i + 1], threat=LINF) for i in range(len(images))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


def test_the_kth_iterate_is_pgd_with_k_steps() -> None:
    objective = margin_objective(Net().eval(), LABELS)
    attack = PGD(3, 0.25, "uniform")
    run = attack.iterates(objective, edge_images(), threat=LINF, generator=rng.generator(0, "attack"))
    for steps, x in enumerate(run):
        generator = rng.generator(0, "attack")
        alone = run_pgd(objective, edge_images(), steps=steps, generator=generator)
        assert torch.equal(x, alone)


def test_inference_mode_does_not_hide_the_gradient() -> None:
    objective = margin_objective(Net().eval(), LABELS)
    expected = PGD(3, 0.25, "clean")(objective, edge_images(), threat=LINF)
    with torch.inference_mode():
        images = edge_images().clone()
        assert images.is_inference()
        assert torch.equal(PGD(3, 0.25, "clean")(objective, images, threat=LINF), expected)
    assert not torch.equal(expected, edge_images())


# Where it starts


def first_seen(start: Start, images: Tensor, threat: Threat, seed: int = 0) -> Tensor:
    """Return the images at which the attack takes its first gradient."""
    seen: list[Tensor] = []

    def objective(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1)

    PGD(1, 0.25, start)(objective, images, threat=threat, generator=rng.generator(seed, "attack"))
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
    moved = distance(first_seen("uniform", images, L2), images, L2.norm) / L2.eps
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
    with pytest.raises(BenchError, match=r"draws noise, but no generator was given.*start='clean'"):
        run_pgd(linear(noise("weight")), edge_images(), start=start)


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_images_that_are_no_floats_are_refused(threat: Threat, start: Start) -> None:
    with pytest.raises(BenchError, match=r"images are torch\.uint8; .* For uint8 images, pass images / 255\.$"):
        first_seen(start, edge_images().byte(), threat)


def test_wrong_arguments_are_refused() -> None:
    wrong: list[tuple[Any, Any]] = [(-1, 0.25), (2.5, 0.25), (True, 0.25), ("3", 0.25)]
    wrong += [(3, -0.25), (3, float("nan")), (3, float("inf")), (3, True), (3, "x")]
    for steps, size in wrong:
        with pytest.raises(BenchError, match=f"PGD of {steps} steps of {size} eps: the first must be a whole number"):
            PGD(steps, size, "clean")
    with pytest.raises(BenchError, match=r"unknown start 'unifrom'. Did you mean 'uniform'"):
        PGD(1, 0.25, "unifrom")  # type: ignore[arg-type]
    assert PGD(np.int64(3), np.float32(0.25), "clean").steps == 3  # type: ignore[arg-type]


# What it leaves untouched


def attack(net: nn.Module, images: Tensor) -> Tensor:
    generator = rng.generator(0, "attack")
    return run_pgd(margin_objective(net, LABELS), images, generator=generator)


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
        for _ in PGD(2, 0.25, "clean").iterates(margin_objective(net, LABELS), images, threat=LINF):
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
