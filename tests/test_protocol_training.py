"""SLF, ALF and AFF as the engine trains them, against a slow reference that knows nothing of the bench.

The reference is written from the papers: a convolution, batch-norm from its definition, ReLU and mean; TRADES'
algorithm 1 and PGD-AT with their attack written out; SGD with momentum and weight decay; a rate divided by ten. It
shares the first weights, the batches and the attack's random draws with the bench, and ends with the same weights.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.job import Job
from bench.nn import Encoder
from bench.protocol import AFFStage, ALFStage, FinetuneStage, SLFStage
from bench.protocol.stage import Labelled
from bench.recipe import AFFSettings, ALFSettings, SLFSettings, Threat
from bench.train import train

EPS = 16 / 255
CLASSES = 3
LABELS = torch.arange(18) % CLASSES
IMAGES = torch.randint(256, (18, 3, 6, 6), generator=rng.generator(0, "images")).to(torch.uint8)
SHORT = {"epochs": 3, "batch_size": 8, "decay_epochs": (1, 2), "weight_decay": 0.05, "lr": 0.2}
"""Nine steps at three rates; 18 images make batches of 8, 8 and 2. The decay is large enough to be noticed."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "slf eval": ("slf", {"encoder_bn": "eval"}),
    "slf train": ("slf", {"encoder_bn": "train"}),
    "slf robustssl-benchmark": ("slf", {"preset": "robustssl-benchmark"}),
    "alf trades eval": ("alf", {"encoder_bn": "eval"}),
    "alf trades train": ("alf", {"encoder_bn": "train"}),
    "alf deacl-2024": ("alf", {"preset": "deacl-2024"}),
    "alf pgd train": ("alf", {"loss": "pgd", "encoder_bn": "train"}),
    "alf advcl": ("alf", {"preset": "advcl"}),
    "aff trades single": ("aff", {"bn": "single", "beta": 2.0}),
    "aff trades dual": ("aff", {"bn": "dual"}),
    "aff deacl-2024": ("aff", {"preset": "deacl-2024"}),
    "aff dual, two clean passes": ("aff", {"bn": "dual", "clean_passes": 2}),
    "aff pgd": ("aff", {"loss": "pgd"}),
}


class Backbone(nn.Module):
    """The least with a convolution and batch-norm."""

    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean(dim=(2, 3))  # type: ignore[no-any-return]


def make_stage(section: str, knobs: dict[str, Any]) -> FinetuneStage[Any]:
    """The stage in float64, on an encoder whose batch-norm is that of no batch."""
    with rng.scoped(0, "encoder"):
        backbone = Backbone()
        nn.init.uniform_(backbone.norm.weight, 0.5, 1.5)
        nn.init.uniform_(backbone.norm.bias, -0.2, 0.5)
        nn.init.uniform_(backbone.norm.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
        nn.init.uniform_(backbone.norm.running_var, 0.2, 0.6)  # type: ignore[arg-type]
    common = (Encoder(backbone, nn.Identity()), LABELS, CLASSES, 0, Threat(eps=EPS))
    stage: FinetuneStage[Any]
    if section == "slf":
        stage = SLFStage(SLFSettings.parse({**SHORT, **knobs}, "slf"), *common)
    elif section == "alf":
        stage = ALFStage(ALFSettings.parse({**SHORT, **knobs}, "alf"), *common)
    else:
        stage = AFFStage(AFFSettings.parse({**SHORT, **knobs}, "aff"), *common)
    return stage.double()


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    noise: Tensor
    """What the attack starts with: N(0, 1), or U(0, 1)."""


def trained(section: str, knobs: dict[str, Any], folder: Path) -> tuple[FinetuneStage[Any], "Reference"]:
    """Train by the engine, then by the reference on the same batches."""
    stage = make_stage(section, knobs)
    reference = Reference(stage)
    batches: list[Batch] = []
    views = stage.views

    def doubled(images: Tensor, generator: torch.Generator, index: Tensor) -> Labelled:
        seen = views(images, generator, index)
        seen = seen._replace(images=seen.images.double())
        twin = torch.Generator()
        twin.set_state(generator.get_state())
        draw = torch.rand if getattr(stage.plan, "loss", "") == "pgd" else torch.randn
        noise = draw(seen.images.shape, generator=twin, dtype=torch.float64)
        batches.append(Batch(seen.images.clone(), seen.labels.clone(), noise))
        return seen

    stage.views = doubled  # type: ignore[method-assign]
    train(stage, IMAGES, Job(folder, "test", 0, torch.device("cpu")))
    assert [len(batch.labels) for batch in batches] == [8, 8, 2] * 3
    for number, batch in enumerate(batches):
        reference.step(batch, lr=stage.plan.lr / 10 ** (number // 3))
    return stage, reference


class Norm:
    """Batch-norm from its definition; running statistics move by a tenth, the variance without bias."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.scale, self.shift = layer.weight.detach().clone(), layer.bias.detach().clone()
        self.mean, self.var = layer.running_mean.clone(), layer.running_var.clone()

    def __call__(self, maps: Tensor, *, batch_statistics: bool) -> Tensor:
        mean, var = self.mean, self.var
        if batch_statistics:
            count = maps.numel() // maps.shape[1]
            mean = maps.sum((0, 2, 3)) / count
            var = (maps - mean[:, None, None]).square().sum((0, 2, 3)) / count
            self.mean = 0.9 * self.mean + 0.1 * mean.detach()
            self.var = 0.9 * self.var + 0.1 * var.detach() * count / (count - 1)
        normal = (maps - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return normal * self.scale[:, None, None] + self.shift[:, None, None]


class Reference:
    """One network, its optimiser, and the losses of the papers."""

    def __init__(self, stage: FinetuneStage[Any]) -> None:
        backbone = stage.encoder.backbone
        assert isinstance(backbone, Backbone)
        self.plan = deepcopy(stage.plan)
        self.kernel = backbone.conv.weight.detach().clone()
        self.norm = Norm(backbone.norm)
        self.clean_norm = Norm(backbone.norm) if getattr(self.plan, "bn", "") == "dual" else self.norm
        self.weight, self.bias = stage.head.weight.detach().clone(), stage.head.bias.detach().clone()
        self.learnt = [self.weight, self.bias]
        if self.plan.section == "aff":
            norms = [self.norm] if self.clean_norm is self.norm else [self.norm, self.clean_norm]
            self.learnt += [self.kernel, *(tensor for norm in norms for tensor in (norm.scale, norm.shift))]
        self.speeds = [torch.zeros_like(tensor) for tensor in self.learnt]

    def logits(self, x: Tensor, norm: Norm, *, batch_statistics: bool) -> Tensor:
        maps = F.conv2d(x, self.kernel, padding=1)
        features = norm(maps, batch_statistics=batch_statistics).clamp(min=0).mean((2, 3))
        return features @ self.weight.T + self.bias

    def attacked(self, batch: Batch) -> Tensor:
        """PGD in eval mode: from x + 0.001 N(0, 1) away from p(x), or from x + U(-eps, eps) away from the label."""
        x, plan = batch.images, self.plan
        target = self.logits(x, self.clean_norm, batch_statistics=False).softmax(1).detach()
        moved = x + (0.001 * batch.noise if plan.loss == "trades" else EPS * (2 * batch.noise - 1))
        for _ in range(plan.steps):
            moved.requires_grad_()
            q = self.logits(moved, self.norm, batch_statistics=False).log_softmax(1)
            if plan.loss == "trades":
                gain = (target * (target.log() - q)).sum()
            else:
                gain = -q[range(len(q)), batch.labels].sum()
            (gradient,) = torch.autograd.grad(gain, moved)
            moved = moved.detach() + EPS / 4 * gradient.sign()
            moved = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1)
        return moved

    def loss(self, batch: Batch) -> Tensor:
        plan, moves = self.plan, getattr(self.plan, "encoder_bn", "train") == "train"
        rows = range(len(batch.labels))
        if plan.section == "slf":
            return (
                -self.logits(batch.images, self.norm, batch_statistics=moves).log_softmax(1)[rows, batch.labels].mean()
            )
        adversarial = self.attacked(batch)
        if plan.loss == "pgd":
            return (
                -self.logits(adversarial, self.norm, batch_statistics=moves).log_softmax(1)[rows, batch.labels].mean()
            )
        p = self.logits(batch.images, self.clean_norm, batch_statistics=moves).log_softmax(1)
        q = self.logits(adversarial, self.norm, batch_statistics=moves).log_softmax(1)
        if plan.clean_passes == 2:
            self.logits(batch.images, self.clean_norm, batch_statistics=moves)
        total: Tensor = -p[rows, batch.labels].mean() + plan.beta * (p.exp() * (p - q)).sum() / len(rows)
        return total

    def step(self, batch: Batch, lr: float) -> None:
        for tensor in self.learnt:
            tensor.requires_grad_()
        gradients = torch.autograd.grad(self.loss(batch), self.learnt)
        for tensor, speed, gradient in zip(self.learnt, self.speeds, gradients, strict=True):
            tensor.requires_grad_(False)
            speed.mul_(0.9).add_(gradient + self.plan.weight_decay * tensor)
            tensor.sub_(lr * speed)

    def state(self) -> dict[str, Tensor]:
        """What the classifier to evaluate must be."""
        return {
            **{"encoder.backbone.conv.weight": self.kernel, "head.weight": self.weight, "head.bias": self.bias},
            **{"encoder.backbone.norm.weight": self.norm.scale, "encoder.backbone.norm.bias": self.norm.shift},
            **{
                "encoder.backbone.norm.running_mean": self.norm.mean,
                "encoder.backbone.norm.running_var": self.norm.var,
            },
        }


@pytest.mark.parametrize("case", CASES)
def test_the_engine_ends_where_the_slow_reference_ends(case: str, tmp_path: Path) -> None:
    stage, reference = trained(*CASES[case], tmp_path)
    found, expected = stage.classifier().state_dict(), reference.state()
    found.pop("encoder.backbone.norm.num_batches_tracked")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) < 1e-6, name
    start = make_stage(*CASES[case]).head.weight.detach()
    assert float((expected["head.weight"] - start).abs().max()) > 0.02  # nine steps went somewhere


FROZEN_DIFFERENCE = {"norm.running_mean", "norm.running_var", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("section", "knobs", "others", "expected"),
    [
        ("slf", {"encoder_bn": "eval"}, {"encoder_bn": "train"}, FROZEN_DIFFERENCE),
        ("alf", {"encoder_bn": "eval"}, {"encoder_bn": "train"}, FROZEN_DIFFERENCE),
        ("alf", {"encoder_bn": "train"}, {"encoder_bn": "train", "clean_passes": 2}, FROZEN_DIFFERENCE),
        ("alf", {"encoder_bn": "eval"}, {"encoder_bn": "eval", "clean_passes": 2}, set()),
        ("alf", {"loss": "trades"}, {"loss": "pgd"}, {"head.weight", "head.bias"}),
        ("aff", {"bn": "single"}, {"bn": "dual"}, FROZEN_DIFFERENCE | {"conv.weight", "norm.weight", "norm.bias"}),
    ],
)
def test_variants_differ_exactly_where_they_should(
    section: str, knobs: dict[str, Any], others: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    """What a frozen encoder does in train mode shows in its running statistics alone and, through them, the head."""
    one, two = (
        trained(section, variant, tmp_path / name)[0].classifier().state_dict()
        for name, variant in (("one", knobs), ("two", others))
    )
    found = {name for name in one if not name.endswith("num_batches_tracked") and not torch.equal(one[name], two[name])}
    assert {name.removeprefix("encoder.backbone.") for name in found} == expected


def test_the_adversarial_branch_is_the_one_evaluated(tmp_path: Path) -> None:
    """Dual batch-norm: each branch saw its own images alone, nine batches each, and they share the convolution."""
    stage, reference = trained("aff", {"bn": "dual"}, tmp_path)
    assert isinstance(stage, AFFStage)
    assert isinstance(stage.clean_encoder, Encoder)
    clean, evaluated = stage.clean_encoder.backbone, stage.classifier().encoder.backbone
    assert isinstance(clean, Backbone)
    assert isinstance(evaluated, Backbone)
    assert clean.conv.weight is evaluated.conv.weight
    for branch, norm in ((clean, reference.clean_norm), (evaluated, reference.norm)):
        assert branch.norm.running_mean is not None
        assert torch.allclose(branch.norm.running_mean, norm.mean, atol=1e-9)
        assert int(branch.norm.num_batches_tracked) == 9  # type: ignore[arg-type]
    assert float((reference.norm.mean - reference.clean_norm.mean).abs().max()) > 1e-4
