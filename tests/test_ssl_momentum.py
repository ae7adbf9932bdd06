"""Momentum networks against a loop, what of the online ones they follow, and MoCo's queue of their keys."""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from ssl_stages import WITH_MOMENTUM, counters, embeddings, outputs, stage_of, views_of
from torch import nn

from bench.errors import BenchError
from bench.nn import mlp
from bench.optim import build_optimizer
from methods.mocov2 import MoCoStage, MoCoStageSettings, queue_contrast
from methods.momentum import MomentumNetwork

# Momentum networks


@pytest.mark.parametrize("tau", [(0.99, 0.999), (0.99, 1.0), (0.5, 0.5)])
def test_the_momentum_rule_against_a_loop(tau: tuple[float, float]) -> None:
    """m <- tau m + (1 - tau) p with a fresh p each time; tau from the formula with the cosine."""
    online, updates = mlp([3, 4, 2], batch_norm=True).double(), 8
    momentum = MomentumNetwork(online, tau=tau, updates=updates).double()
    slow = [p.detach().clone() for p in online.parameters()]
    for k in range(updates):
        rate = tau[1] - (tau[1] - tau[0]) * (math.cos(math.pi * k / updates) + 1) / 2
        if k in (0, updates // 2):
            assert rate == pytest.approx({0: tau[0], updates // 2: (tau[0] + tau[1]) / 2}[k], abs=1e-12)
        with torch.no_grad():
            for i, p in enumerate(online.parameters()):
                p.add_(embeddings(*p.shape, seed=100 * k + i))
                slow[i] = rate * slow[i] + (1 - rate) * p
        momentum.follow(online)
        for found, expected in zip(momentum.network.parameters(), slow, strict=True):
            assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_batch_norm_buffers_do_not_follow() -> None:
    online = mlp([3, 4, 2], batch_norm=True)
    momentum = MomentumNetwork(online, tau=(0.0, 0.0), updates=4)
    before = {name: buffer.clone() for name, buffer in momentum.network.named_buffers()}
    online.train()(embeddings(6, 3).float())
    momentum.follow(online)
    after = dict(momentum.network.named_buffers())
    assert len(before) == 3
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(torch.equal(buffer, before[name]) for name, buffer in online.named_buffers())


def test_a_momentum_network_ends_frozen_where_tau_ends_at_one() -> None:
    online = nn.Linear(2, 2)
    momentum = MomentumNetwork(online, tau=(0.9, 1.0), updates=4)
    momentum.updates_done.fill_(4)
    before = deepcopy(momentum.network.state_dict())
    with torch.no_grad():
        online.weight.add_(1)
    momentum.follow(online)
    assert torch.allclose(momentum.network.state_dict()["weight"], before["weight"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_momentum_networks_have_parameters_of_the_online_ones_but_statistics_of_their_own(name: str) -> None:
    stage = stage_of(name, tau=[0.0, 0.0])  # copies every parameter, which shows what it does not copy
    momentum = stage.get_submodule("momentum")
    assert momentum.training
    assert not any(p.requires_grad for p in momentum.parameters())
    optimizer = build_optimizer(stage.plan, stage)
    stage(views_of(stage)).total.backward()
    assert all(p.grad is None for p in momentum.parameters())
    optimizer.step()
    stage.after_step()
    online = nn.Sequential(stage.encoder, stage.get_submodule("projector"))
    network = momentum.get_submodule("network")
    assert all(torch.equal(m, p) for m, p in zip(network.parameters(), online.parameters(), strict=True))
    stage(views_of(stage, 1))
    assert counters(network) == counters(online) == {4}  # each view is a batch of its own, in both
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in momentum.parameters()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    stage(views_of(stage, 2))
    theirs, ours = online.state_dict(), network.state_dict()
    moved = [key for key in theirs if key.endswith("running_mean")]
    assert all(not torch.equal(theirs[key], ours[key]) for key in moved)


# MoCo


def moco(**stage: Any) -> MoCoStage:
    built = stage_of("mocov2", **stage)
    assert isinstance(built, MoCoStage)
    return built


def test_moco_contrasts_each_view_with_the_other_views_queue() -> None:
    stage = moco(queue=8)
    assert stage.queues.shape == (2, 8, 6)
    assert torch.allclose(stage.queues.norm(dim=2), torch.ones(2, 8), atol=1e-6)
    views = views_of(stage)
    q = [nn.functional.normalize(outputs(stage, view), dim=1) for view in views]  # equal networks: k = q at first
    contrast = partial(queue_contrast, temperature=0.2, filled=torch.tensor(8))
    expected = contrast(q[0], q[1], stage.queues[1]) + contrast(q[1], q[0], stage.queues[0])
    loss = stage(views)
    assert float(loss.total.detach()) == pytest.approx(float(expected.detach()) / 2, abs=1e-5)
    assert float(loss.scalars["queue"]) == 8


def test_moco_replaces_the_oldest_keys_after_the_step() -> None:
    stage = moco(queue=8)
    seen = []
    for step in range(3):
        before = stage.queues.clone()
        views = views_of(stage, step)
        keys = [nn.functional.normalize(deepcopy(stage.momentum)(view), dim=1) for view in views]
        stage(views)
        assert torch.equal(stage.queues, before)  # the step's own keys are no negatives of its own
        stage.after_step()
        seen.append(torch.stack(keys))
        place = (4 * step) % 8
        assert torch.allclose(stage.queues[:, place : place + 4], seen[-1], atol=1e-6)
        other = (place + 4) % 8
        assert torch.equal(stage.queues[:, other : other + 4], before[:, other : other + 4])
    assert int(stage.oldest) == 4
    assert torch.allclose(stage.queues, torch.cat([seen[2], seen[1]], dim=1), atol=1e-6)


@pytest.mark.parametrize(
    ("queue", "batch", "images", "length"),
    [(32768, 256, 50_000, 32768), (32768, 64, 1437, 1408), (32768, 64, 5000, 4992), (100, 16, 1437, 96), (8, 8, 8, 8)],
)
def test_the_queue_holds_whole_batches_and_no_image_twice(queue: int, batch: int, images: int, length: int) -> None:
    settings = MoCoStageSettings(queue=queue, batch_size=batch)
    assert settings.queue_length(images) == length


@pytest.mark.parametrize(
    ("queue", "said"), [(1, r"\)\. Enlarge the queue\."), (3, "batch_size=3, or fewer, or enlarge")]
)
def test_a_queue_without_room_for_a_batch_says_what_helps(queue: int, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        MoCoStageSettings(queue=queue, batch_size=8).queue_length(100)


def test_random_keys_count_as_published_and_not_where_the_warm_up_is_too_short() -> None:
    assert not MoCoStageSettings().starts_empty(50_000)
    assert not MoCoStageSettings(epochs=100, warmup_epochs=1).starts_empty(50_000)  # 195 steps; 128 fill the queue
    assert MoCoStageSettings(warmup_epochs=0).starts_empty(50_000)
    published, scaled = moco(queue=8, warmup_epochs=1), moco(queue=8, warmup_epochs=0)
    assert (int(published.filled), int(scaled.filled)) == (8, 0)
    assert float(scaled(views_of(scaled)).total.detach()) == 0
    scaled.after_step()
    assert int(scaled.filled) == 4
    known = scaled(views_of(scaled, 1)).total
    scaled.queues[:, 4:] = 7.0  # where no key is yet, the queue's contents are of no account
    assert float(scaled(views_of(scaled, 1)).total.detach()) == pytest.approx(float(known.detach()), abs=1e-6)
    assert float(known.detach()) > 0
    for _ in range(2):
        scaled.after_step()
    assert int(scaled.filled) == 8


def test_a_queue_without_room_for_a_batch_is_refused_when_the_stage_is_built() -> None:
    with pytest.raises(BenchError, match=r"room for 3 .*queue = 3, 13 training images.*--set stage1.batch_size=3"):
        moco(queue=3)
    with pytest.raises(BenchError, match=r"room for 2 .*2 training images.*--set stage1.batch_size=2"):
        moco(images=2)
