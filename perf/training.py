"""Training steps: ours against plain implementations, on one thread.

- DeACL's second stage against a transcription of the paper's step: torchvision's crop and flip image by image, teacher,
  PGD-5 by the framework's gradient, loss of equation 4, SGD. The probe that the authors train beside it is left out, in
  the transcription's favour.
- SimCLR against the same step with lightly's NT-Xent and LARS and torchvision's v2 transforms in a data loader.

Weights, images, batch and settings are the same on both sides, images are noise of CIFAR-10's shape, and all is fp32,
but for a row of ours in bf16 with ``--bf16``.
Each peer also runs with channels-last weights and images, which the framework offers but does not choose itself. The
C library keeps freed memory as in a run of ours, for all alike; ``perf/pgd.py`` also measures without.

Run from the repository's root: ``python perf/training.py``. Without lightly, SimCLR's peer is left out:

    python -m pip install --target PEERS --no-deps lightly lightly-utils
    PYTHONPATH=PEERS python perf/training.py
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from comparison import (
    OURS,
    OURS_BF16,
    Cell,
    Comparison,
    Seconds,
    Table,
    arguments,
    ratio_columns,
    ratios,
    take_turns,
    with_bf16,
)
from plain import channels_last, plain
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from views import v2_pipeline

from bench import rng
from bench.cost import Subject, data_like
from bench.device import keep_freed_memory
from bench.method import Stage
from bench.nn import Encoder
from bench.recipe import Precision, load_tier
from bench.train import take_step
from methods.deacl import PseudoATStage
from methods.simclr import SimCLRStage

CPU = torch.device("cpu")
EPS, ALPHA, ATTACK_STEPS, LAMBDA = 8 / 255, 2 / 255, 5, 2.0
SMALL_RATE = 1e-3
"""Learning rate of both sides: the weights of many steps on noise stay finite."""


def stage_of(method: str, width: int, batch: int, section: str, precision: Precision = "fp32") -> Stage:
    """Return the untrained last stage of ``method`` as published, but for width, batch, learning rate and precision."""
    overrides: dict[str, Any] = {"encoder.width": width, f"{section}.batch_size": batch, f"{section}.lr": SMALL_RATE}
    overrides |= {f"{section}.lr_batch": batch, f"{section}.precision": precision}
    data = data_like("cifar10", Path("data"))
    subject = Subject.of(method, data, tier=load_tier("paper"), overrides=overrides)
    return list(subject.stages(CPU))[-1].train()


class OurStep:
    """A step of one of our stages, as a run takes it."""

    def __init__(self, stage: Stage, images: Tensor) -> None:
        self.stage, self.images, self.index = stage, images, torch.arange(len(images))
        self.generator = rng.generator(0, "perf")
        self.optimizer = stage.optimizer()
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def views(self) -> Any:
        """Return the views of a step."""
        return self.stage.views(self.images, self.generator, self.index)

    def __call__(self) -> None:
        """Take a step."""
        take_step(self.stage, self.images, self.index, self.generator, self.optimizer, self.scaler)


class PlainDeACL:
    """Section 3.3 of DeACL and equation 4, written down as they stand."""

    def __init__(self, teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
        self.teacher, self.student, self.images = teacher.eval(), student, images
        side = images.shape[-1]
        self.weak = v2.Compose(
            [
                v2.RandomCrop(side, padding=side // 8),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        self.optimizer = SGD(student.parameters(), SMALL_RATE, momentum=0.9, weight_decay=5e-4)

    def views(self) -> Tensor:
        """Return a weak view of each image."""
        return torch.stack([self.weak(image) for image in self.images])

    def attack(self, x: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        """Return the images that maximise the distance between the student's features and ``target``."""
        self.student.eval()
        x_adv = x + noise
        for _ in range(ATTACK_STEPS):
            x_adv = x_adv.detach().requires_grad_()
            distance = -F.cosine_similarity(self.student(x_adv), target).sum()
            (gradient,) = torch.autograd.grad(distance, x_adv)
            x_adv = x_adv.detach() + ALPHA * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        self.student.train()
        return x_adv

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the loss on the views ``x``; ``noise`` is the start of the attack."""
        with torch.no_grad():
            target = self.teacher(x)
        x_adv = self.attack(x, target, noise)
        clean, adversarial = self.student(torch.cat([x, x_adv])).chunk(2)
        distance = -F.cosine_similarity(clean, target).mean()
        return distance - LAMBDA * F.cosine_similarity(adversarial, clean).mean()

    def __call__(self) -> None:
        """Take a step."""
        x = self.views()
        update(self.optimizer, self.loss(x, torch.empty_like(x).uniform_(-EPS, EPS)))


class PlainSimCLR:
    """SimCLR with lightly's loss and optimiser, and torchvision's transforms in a data loader."""

    def __init__(self, stage: SimCLRStage, encoder: nn.Module, images: Tensor, peer: "Lightly") -> None:
        self.network = nn.Sequential(encoder, plain_head(stage.projector))
        self.criterion = peer.loss.NTXentLoss(stage.plan.temperature)
        self.optimizer: Optimizer = peer.lars.LARS(
            self.network.parameters(), lr=SMALL_RATE, momentum=0.9, weight_decay=stage.plan.weight_decay
        )
        self._batches = endless(DataLoader(TwoViews(images, stage), batch_size=len(images), shuffle=True))

    def views(self) -> tuple[Tensor, Tensor]:
        """Return two views of each image."""
        first, second = next(self._batches)
        return first, second

    def __call__(self) -> None:
        """Take a step."""
        first, second = self.network(torch.cat(self.views())).chunk(2)
        update(self.optimizer, self.criterion(first, second))


class Lightly:
    """The modules of lightly that are used."""

    def __init__(self, loss: Any, lars: Any) -> None:
        self.loss, self.lars = loss, lars


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Images, uint8 [N, C, H, W]; an item is two strong views of one, float [C, H, W]."""

    def __init__(self, images: Tensor, stage: SimCLRStage) -> None:
        self.images, self.transform = images, v2_pipeline(stage.plan.view, images.shape[-1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return self.transform(image), self.transform(image)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of ``loader`` again and again."""
    while True:
        yield from loader


def plain_head(projector: nn.Sequential) -> nn.Sequential:
    """Return a fresh projector of the same sizes."""
    sizes = [(layer.in_features, layer.out_features) for layer in projector if isinstance(layer, nn.Linear)]
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(*size), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def update(optimizer: Optimizer, loss: Tensor) -> None:
    """Take the optimiser's step for ``loss``."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def our_steps(compared: Comparison, images: Tensor, method: str, width: int, section: str) -> dict[str, Any]:
    """Return a step of the last stage of ``method``, and with ``--bf16`` one of the same stage in bf16."""
    precisions: dict[str, Precision] = {OURS: "fp32"}
    if compared.options.bf16:
        precisions[OURS_BF16] = "bf16"
    return {
        name: OurStep(stage_of(method, width, len(images), section, precision), images)
        for name, precision in precisions.items()
    }


def compare_deacl(compared: Comparison, width: int, batch: int) -> None:
    """Time DeACL's second stage."""
    images = noise(batch)
    steps = our_steps(compared, images, "deacl", width, "stage2")
    stage = steps[OURS].stage
    assert isinstance(stage, PseudoATStage)
    assert isinstance(stage.teacher, Encoder)
    teacher, student = plain(stage.teacher), plain(stage.encoder)
    steps["plain transcription"] = PlainDeACL(teacher, student, images)
    steps["the same, channels-last"] = PlainDeACL(channels_last(teacher), channels_last(student), images)
    show(compared, f"DeACL, stage 2, ResNet-18 of width {width}, batch {batch}", steps, batch)


def compare_simclr(compared: Comparison, width: int, batch: int) -> None:
    """Time SimCLR."""
    images = noise(batch)
    steps = our_steps(compared, images, "simclr", width, "stage1")
    stage = steps[OURS].stage
    assert isinstance(stage, SimCLRStage)
    loss = compared.peer("lightly", "SimCLR with lightly", "lightly.loss")
    if loss:
        peer = Lightly(loss, compared.peer("lightly", "SimCLR with lightly", "lightly.utils.lars"))
        encoder = plain(stage.encoder)
        steps["lightly and torchvision v2"] = PlainSimCLR(stage, encoder, images, peer)
        steps["the same, channels-last"] = PlainSimCLR(stage, channels_last(encoder), images, peer)
    show(compared, f"SimCLR, ResNet-18 of width {width}, batch {batch}", steps, batch)


def show(compared: Comparison, title: str, steps: dict[str, Any], batch: int) -> None:
    """Time ``steps`` and the views in them, and add their table."""
    calls: dict[str, Callable[[], object]] = {}
    for name, step in steps.items():
        calls |= {name: step, f"{name}: views": step.views}
    seconds = take_turns(calls, compared.options.rounds)
    compared.add(Table(title, ("", "images/s", *ratio_columns(seconds), "views take"), rows(seconds, batch)), seconds)


def rows(seconds: Seconds, batch: int) -> list[list[Cell]]:
    """Return rate, ratio and share of the views for each step."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    found: list[list[Cell]] = []
    for name in (name for name in seconds if not name.endswith(": views")):
        share = medians[f"{name}: views"] / medians[name]
        found.append([name, batch / medians[name], *ratios(seconds, name), f"{share:.1%}"])
    return found


def noise(batch: int) -> Tensor:
    """Return uint8 images of CIFAR-10's shape."""
    return data_like("cifar10", Path("data")).random_images(batch).clone()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = with_bf16(arguments(__doc__, rounds=9))
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 16], help="images, one number a width")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    compared = Comparison("training", options)
    keep_freed_memory()
    for width, batch in zip(options.widths, options.batches, strict=True):
        compare_deacl(compared, width, batch)
        compare_simclr(compared, width, batch)
    compared.finish()


if __name__ == "__main__":
    main()
