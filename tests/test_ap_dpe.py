"""AP-DPE: its puzzles, its losses against naive ones, the diversity term, the joint attack, its four recipes."""

import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import attacking
from bench.attack.threat import Threat
from bench.errors import BenchError, InterruptedRunError
from bench.method import MethodContext
from bench.nn import Encoder, build_encoder
from bench.recipe import DatasetFacts, EncoderSettings, Fidelity, Recipe, Tier, build_recipe, load_tier
from bench.reporting import Silent
from bench.stop import Stop
from bench.train import train
from bench.train.schedule import learning_rate
from bench.zoo import digest
from methods.ap_dpe import APDPE, attention, stage
from methods.ap_dpe.attention import AttentionPooling, dropout
from methods.ap_dpe.diversity import diversity, log_det
from methods.ap_dpe.grid import assemble, cells, reorder, rotate
from methods.ap_dpe.pretexts import Jigsaw, Rotation, Selfie, SelfieLoss, selfie_loss
from methods.ap_dpe.settings import APDPEConfig, PretextSettings
from methods.ap_dpe.stage import PretextStage

CPU = torch.device("cpu")
EPS = 8 / 255
TOY = Tier(name="toy", summary="a network one channel wide", encoder={"width": 1})
COUNT = 7


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attention layers instead of thirteen: every term is still there, in a fraction of the time."""
    monkeypatch.setattr(attention, "_LAYERS", 2)


def facts_of(shape: tuple[int, int, int] = (3, 16, 16), images: int = COUNT) -> DatasetFacts:
    return DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": shape, "num_classes": 4, "train_images": images},
        **{"test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )


def recipe_of(
    tier: Tier = TOY, fidelity: Fidelity = "uniform", facts: DatasetFacts | None = None, **settings: Any
) -> Recipe:
    choices = {key: value for key, value in settings.items() if key in APDPEConfig.model_fields}
    others = {key.replace("__", "."): value for key, value in settings.items() if "__" in key}
    rest = {key: value for key, value in settings.items() if key not in choices and "__" not in key}
    return build_recipe(
        method="ap-dpe",
        config_type=APDPEConfig,
        native_encoder=APDPE.native_encoder,
        dataset=facts or facts_of(),
        tier=tier,
        fidelity=fidelity,
        overrides={**choices, **others, **{f"stage1.{key}": value for key, value in rest.items()}},
    )


def config_of(*args: Any, **settings: Any) -> APDPEConfig:
    config = recipe_of(*args, **settings).config
    assert isinstance(config, APDPEConfig)
    return config


def pixels(count: int = COUNT, size: int = 16) -> Tensor:
    drawn = torch.randint(256, (count, 3, size, size), generator=rng.generator(0, "pixels"))
    return drawn.to(torch.uint8)


def unit_images(count: int = 3, size: int = 16) -> Tensor:
    return pixels(count, size).float() / 255


def method_of(**settings: Any) -> tuple[APDPE, PretextStage]:
    recipe = recipe_of(**{"epochs": 2, "batch_size": 4, "steps": 1, **settings})
    assert isinstance(recipe.config, APDPEConfig)
    method = APDPE(recipe.config)
    (built,) = method.stages(MethodContext(recipe, seed=0, device=CPU, images=pixels()))
    assert isinstance(built, PretextStage)
    return method, built.train()


def stage_of(**settings: Any) -> PretextStage:
    return method_of(**settings)[1]


def views_of(built: PretextStage, seed: int = 0) -> Any:
    return built.views(pixels()[:4], rng.generator(seed, "views"), torch.arange(4))


# Pictures


def test_cells_are_row_major_and_fit_together_again() -> None:
    images = unit_images()
    parts = cells(images)
    for j in range(16):
        top, left = 4 * (j // 4), 4 * (j % 4)
        assert torch.equal(parts[:, j], images[:, :, top : top + 4, left : left + 4])
    assert torch.equal(assemble(parts), images)


def test_cell_j_of_a_jigsaw_is_the_input_cell_that_the_order_names() -> None:
    images = unit_images()
    orders = torch.stack([torch.randperm(16, generator=rng.generator(i, "order")) for i in range(3)])
    before, after = cells(images), cells(reorder(images, orders))
    for image in range(3):
        for j in range(16):
            assert torch.equal(after[image, j], before[image, orders[image, j]])


def test_images_turn_counter_clockwise() -> None:
    images = unit_images(4, size=8)
    turned = rotate(images, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(turned[0], images[0])
    # One turn: the right column becomes the top row.
    assert torch.equal(turned[1][:, 0, :], images[1][:, :, -1])
    assert torch.equal(turned[2], images[2].flip(1, 2))
    assert torch.equal(turned[3][:, 0, :], images[3][:, :, 0].flip(1))


# Puzzles


class Blind(nn.Module):
    """Stands in for an encoder where only puzzles are asked for."""

    feature_dim = 8

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), self.feature_dim)


BLIND = cast(Encoder, Blind())


@pytest.mark.parametrize("batch", [1, 4, 10, 32])
def test_rotations_are_balanced_within_a_batch(batch: int) -> None:
    images = unit_images(batch, size=4)
    turns = [Rotation(BLIND).pose(images, rng.generator(seed, "turns")) for seed in range(20)]
    for puzzle in turns:
        counts = puzzle.answer.bincount(minlength=4)
        assert counts.max() <= batch // 4 + 1
        assert torch.equal(puzzle.images, rotate(images, puzzle.answer))
    seen = torch.stack([puzzle.answer for puzzle in turns])
    assert len(seen.unique(dim=0)) > 1  # shuffled, not in turn


def test_jigsaw_draws_the_identity_with_its_extra_tenth() -> None:
    with rng.scoped(0, "table"):
        task = Jigsaw(BLIND)
    assert task.permutations.shape == (31, 16)
    assert torch.equal(task.permutations[0], torch.arange(16))
    assert torch.equal(task.permutations.sort(dim=1).values, torch.arange(16).expand(31, -1))
    assert len(task.permutations.unique(dim=0)) == 31
    count = 31_000
    answers = task.pose(torch.zeros(count, 1, 4, 4), rng.generator(0, "answers")).answer
    expected = torch.full((31,), 0.9 / 31)
    expected[0] += 0.1
    deviation = (answers.bincount(minlength=31) / count - expected) / (expected * (1 - expected) / count).sqrt()
    assert deviation.abs().max() < 4
    images = unit_images(5)
    puzzle = task.pose(images, rng.generator(1, "answers"))
    assert torch.equal(puzzle.images, reorder(images, task.permutations[puzzle.answer]))


def test_selfie_hides_four_cells_the_same_in_every_image_of_a_batch() -> None:
    task = Selfie(BLIND, "double-softmax")
    images = unit_images()
    first, second = (task.pose(images, rng.generator(seed, "mask")) for seed in (0, 1))
    assert first.images is images
    assert torch.equal(first.answer.sort().values, torch.arange(16))
    assert not torch.equal(first.answer, second.answer)


# Selfie's loss


def double_softmax(scores: list[list[float]]) -> float:
    total = 0.0
    for i, row in enumerate(scores):
        inner = [math.exp(s) / sum(math.exp(r) for r in row) for s in row]
        total -= math.log(math.exp(inner[i]) / sum(math.exp(p) for p in inner))
    return total


def scaled(scores: list[list[float]], channels: int) -> float:
    rows = [[s / math.sqrt(channels) for s in row] for row in scores]
    return sum(math.log(sum(math.exp(r) for r in row)) - row[i] for i, row in enumerate(rows)) / len(rows)


def test_selfie_loss_is_its_formula() -> None:
    scores = 3 * torch.randn(5, 4, 4, generator=rng.generator(0, "scores"), dtype=torch.float64)
    both = [selfie_loss(scores, kind, channels=64) for kind in ("double-softmax", "scaled")]
    for image, matrix in enumerate(scores.tolist()):
        assert both[0][image].item() == pytest.approx(double_softmax(matrix), rel=1e-12)
        assert both[1][image].item() == pytest.approx(scaled(matrix, 64), rel=1e-12)


def test_selfie_loss_at_its_ends() -> None:
    right = 1e3 * torch.eye(4, dtype=torch.float64)[None]
    wrong = right.roll(1, dims=2)
    ends = [selfie_loss(s, "double-softmax", channels=1).item() / 4 for s in (right, wrong, 0 * right)]
    assert ends == pytest.approx([math.log(math.e + 3) - 1, math.log(math.e + 3), math.log(4)])
    assert ends == pytest.approx([0.744, 1.744, 1.386], abs=5e-4)
    assert selfie_loss(0 * right, "scaled", channels=1).item() == pytest.approx(math.log(4))


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("kind", ["double-softmax", "scaled"])
def test_selfie_answers_as_a_naive_one(kind: SelfieLoss) -> None:
    task = cast(Selfie, stage_of(selfie_loss=kind, task="selfie").tasks["selfie"]).double().eval()
    images = unit_images().double()
    order = torch.randperm(16, generator=rng.generator(0, "mask"))
    judged = task(images, order, cast(torch.Generator, None))
    right, losses = 0, []
    for image in images:
        parts = [task.encoder(cells(image[None])[:, j])[0].detach() for j in range(16)]
        seen = torch.stack([parts[j] for j in order[4:].tolist()])
        queries = naive_queries(task.pooling, seen, order[:4].tolist())
        scores = [[float(q @ parts[j]) for j in order[:4].tolist()] for q in queries]
        right += sum(row.index(max(row)) == i for i, row in enumerate(scores))
        losses.append(double_softmax(scores) if kind == "double-softmax" else scaled(scores, 4))
    torch.testing.assert_close(judged.loss, torch.tensor(losses, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert judged.accuracy.item() == pytest.approx(right / 12)


@torch.no_grad()
def naive_queries(pooling: AttentionPooling, visible: Tensor, missing: list[int]) -> list[Tensor]:
    """Return Selfie's queries for one image, [12, d], one token and one head at a time."""
    tokens = [pooling.token[0, 0], *visible]
    for layer in cast(list[attention.AttentionLayer], list(pooling.layers)):
        size = layer.head_dim
        q, k, v = zip(*(layer.query_key_value(t).chunk(3) for t in tokens), strict=True)
        mixed = []
        for here in range(len(tokens)):
            heads = []
            for at in range(0, len(q[0]), size):
                part = slice(at, at + size)
                logits = [float(q[here][part] @ k[other][part]) / math.sqrt(size) for other in range(len(tokens))]
                total = sum(math.exp(value) for value in logits)
                weighted = [math.exp(value) / total * v[other][part] for other, value in enumerate(logits)]
                heads.append(torch.stack(weighted).sum(dim=0))
            mixed.append(layer.norm1(tokens[here] + layer.output(torch.cat(heads))))
        tokens = []
        for x in mixed:
            h = layer.expand(x)
            gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
            tokens.append(layer.norm2(x + layer.contract(gelu)))
    return [tokens[0] + pooling.rows[p // 4] + pooling.columns[p % 4] for p in missing]


# The attention net


@pytest.mark.parametrize(
    ("channels", "heads", "head_dim", "parameters"), [(1024, 16, 64, 109_207_552), (256, 4, 64, None), (32, 4, 8, None)]
)
def test_attention_has_the_published_size(channels: int, heads: int, head_dim: int, parameters: int | None) -> None:
    with torch.device("meta"):
        pooling = AttentionPooling(channels)
    assert len(pooling.layers) == 13
    layer = cast(attention.AttentionLayer, pooling.layers[0])
    assert (layer.head_dim, layer.query_key_value.out_features) == (head_dim, 3 * heads * head_dim)
    assert layer.expand.out_features == 2 * channels
    if parameters:
        assert sum(p.numel() for p in pooling.parameters()) == parameters


def test_attention_starts_as_published() -> None:
    with rng.scoped(0, "pooling"):
        pooling = AttentionPooling(256)
    assert not pooling.token.any()
    assert not pooling.columns.any()
    assert pooling.rows.std().item() == pytest.approx(1, abs=0.05)
    layer = cast(attention.AttentionLayer, pooling.layers[0])
    assert layer.query_key_value.weight.std().item() == pytest.approx(math.sqrt(2 / (256 + 64)), rel=0.02)
    assert layer.output.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)


@pytest.mark.usefixtures("shallow")
def test_only_the_question_knows_positions() -> None:
    with rng.scoped(0, "pooling"):
        pooling = AttentionPooling(8).double()
    nn.init.normal_(pooling.columns, generator=rng.generator(0, "columns"))
    visible = torch.randn(2, 12, 8, generator=rng.generator(0, "visible"), dtype=torch.float64)
    asked = pooling(visible, torch.tensor([6, 7, 15]))
    torch.testing.assert_close(pooling(visible.flip(1), torch.tensor([6, 7, 15])), asked)
    difference = (pooling.columns[3] - pooling.columns[2]).expand(2, -1)
    torch.testing.assert_close(asked[:, 1] - asked[:, 0], difference)
    torch.testing.assert_close(asked[:, 2] - asked[:, 1], (pooling.rows[3] - pooling.rows[1]).expand(2, -1))


def test_gelu_is_its_tanh_form() -> None:
    x = torch.linspace(-12, 12, 1001, dtype=torch.float64)
    torch.testing.assert_close(attention.gelu(x), F.gelu(x, approximate="tanh"))


def test_dropout_belongs_to_its_generator() -> None:
    x = torch.ones(50_000)
    before = torch.get_rng_state()
    first, again, other = (dropout(x, rng.generator(seed, "dropout")) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert (first == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
    assert dropout(x, None) is x


# The diversity term


def test_log_det_at_its_ends() -> None:
    eye = torch.eye(3).repeat(2, 1, 1)
    orthogonal = [5 * eye[:, 0], 0.1 * eye[:, 1], -eye[:, 2]]
    torch.testing.assert_close(log_det(orthogonal), torch.full((2,), 3 * math.log(1 + 1e-5), dtype=torch.float64))
    parallel = [eye[:, 0], 2 * eye[:, 0], -eye[:, 0]]
    lowest = math.log((3 + 1e-5) * 1e-10)
    torch.testing.assert_close(log_det(parallel), torch.full((2,), lowest, dtype=torch.float64))
    assert lowest == pytest.approx(-21.9, abs=0.05)
    assert log_det([0 * g for g in parallel]).isfinite().all()
    # Float32 would round this determinant to zero or below.
    nearly = [eye[:, 0] + 1e-4 * n * eye[:, n] for n in range(3)]
    assert log_det(nearly).isfinite().all()


def test_log_det_is_its_formula() -> None:
    gradients = [torch.randn(4, 2, 3, generator=rng.generator(i, "g")).double() for i in range(3)]
    for image, value in enumerate(log_det(gradients).tolist()):
        columns = [g[image].flatten() / (g[image].norm() + 1e-10) for g in gradients]
        (a, b, c), (d, e, f), (g, h, i) = (
            [float(columns[r] @ columns[s]) + (1e-5 if r == s else 0) for s in range(3)] for r in range(3)
        )
        determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        assert value == pytest.approx(math.log(determinant), rel=1e-10)
    doubled = [2.5 * gradients[1], gradients[2], gradients[0]]
    torch.testing.assert_close(log_det(doubled), log_det(gradients))


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("arch", ["resnet18", "preact-resnet18"])
def test_diversity_has_the_gradients_that_finite_differences_find(arch: str) -> None:
    """Through batch-norm, in-place ReLU and attention, twice: towards the pixels and towards the weights."""
    built = stage_of(encoder__arch=arch).double()
    puzzles = {name: (p.images.double(), p.answer) for name, p in views_of(built).puzzles.items()}
    inputs = [images.requires_grad_() for images, _ in puzzles.values()]

    def h() -> Tensor:
        judged = [built.tasks[name](x, puzzles[name][1], None) for name, x in zip(puzzles, inputs, strict=True)]
        return diversity([answer.loss for answer in judged], inputs).mean()

    weights = dict(built.named_parameters())
    conv = weights["tasks.jigsaw.encoder.backbone.layer2.0.conv1.weight"]
    scale = weights["tasks.jigsaw.encoder.backbone.layer2.0.bn1.weight"]
    projection = weights["tasks.selfie.pooling.layers.0.query_key_value.weight"]
    for target in (*inputs, conv, scale, projection):
        (gradient,) = torch.autograd.grad(h(), target)
        direction = gradient / gradient.norm()
        step = 1e-7
        with torch.no_grad():
            target.add_(step * direction)
        above = h().item()
        with torch.no_grad():
            target.sub_(2 * step * direction)
        below = h().item()
        with torch.no_grad():
            target.add_(step * direction)
        assert (above - below) / (2 * step) == pytest.approx(gradient.norm().item(), rel=1e-3)


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
    monkeypatch.setattr(stage, "pgd", recorded)
    built = stage_of(steps=10)
    puzzles, generator = views_of(built)
    built.forward(stage._Views(puzzles, generator))
    ((_, images, how),) = recorded.calls
    assert torch.equal(images, torch.cat([puzzle.images for puzzle in puzzles.values()]))
    assert how.pop("generator") is generator
    assert how == {"threat": Threat(eps=EPS), "steps": 10, "step_size": 0.25 * EPS, "start": "uniform"}

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
    monkeypatch.setattr(stage, "pgd", shifted)
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
    monkeypatch.setattr(stage, "pgd", recorded)
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
    with pytest.raises(BenchError, match=r"task selfie has no rotation end to export; choose export=trunk"):
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
    at = partial(learning_rate, plan, steps_per_epoch=steps)
    last = 150 * steps - 1
    assert at(epoch=0, step=0) == 0.001
    assert at(epoch=75, step=0) == pytest.approx((0.001 + 1e-8) / 2)
    lowest = 1e-8 + (0.001 - 1e-8) / 2 * (1 + math.cos(math.pi * last / (last + 1)))
    assert at(epoch=149, step=steps - 1) == pytest.approx(lowest)
    warm = partial(learning_rate, config_of(load_tier("paper"), task="rotation").stage1, steps_per_epoch=200)
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
        ({"encoder__arch": "wide-resnet28-10"}, r"WideResNet does not have\. Choose --set encoder.arch=resnet18"),
        ({"facts": facts_of((3, 8, 8), images=9)}, r"9 images in batches of 4 .* --set stage1.drop_last=true"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        stage_of(**settings)


# Training


class Impatient(Silent):
    """Asks for a stop after the first step."""

    def __init__(self) -> None:
        self.stop = Stop()

    def advance(self, amount: int, detail: str = "") -> None:
        self.stop.requested = True


@pytest.mark.usefixtures("shallow")
def test_a_stopped_training_continues_bit_for_bit(tmp_path: Path) -> None:
    """Permutations, attacks, masks and dropout included; the global state is neither read nor moved."""
    whole, broken, continued = (stage_of(epochs=1) for _ in range(3))
    start = digest(whole.state_dict())
    run = partial(train, images=pixels(), owner="o", seed=0, device=CPU)
    before = torch.get_rng_state()
    progress = run(whole, folder=tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)
    assert progress.cost.images == COUNT  # the last, smaller batch too
    torch.manual_seed(5)
    impatient = Impatient()
    with pytest.raises(InterruptedRunError):
        run(broken, folder=tmp_path / "parts", reporter=impatient, stop=impatient.stop)
    # What was drawn once, the permutations, comes from the file and not from the constructor.
    cast(Jigsaw, continued.tasks["jigsaw"]).permutations.zero_()
    run(continued, folder=tmp_path / "parts")
    assert digest(continued.state_dict()) == digest(whole.state_dict())
    assert len({digest(broken.state_dict()), digest(whole.state_dict()), start}) == 3
