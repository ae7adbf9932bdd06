"""The objective of supervised attacks: cross-entropy's steps, without cross-entropy's vanishing gradient."""

import pytest
import torch
from attacked_images import L2, LABELS, LINF, STARTS, Net, edge_images
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import PGD, GradientWatch, Objective, ball_around, distance, log_margin, margin_objective
from bench.recipe import Norm, Start, Threat

pytestmark = pytest.mark.usefixtures("one_thread")

SCALES = (1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)
COUNT, PIXELS = 60, 48


def cross_entropy_objective(model: nn.Module, labels: Tensor) -> Objective:
    return lambda x: F.cross_entropy(model(x), labels, reduction="none")


def logits_of(classes: int) -> Tensor:
    return 3 * torch.randn(7, classes, dtype=torch.float64, generator=rng.generator(0, "logits"))


# What it is


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_cross_entropy_is_its_softplus_and_has_its_gradient_times_a_sigmoid(classes: int) -> None:
    logits, labels = logits_of(classes).requires_grad_(), torch.arange(7) % classes
    margin = log_margin(logits, labels)
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(F.softplus(margin), expected)
    (ours,) = torch.autograd.grad(margin.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(ours * margin.sigmoid()[:, None], theirs)


def test_with_two_classes_it_is_the_difference_of_the_logits() -> None:
    logits = logits_of(2)
    assert torch.equal(log_margin(logits, torch.zeros(7, dtype=torch.int64)), logits[:, 1] - logits[:, 0])


# Where it leads


@pytest.mark.parametrize("start", STARTS)
def test_the_steps_are_those_of_cross_entropy(start: Start) -> None:
    net, images = Net().eval().double(), edge_images(torch.float64)
    for threat in (LINF, L2):
        ours, theirs = (
            PGD(20, 0.25, start).iterates(make(net, LABELS), images, threat=threat, generator=rng.generator(0, "pgd"))
            for make in (margin_objective, cross_entropy_objective)
        )
        for one, other in zip(ours, theirs, strict=True):
            if threat.norm == "linf":
                assert torch.equal(one, other)
            else:
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert not torch.equal(one, images)


class Templates(nn.Module):
    """Logits ``scale`` W (x - 1/2), each class with pixels of its own: one direction is the worst for all of them."""

    def __init__(self, classes: int, scale: float) -> None:
        super().__init__()
        owner = torch.arange(PIXELS) % classes
        drawn = torch.randn(PIXELS, generator=rng.generator(0, "templates"))
        self.weight = nn.Parameter(F.one_hot(owner, classes).T * drawn, requires_grad=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * ((x.flatten(1) - 0.5) @ self.weight.T)


def clean(classes: int) -> tuple[Tensor, Tensor]:
    """Images in [0.3, 0.7], and what the templates answer."""
    pixels = 0.3 + 0.4 * torch.rand(COUNT, PIXELS, generator=rng.generator(0, "pixels"))
    images = pixels.view(COUNT, 3, 4, 4)
    return images, Templates(classes, 1)(images).argmax(1)


def halved(classes: int, norm: Norm) -> tuple[Threat, Tensor]:
    """A radius that half of the images survive, and which of them: bool [COUNT].

    An image survives while its logits' leads are larger than eps times the dual norm of the leads' weights.
    """
    images, labels = clean(classes)
    weight, logits = Templates(classes, 1).weight, Templates(classes, 1)(images)
    leads = logits.gather(1, labels[:, None]) - logits
    duals = (weight[labels][:, None] - weight).norm(p=1 if norm == "linf" else 2, dim=2)
    radii = (leads / duals).masked_fill(F.one_hot(labels, classes).bool(), torch.inf).min(1).values
    below, above = radii.sort().values[COUNT // 2 - 1 : COUNT // 2 + 1].tolist()
    eps = (below + above) / 2
    assert above / below > 1.001, "no image may be too near the verge to call"
    assert eps < 0.3, "the ball must not meet 0 or 1"
    return Threat(norm=norm, eps=eps), radii > eps


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("classes", "norm"), [(2, "linf"), (10, "linf"), (2, "l2")])
def test_robust_accuracy_of_a_linear_model_is_exact_at_every_scale(classes: int, norm: Norm, scale: float) -> None:
    if classes > 2 and scale == 1e6:
        pytest.skip("float32 sees the wrong class ahead alone, whose pixels are not the others'")
    images, labels = clean(classes)
    model, (threat, robust), watch = Templates(classes, scale), halved(classes, norm), GradientWatch()
    attack, draws = PGD(20, 0.25, "uniform"), rng.generator(0, "pgd")
    x = attack(margin_objective(model, labels), images, threat=threat, generator=draws, on_gradient=watch)
    assert torch.equal(model(x).argmax(1) == labels, robust)
    assert not (watch.first | watch.last).any()


def test_cross_entropy_leaves_images_on_large_logits() -> None:
    """What the log-margin is for: float32 rounds the gradient of cross-entropy away."""
    images, labels = clean(10)
    model, (threat, robust), watch = Templates(10, 1e4), halved(10, "linf"), GradientWatch()
    attack, draws = PGD(20, 0.25, "uniform"), rng.generator(0, "pgd")
    x = attack(cross_entropy_objective(model, labels), images, threat=threat, generator=draws, on_gradient=watch)
    assert (model(x).argmax(1) == labels).sum() > robust.sum() + 0.2 * COUNT
    assert watch.first.sum() > 0.2 * COUNT


# Gradients that show no direction


def test_images_without_a_direction_are_noted_and_stay_in_the_ball() -> None:
    factors = torch.tensor([1.0, 0.0, torch.nan, torch.inf])[:, None]
    images = edge_images()
    for threat in (LINF, L2):
        watch, steps = GradientWatch(), 0

        def objective(x: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            return (x.flatten(1) * (factors if steps == 1 else 1.0)).sum(1)

        first, moved = PGD(2, 0.25, "clean").iterates(objective, images, threat=threat, on_gradient=watch), []
        moved = list(first)
        assert watch.first.tolist() == [False, True, True, True]
        assert watch.last.tolist() == [False] * 4
        assert all(x.isfinite().all() and distance(x, images, threat.norm).max() <= threat.eps for x in moved)
        assert torch.equal(moved[1][1:3], images[1:3])  # no direction, no step


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_the_length_of_an_l2_step_does_not_hang_on_the_size_of_the_gradient(scale: float) -> None:
    gradient = scale * torch.randn(4, 3, 8, 8, generator=rng.generator(0, "gradient"))
    step = ball_around(edge_images(), L2).step(gradient)
    torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.ones(4))
    assert not ball_around(edge_images(), L2).step(torch.zeros(4, 3, 8, 8)).any()
