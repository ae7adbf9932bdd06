"""AP-DPE's parts: its pictures and puzzles, Selfie's loss, the attention net, the diversity term."""

import math
from typing import cast

import pytest
import torch
from ap_dpe_toys import (
    stage_of,
    unit_images,
    views_of,
)
from torch import Tensor, nn

from bench import rng
from bench.nn import Encoder
from methods.ap_dpe import attention
from methods.ap_dpe.attention import AttentionPooling, dropout
from methods.ap_dpe.diversity import diversity, log_det
from methods.ap_dpe.grid import assemble, cells, reorder, rotate
from methods.ap_dpe.pretexts import Jigsaw, Rotation, Selfie, SelfieLoss, selfie_loss

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
