"""Optimisers: LARS against a reference written in plain Python numbers, and what weight decay reaches."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.optim import LARS, build_optimizer, set_lr
from bench.recipe import TrainPlan
from methods.acl import RateInMomentum
from methods.deacl import PseudoATSettings

SHAPES = {"conv": (4, 3, 3, 3), "linear": (5, 7), "small": (2, 2), "norm": (4,), "bias": (5,), "one": (1, 1)}


def draw(seed: int, scale: float = 1.0) -> dict[str, list[float]]:
    """Numbers for every shape, as flat lists; tensors differ in size by powers of ten, so that clipping varies."""
    generator = rng.generator(seed, "optim")
    return {
        name: (scale * 10.0 ** (index - 3) * torch.randn(shape, generator=generator, dtype=torch.float64))
        .flatten()
        .tolist()
        for index, (name, shape) in enumerate(SHAPES.items())
    }


def slow_lars(
    weights: dict[str, list[float]],
    gradients: list[dict[str, list[float]]],
    rates: list[float],
    *,
    momentum: float,
    decay: float,
    eta: float,
    clip: bool,
    exclude: bool,
    lr_in_momentum: bool,
) -> dict[str, list[float]]:
    """The formula of the papers' code, tensor by tensor and number by number."""
    weights = {name: list(values) for name, values in weights.items()}
    buffers: dict[str, list[float]] = {}
    for grads, lr in zip(gradients, rates, strict=True):
        for name, p in weights.items():
            g = list(grads[name])
            if not (exclude and len(SHAPES[name]) == 1):
                p_norm, g_norm = (math.sqrt(sum(x * x for x in values)) for values in (p, g))
                if p_norm > 0 and g_norm > 0:
                    r = eta * p_norm / (g_norm + decay * p_norm + 1e-8)
                    if clip:
                        r = min(r / lr, 1.0)
                    g = [r * (gi + decay * pi) for gi, pi in zip(g, p, strict=True)]
            g = [lr * gi for gi in g] if lr_in_momentum else g
            old = buffers.get(name, [0.0] * len(g))
            buffers[name] = [momentum * b + gi for b, gi in zip(old, g, strict=True)]
            step = 1.0 if lr_in_momentum else lr
            weights[name] = [pi - step * b for pi, b in zip(p, buffers[name], strict=True)]
    return weights


def parameters(values: dict[str, list[float]]) -> dict[str, Tensor]:
    return {
        name: nn.Parameter(torch.tensor(values[name], dtype=torch.float64).reshape(shape))
        for name, shape in SHAPES.items()
    }


GRID = list(itertools.product([0.0, 0.9], [True, False], [True, False], [True, False]))


@pytest.mark.parametrize("zeroed", [(), ("conv", "norm")], ids=["plain", "zeros"])
@pytest.mark.parametrize(("momentum", "clip", "exclude", "lr_in_momentum"), GRID)
def test_lars_against_a_slow_reference(
    momentum: float, clip: bool, exclude: bool, lr_in_momentum: bool, zeroed: tuple[str, ...]
) -> None:
    start, gradients, rates = draw(0), [draw(step, 0.3) for step in range(1, 7)], [0.3, 0.4, 0.1, 0.01, 2.0, 0.2]
    for name in zeroed:
        start[name] = [0.0] * len(start[name])
        gradients[2]["linear"] = [0.0] * len(start["linear"])
    kind = RateInMomentum if lr_in_momentum else LARS
    weights = parameters(start)
    settings = {"lars_eta": 0.02, "lars_clip": clip, "lars_exclude_vectors": exclude, "momentum": momentum}
    optimizer = kind(weights.values(), TrainPlan(epochs=1, batch_size=2, lr=1.0, weight_decay=0.1, **settings))
    for grads, lr in zip(gradients, rates, strict=True):
        for name, p in weights.items():
            p.grad = torch.tensor(grads[name], dtype=torch.float64).reshape(p.shape)
        set_lr(optimizer, lr)
        optimizer.step()
        assert all(group["lr"] == lr for group in optimizer.param_groups)
    expected = slow_lars(
        start,
        gradients,
        rates,
        decay=0.1,
        exclude=exclude,
        lr_in_momentum=lr_in_momentum,
        momentum=momentum,
        eta=0.02,
        clip=clip,
    )
    for name, p in weights.items():
        assert p.detach().flatten().tolist() == pytest.approx(expected[name], rel=1e-10, abs=1e-13), name
        assert p.detach().flatten().tolist() != start[name]


def test_the_reference_tells_the_variants_apart() -> None:
    """Otherwise the comparison above could pass whatever LARS did with its flags."""
    start, gradients, rates = draw(0), [draw(step, 0.3) for step in range(1, 4)], [0.3, 0.4, 0.1]
    ends = [
        slow_lars(start, gradients, rates, momentum=m, decay=0.1, eta=0.02, clip=c, exclude=e, lr_in_momentum=i)
        for m, c, e, i in GRID
        if m > 0
    ]
    assert len({tuple(itertools.chain.from_iterable(end.values())) for end in ends}) == len(ends)


def test_clipping_makes_the_rate_an_upper_bound() -> None:
    """Effective rate min(r, lr) of the sum of gradient and decay: here r = 0.02 * 5 / 1 = 0.1, less 1e-8."""
    for lr, effective in [(0.05, 0.05), (0.4, 0.1)]:
        p = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
        plan = TrainPlan(epochs=1, batch_size=2, optimizer="lars", lr=lr, momentum=0.0)
        optimizer = build_optimizer(plan, nn.ParameterList([p]))
        p.grad = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
        optimizer.step()
        moved = torch.tensor([[3.0, 4.0]], dtype=torch.float64) - p.detach()
        assert moved.flatten().tolist() == pytest.approx([0.6 * effective, 0.8 * effective], rel=1e-7)


def small_network() -> nn.Sequential:
    with rng.scoped(0, "network"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    nn.init.constant_(network.get_parameter("1.bias"), 0.5)
    return network


def shrinkage(plan: TrainPlan) -> dict[str, float]:
    """By what factor one step with zero gradients multiplies each parameter."""
    network = small_network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = build_optimizer(plan, network)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    after = dict(network.named_parameters())
    return {name: float((after[name].detach() / before[name]).mean()) for name in before}


def test_deacls_weight_decay_reaches_every_parameter_batch_norm_included() -> None:
    """DeACL Table 3 and repository, stage 2: p <- p (1 - 0.5 * 5e-4) where the gradient is zero."""
    found = shrinkage(PseudoATSettings())
    assert found.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"}
    assert found == pytest.approx(dict.fromkeys(found, 1 - 0.5 * 5e-4), abs=1e-6)


def test_lars_leaves_vectors_undecayed_only_where_it_is_told_to() -> None:
    values = {"epochs": 1, "batch_size": 2, "optimizer": "lars", "lr": 0.5, "weight_decay": 0.5, "momentum": 0.0}
    gradients = {}
    for exclude in (True, False):
        network = small_network()
        optimizer = build_optimizer(TrainPlan(**{**values, "lars_exclude_vectors": exclude}), network)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for p in network.parameters():
            p.grad = torch.full_like(p, 1e-3)
        optimizer.step()
        gradients[exclude] = {name: (before[name] - p.detach()) / 0.5 - 1e-3 for name, p in network.named_parameters()}
    vectors = {"0.bias", "1.weight", "1.bias"}
    for name, extra in gradients[True].items():
        assert (float(extra.abs().max()) < 1e-6) == (name in vectors), name
    assert all(float(extra.abs().max()) > 1e-4 for extra in gradients[False].values())


@pytest.mark.parametrize(
    ("lr", "lr_batch", "batch", "effective"),
    [(0.5, 256, 256, 0.5), (0.5, 256, 64, 0.125), (0.4, 256, 1024, 1.6), (0.5, None, 64, 0.5), (0.1, None, 512, 0.1)],
)
def test_the_effective_rate_follows_the_batch_where_the_paper_says_so(
    lr: float, lr_batch: int | None, batch: int, effective: float
) -> None:
    plan = TrainPlan(epochs=1, batch_size=batch, lr=lr, lr_batch=lr_batch)
    assert plan.effective_lr == pytest.approx(effective, abs=1e-15)
    assert plan.lr == lr
    optimizer = build_optimizer(plan, small_network())
    assert [group["lr"] for group in optimizer.param_groups] == [plan.effective_lr]


def test_only_what_requires_a_gradient_is_optimised() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    for name in ("sgd", "lars"):
        optimizer = build_optimizer(TrainPlan(epochs=1, batch_size=2, lr=1, optimizer=name), network)
        (group,) = optimizer.param_groups
        assert {id(p) for p in group["params"]} == {id(p) for part in network[1:] for p in part.parameters()}


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_momentum_and_nesterov_are_handed_on(name: str, nesterov: bool) -> None:
    """With constant gradient 1 on a vector: buffers 1, 1.9; steps b, or 1 + 0.9 b under Nesterov."""
    plan = TrainPlan(epochs=1, batch_size=2, lr=0.1, optimizer=name, nesterov=nesterov, momentum=0.9)
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = build_optimizer(plan, nn.ParameterList([p]))
    for _ in range(2):
        p.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    travelled = (1 + 0.9 * 1) + (1 + 0.9 * 1.9) if nesterov else 1 + 1.9
    assert p.tolist() == pytest.approx([-0.1 * travelled] * 3, abs=1e-12)
