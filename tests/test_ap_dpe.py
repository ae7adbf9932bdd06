"""AP-DPE's stage: the joint attack and loss, what is handed over, its four recipes, its mistakes."""

import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from ap_dpe_toys import (
    COUNT,
    CPU,
    EPS,
    config_of,
    facts_of,
    method_of,
    pixels,
    recipe_of,
    stage_of,
    unit_images,
    views_of,
)
from attacked_images import replace_pgd
from torch import Tensor, nn
from toy_stage import StopAfter

from bench import rng
from bench.attack import PGD, attacking
from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.nn import build_encoder
from bench.recipe import EncoderSettings, Threat, load_tier
from bench.train import train
from bench.zoo import digest
from methods.ap_dpe import stage
from methods.ap_dpe.diversity import log_det
from methods.ap_dpe.grid import rotate
from methods.ap_dpe.pretexts import Jigsaw, Rotation, Selfie
from methods.ap_dpe.settings import PretextSettings

# The stage


@pytest.mark.usefixtures("shallow")
def test_tasks_share_the_trunk_and_nothing_else() -> None:
    method, built = method_of()
    encoders = {name: cast(Any, task).encoder for name, task in built.tasks.items()}
    assert list(encoders) == ["jigsaw", "rotation", "selfie"]
    for part in ("conv1", "bn1", "layer1", "layer2", "layer3"):
        assert len({id(getattr(encoder.backbone, part)) for encoder in encoders.values()}) == 1
    jigsaw, rotation, selfie = (encoders[name].backbone.layer4 for name in encoders)
    assert isinstance(selfie, nn.Identity)
    assert not torch.equal(jigsaw[0].conv1.weight, rotation[0].conv1.weight)
    assert (encoders["selfie"].feature_dim, encoders["rotation"].feature_dim) == (4, 8)
    assert method.result() is encoders["rotation"]
    names = [name for name, _ in built.named_parameters()]
    assert sum("layer1.0.conv1" in name for name in names) == 1  # trained once


@pytest.mark.usefixtures("shallow")
def test_every_forward_pass_moves_the_one_set_of_statistics() -> None:
    built = stage_of(steps=2)
    built(views_of(built))
    state = built.state_dict()

    def passes(name: str) -> int:
        return int(state[f"tasks.{name}.num_batches_tracked"])

    each = 2 + 2  # two steps of the attack; clean and attacked
    assert passes("selfie.encoder.backbone.bn1") == passes("rotation.encoder.backbone.bn1") == 3 * each
    assert passes("jigsaw.encoder.backbone.layer4.0.bn1") == passes("rotation.encoder.backbone.layer4.0.bn1") == each
    assert all(p.requires_grad for p in built.parameters())


class Recorded:
    """Stands in for the attack engine and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Tensor, dict[str, Any]]] = []

    def __call__(self, objective: Any, images: Tensor, **how: Any) -> Tensor:
        self.calls.append((objective, images, how))
        return images.clone()


@pytest.mark.usefixtures("shallow")
def test_the_joint_attack_climbs_every_loss_and_the_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attack on all three pictures; its gradient is g_t + 0.1 dh/dx_t up to the factor of the batch."""
    recorded = Recorded()
    replace_pgd(monkeypatch, recorded)
    built = stage_of(steps=10)
    puzzles, generator = views_of(built)
    built.forward(stage._Views(puzzles, generator))
    ((_, images, how),) = recorded.calls
    assert torch.equal(images, torch.cat([puzzle.images for puzzle in puzzles.values()]))
    assert how.pop("generator") is generator
    assert how == {"threat": Threat(eps=EPS), "attack": PGD(10, 0.25, "uniform")}

    built.double()
    tied = [(built._pretexts[name], puzzles[name].answer) for name in puzzles]
    x = images.double().requires_grad_()
    with attacking(built, train_mode=True):
        assert built.training
        found = torch.autograd.grad(built._objective(tied, rng.generator(3, "d"))(x).sum(), x)[0]
        parts, draws = [part.detach().requires_grad_() for part in x.chunk(3)], rng.generator(3, "d")
        losses = [task(part, answer, draws).loss.mean() for part, (task, answer) in zip(parts, tied, strict=True)]
        gradients = [
            torch.autograd.grad(loss, part, create_graph=True)[0] for loss, part in zip(losses, parts, strict=True)
        ]
        h = log_det(gradients).mean()
        second = torch.autograd.grad(h, parts)
    expected = torch.cat([g.detach() + 0.1 * s for g, s in zip(gradients, second, strict=True)])
    torch.testing.assert_close(found / 4, expected, rtol=1e-6, atol=1e-9)
    assert torch.cat(second).abs().max() > 1e-3 * expected.abs().max()  # the term is there to be seen


@pytest.mark.usefixtures("shallow")
def test_attacked_pictures_stay_in_the_ball_and_raise_the_losses() -> None:
    built = stage_of(steps=3)
    puzzles, generator = views_of(built)
    attacked = built._attack(puzzles, generator)
    for name, (images, answer) in puzzles.items():
        moved = (attacked[name] - images).abs()
        assert 0.9 * EPS < moved.max() <= EPS
        assert attacked[name].min() >= 0
        assert attacked[name].max() <= 1
        task = built.tasks[name]
        clean, robust = (task(x, answer, rng.generator(0, "d")).loss.mean() for x in (images, attacked[name]))
        assert robust > clean, name


@pytest.mark.usefixtures("shallow")
def test_the_loss_is_the_mean_of_six_and_the_signed_diversity() -> None:
    totals = {}
    for sign in (1, -1, 0):
        built = stage_of(outer_sign=sign)
        loss = built(views_of(built))
        mean = sum(loss.scalars[f"{name}_loss"] for name in ("jigsaw", "rotation", "selfie")) / 3
        h = loss.scalars.get("log_det", torch.zeros(()))
        assert loss.total.item() == pytest.approx(float(mean) + sign * 0.1 * float(h), rel=1e-6)
        assert ("log_det" in loss.scalars) == (sign != 0)
        totals[sign] = loss.total.item(), float(h)
    # Same draws, same attack: only the sign differs.
    assert totals[1][1] == totals[-1][1] < 0
    assert totals[1][0] - totals[-1][0] == pytest.approx(2 * 0.1 * totals[1][1], rel=1e-3)
    assert totals[0][0] == pytest.approx((totals[1][0] + totals[-1][0]) / 2, rel=1e-6)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["jigsaw", "rotation"])
def test_a_single_task_is_half_clean_half_attacked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = lambda objective, images, **how: (images + 0.02).clamp(0, 1)  # noqa: E731
    replace_pgd(monkeypatch, shifted)
    built = stage_of(task=name)
    views = views_of(built)
    loss = built(views)
    images, answer = views.puzzles[name]
    task = cast(Rotation | Jigsaw, built.tasks[name])
    terms = []
    for x in (images, (images + 0.02).clamp(0, 1)):
        logits = task.head(task.encoder(x)).double()
        rows = zip(logits.tolist(), answer.tolist(), strict=True)
        terms += [math.log(sum(math.exp(value) for value in row)) - row[c] for row, c in rows]
    assert loss.total.item() == pytest.approx(sum(terms) / 8, rel=1e-5)
    assert (built.name, list(built.tasks), "log_det" in loss.scalars) == (name, [name], False)


@pytest.mark.usefixtures("shallow")
def test_without_the_term_tasks_are_attacked_one_by_one_and_the_stage_says_ap(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded()
    replace_pgd(monkeypatch, recorded)
    built = stage_of(h_weight=0)
    loss = built(views_of(built))
    assert built.name == "ap"
    assert stage_of().name == "dpe"
    assert [len(images) for _, images, _ in recorded.calls] == [4, 4, 4]
    assert "log_det" not in loss.scalars
    objective, images, _ = recorded.calls[1]
    gradient = torch.autograd.grad(objective(x := images.clone().requires_grad_()).sum(), x)[0]
    assert gradient.grad_fn is None  # first order


@pytest.mark.usefixtures("shallow")
def test_attack_and_learner_see_the_views_own_puzzles() -> None:
    built = stage_of()
    views = views_of(built)
    view = built.plan.view(pixels()[:4], rng.generator(0, "views"))
    assert torch.equal(views.puzzles["selfie"].images, view)
    assert torch.equal(views.puzzles["rotation"].images, rotate(view, views.puzzles["rotation"].answer))


# What is handed over


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("export", ["rotation", "jigsaw", "mean", "trunk"])
def test_what_is_exported_computes_what_was_trained(export: str) -> None:
    method, built = method_of(export=export)
    built(views_of(built)).total.backward()
    encoder, images = method.result().eval(), unit_images()
    built.eval()
    ends = {name: cast(Any, task).encoder for name, task in built.tasks.items()}
    with torch.no_grad():
        features = {name: ends[name](images) for name in ("rotation", "jigsaw", "selfie")}
        expected = {"mean": (features["rotation"] + features["jigsaw"]) / 2, "trunk": features["selfie"], **features}
        torch.testing.assert_close(encoder(images), expected[export], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(encoder.prepared()(images), expected[export], rtol=1e-4, atol=1e-5)
        assert encoder.feature_dim == encoder(images).shape[1]
        assert torch.equal(deepcopy(encoder)(images), encoder(images))
    if export in ("rotation", "jigsaw"):
        settings = EncoderSettings(width=1)
        plain = build_encoder(settings, image_shape=(3, 16, 16), mean=(0.0,) * 3, std=(1.0,) * 3).eval()
        plain.load_state_dict(encoder.state_dict())
        assert len(plain.backbone.state_dict()) == 120
        torch.testing.assert_close(plain(images), encoder(images), rtol=0, atol=0)


def test_exports_that_a_task_does_not_have_are_refused() -> None:
    assert [config_of(task=task).exported for task in ("joint", "rotation", "jigsaw", "selfie")] == [
        "rotation",
        "rotation",
        "jigsaw",
        "trunk",
    ]
    with pytest.raises(
        BenchError, match=r"^recipe of tier \w+: task selfie has no rotation end to export; choose export=trunk"
    ):
        config_of(task="selfie", export="rotation")


# Recipes


@pytest.mark.parametrize(
    ("task", "numbers"),
    [
        ("joint", {"epochs": 150, "batch_size": 80, "lr": 0.001, "lr_floor": 1e-8, "weight_decay": 1e-4}),
        ("selfie", {"epochs": 200, "batch_size": 128, "lr": 0.1, "lr_floor": 1e-7, "weight_decay": 1e-4}),
        ("rotation", {"epochs": 100, "batch_size": 256, "lr": 0.1, "lr_floor": 1e-6, "weight_decay": 3e-4}),
        ("jigsaw", {"epochs": 100, "batch_size": 128, "lr": 0.1, "lr_floor": 1e-6, "weight_decay": 3e-4}),
    ],
)
def test_the_published_numbers(task: str, numbers: dict[str, float]) -> None:
    plan = config_of(load_tier("paper"), task=task).stage1
    assert {key: getattr(plan, key) for key in numbers} == numbers
    classified = task in ("rotation", "jigsaw")
    assert (plan.optimizer, plan.momentum, plan.nesterov) == ("sgd", 0.9, not classified)
    assert (plan.warmup_epochs, plan.warmup_start) == ((1, 0.01) if classified else (0, 0.0))
    assert (plan.schedule, plan.schedule_unit, plan.lr_batch) == ("warmup-cosine", "step", None)
    assert (plan.precision, plan.drop_last) == ("fp32", False)
    assert (plan.steps, plan.step_size, plan.start) == (10, 0.25, "uniform")
    assert (plan.h_weight, plan.outer_sign) == (0.1 if task == "joint" else 0.0, 1)
    assert plan.selfie_loss == "double-softmax"
    assert (plan.view.padding, plan.view.flip_prob) == ((2, 0.0) if task == "selfie" else (None, 0.5))


def test_a_tier_scales_the_numbers_of_the_chosen_task() -> None:
    plan = config_of(load_tier("tiny"), task="rotation").stage1
    assert (plan.epochs, plan.batch_size, plan.lr, plan.weight_decay) == (4, 64, 0.1, 3e-4)
    assert config_of(load_tier("tiny"), task="selfie", lr=0.03).stage1.lr == 0.03
    assert config_of().stage1 == PretextSettings()


def test_the_learning_rate_falls_along_a_cosine_to_its_floor() -> None:
    plan, steps = PretextSettings(), 563
    at = partial(plan.rate, steps_per_epoch=steps)
    last = 150 * steps - 1
    assert at(epoch=0, step=0) == 0.001
    assert at(epoch=75, step=0) == pytest.approx((0.001 + 1e-8) / 2)
    lowest = 1e-8 + (0.001 - 1e-8) / 2 * (1 + math.cos(math.pi * last / (last + 1)))
    assert at(epoch=149, step=steps - 1) == pytest.approx(lowest)
    warm = partial(config_of(load_tier("paper"), task="rotation").stage1.rate, steps_per_epoch=200)
    assert [warm(epoch=0, step=0), warm(epoch=0, step=199), warm(epoch=1, step=0)] == pytest.approx([0.01, 0.1, 0.1])


def test_native_fidelity_is_the_papers_network() -> None:
    encoder = recipe_of(load_tier("paper"), fidelity="native").encoder
    assert (encoder.arch, encoder.width, encoder.stem_padding) == ("preact-resnet50", 64, 1)
    assert (encoder.stem_init, encoder.normalisation) == ("default", "imagenet")


@pytest.mark.usefixtures("shallow")
def test_the_papers_network_trains() -> None:
    built = stage_of(encoder__arch="preact-resnet50", encoder__stem_init="default", encoder__normalisation="imagenet")
    assert cast(Selfie, built.tasks["selfie"]).encoder.feature_dim == 16  # 1,024 at width 64
    assert built(views_of(built)).total.isfinite()


# Mistakes


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"facts": facts_of((3, 16, 12))}, r"images of 16x12 pixels .* multiple of 4"),
        ({"facts": facts_of((3, 18, 18))}, r"images of 18x18 pixels"),
        ({"encoder__arch": "wide-resnet28-10"}, r"so it needs a ResNet of the bench, .* Choose --encoder resnet18"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        stage_of(**settings)


# Training


@pytest.mark.usefixtures("shallow")
def test_a_stopped_training_continues_bit_for_bit(tmp_path: Path) -> None:
    """Permutations, attacks, masks and dropout included; the global state is neither read nor moved."""
    whole, broken, continued = (stage_of(epochs=1) for _ in range(3))
    start = digest(whole.state_dict())
    run = partial(train, images=pixels())
    before = torch.get_rng_state()
    progress = run(whole, job=Job(tmp_path / "whole", "o", 0, CPU))
    assert torch.equal(torch.get_rng_state(), before)
    assert progress.cost.images == COUNT  # the last, smaller batch too
    torch.manual_seed(5)
    with pytest.raises(InterruptedRunError):
        run(broken, job=Job(tmp_path / "parts", "o", 0, CPU, StopAfter(1)))
    # What was drawn once, the permutations, comes from the file and not from the constructor.
    cast(Jigsaw, continued.tasks["jigsaw"]).permutations.zero_()
    run(continued, job=Job(tmp_path / "parts", "o", 0, CPU))
    assert digest(continued.state_dict()) == digest(whole.state_dict())
    assert len({digest(broken.state_dict()), digest(whole.state_dict()), start}) == 3
