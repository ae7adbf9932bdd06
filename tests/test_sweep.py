"""Sweeps: every value against an evaluation of its own, and no way an interruption could show."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import PGD, image_generators, margin_objective
from bench.data import Split
from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import Swept, evaluate, sweep
from bench.job import Job
from bench.monitor import Monitor
from bench.nn import Classifier, Encoder
from bench.recipe import DatasetFacts, MethodConfig, Threat, build_recipe, load_tier
from bench.record import NoGradient, Outcome, SweepSettings

CLASSES, TEST_IMAGES, SIDE = 3, 25, 4
CPU = torch.device("cpu")
EPS = SweepSettings(kind="eps", eps=(0.0, 0.004, 0.01, 0.03), steps=(6,), batch_size=7)
STEPS = SweepSettings(kind="steps", eps=(0.01,), steps=(1, 2, 4, 9), batch_size=7)
WILD = STEPS.model_copy(update={"eps": (0.02,), "step_size": 2.0})
"""Steps so long that they win images back."""


class Backbone(nn.Module):
    """Two layers that PGD has to work on: a step too far may win an image back. It counts gradients."""

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        with rng.scoped(0, "backbone"):
            self.hidden = nn.Linear(3 * SIDE * SIDE, 8)
        self.gradients = 0

    def forward(self, images: Tensor) -> Tensor:
        self.gradients += torch.is_grad_enabled()
        return torch.sin(40 * self.hidden(images.flatten(1)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        return self  # prepared() copies; the test wants to see the counter


def classifier() -> Classifier:
    with rng.scoped(0, "head"):
        head = nn.Linear(8, CLASSES)
    return Classifier(Encoder(Backbone(), nn.Identity()), head).eval()


def _split() -> Split:
    images = torch.randint(0, 256, (TEST_IMAGES, 3, SIDE, SIDE), generator=rng.generator(0, "images"))
    with torch.no_grad():
        labels = classifier()(images.float().div(255)).argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES  # some are wrong before any attack
    return Split(images.to(torch.uint8), labels)


SPLIT = _split()


class Listener(Monitor):
    """Counts images, keeps notes, and asks for a stop after the ``stop_at``-th batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.begun: list[tuple[int, int]] = []
        self.images = 0
        self.notes: list[str] = []
        super().__init__()
        self._left = stop_at

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.begun.append((done, total))

    def advance(self, amount: int, detail: str = "") -> None:
        self.images += amount
        if self._left is not None:
            self._left -= 1
            self.stop_requested |= self._left == 0

    def note(self, message: str) -> None:
        self.notes.append(message)


def measure(
    folder: Path,
    settings: SweepSettings,
    *,
    model: Classifier | None = None,
    split: Split = SPLIT,
    listener: Listener | None = None,
    owner: str = "me",
    seed: int = 0,
) -> Swept:
    job = Job(folder, owner, seed, CPU, listener or Listener())
    return sweep(model or classifier(), split, settings, job)


def evaluated(folder: Path, *, eps: float, steps: int) -> tuple[Outcome, Outcome]:
    """Return SA and RA of an evaluation with the sweep's knobs."""
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "1" * 64, "image_shape": (3, SIDE, SIDE), "num_classes": CLASSES},
        **{"train_images": 10, "test_images": TEST_IMAGES, "eps": eps, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    recipe = build_recipe(
        method="toy",
        config_type=MethodConfig,
        native_encoder={},
        dataset=facts,
        tier=load_tier("paper"),
        overrides={"evaluate.pgd_steps": steps, "evaluate.batch_size": 7, "evaluate.autoattack": False},
    )
    job = Job(folder / f"evaluation-{eps}-{steps}", "me", 0, CPU)
    found = evaluate(classifier(), SPLIT, job, recipe=recipe)
    return found.sa, found.ra.outcome


# What is measured


def test_a_step_sweep_is_separate_evaluations_of_each_size(tmp_path: Path) -> None:
    found = measure(tmp_path, STEPS)
    separate = [evaluated(tmp_path, eps=0.01, steps=steps)[1] for steps in STEPS.steps]
    assert list(found.outcomes) == separate
    assert len({outcome.bits for outcome in separate}) > 2, "a toy on which every size gives the same tells nothing"


def test_the_iterates_are_those_of_separate_runs_bit_for_bit() -> None:
    images, labels = SPLIT.images.float().div(255), SPLIT.labels

    objective = margin_objective(classifier(), labels)

    def how() -> dict[str, Any]:
        return {"threat": Threat(eps=0.05), "generator": image_generators(0, range(len(images)))}

    trajectory = list(PGD(9, 0.25, "uniform").iterates(objective, images, **how()))
    for steps in STEPS.steps:
        assert trajectory[steps].equal(PGD(steps, 0.25, "uniform")(objective, images, **how()))


def test_an_eps_sweep_is_separate_evaluations_of_each_radius(tmp_path: Path) -> None:
    found = measure(tmp_path, EPS)
    separate = [evaluated(tmp_path, eps=eps, steps=6) for eps in EPS.eps]
    assert list(found.outcomes) == [ra for _, ra in separate]
    assert len({ra.bits for _, ra in separate}) > 2
    assert found.worst is None


def test_at_eps_0_the_sweep_is_sa(tmp_path: Path) -> None:
    sa, _ = evaluated(tmp_path, eps=0.05, steps=1)
    assert 0 < sa.correct < TEST_IMAGES
    assert measure(tmp_path, EPS).outcomes[0] == sa
    no_room = STEPS.model_copy(update={"eps": (0.0,)})
    assert set(measure(tmp_path / "steps", no_room).outcomes) == {sa}


def test_the_worst_so_far_is_what_a_loop_over_all_iterates_finds(tmp_path: Path) -> None:
    found = measure(tmp_path, WILD)
    model = classifier()
    expected: dict[int, list[bool]] = {steps: [] for steps in WILD.steps}
    for first in range(0, TEST_IMAGES, 7):
        images = SPLIT.images[first : first + 7].float().div(255)
        labels = SPLIT.labels[first : first + 7]
        alive = torch.ones(len(labels), dtype=torch.bool)
        run = PGD(9, 2.0, "uniform").iterates(
            margin_objective(model, labels),
            images,
            threat=Threat(eps=0.02),
            generator=image_generators(0, range(first, first + len(labels))),
        )
        for step, x_adv in enumerate(run):
            if step:
                alive &= model(x_adv).argmax(1) == labels
            if step in expected:
                expected[step] += alive.tolist()
    assert found.worst is not None
    assert [outcome.unpack() for outcome in found.worst] == list(expected.values())
    assert found.worst[-1].correct < found.outcomes[-1].correct, "a toy that wins nothing back tells nothing"


def test_more_iterates_never_save_an_image(tmp_path: Path) -> None:
    worst = measure(tmp_path, WILD).worst
    assert worst is not None
    for earlier, later in pairwise(worst):
        assert not any(alive and not before for before, alive in zip(earlier.unpack(), later.unpack(), strict=True))
    # The finer grid is a superset of the attacks.
    fine = WILD.model_copy(update={"steps": tuple(range(1, 10))})
    assert measure(tmp_path / "fine", fine).worst[-1] == worst[-1]  # type: ignore[index]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_classifier_loses_exactly_the_images_within_reach(tmp_path: Path, norm: str) -> None:
    """Of two classes, the margin falls by eps times the dual norm of w1 - w0, so accuracy falls with eps."""

    class Flat(nn.Flatten):
        feature_dim = 3 * SIDE * SIDE

    generator = rng.generator(0, "linear")
    model = Classifier(Encoder(Flat(), nn.Identity()), nn.Linear(Flat.feature_dim, 2))
    images = torch.randint(100, 156, (40, 3, SIDE, SIDE), generator=generator)  # no radius reaches 0 or 1
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(2, Flat.feature_dim, generator=generator))
        model.head.bias.copy_(-(model.head.weight @ images.float().div(255).flatten(1).mean(0)))
        logits = model(images.float().div(255))
    labels = logits.argmax(1)
    margin = (logits[:, 1] - logits[:, 0]).abs()
    direction = (model.head.weight[1] - model.head.weight[0]).detach()
    reach = direction.abs().sum() if norm == "linf" else direction.norm()
    eps = tuple(float(value) for value in torch.linspace(0, 1.2 * float(margin.max() / reach), 9))
    assert max(eps) < (100 / 255 if norm == "linf" else 1.0)
    settings = SweepSettings(kind="eps", norm=norm, eps=eps, steps=(20,), batch_size=16)
    found = measure(tmp_path, settings, model=model.eval(), split=Split(images.to(torch.uint8), labels))
    assert [outcome.unpack() for outcome in found.outcomes] == [(margin > value * reach).tolist() for value in eps]
    assert [found.outcomes[0].correct, found.outcomes[-1].correct] == [40, 0]


def test_a_step_sweep_costs_the_gradients_of_its_longest_member(tmp_path: Path) -> None:
    model = classifier()
    backbone = model.encoder.backbone
    assert isinstance(backbone, Backbone)
    measure(tmp_path, STEPS, model=model)
    assert backbone.gradients == math.ceil(TEST_IMAGES / 7) * max(STEPS.steps)


def test_the_seed_decides_the_noise(tmp_path: Path) -> None:
    a, b, c = (measure(tmp_path / name, STEPS, seed=seed).outcomes for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert a == b != c


def test_the_cost_counts_every_image_of_every_radius(tmp_path: Path) -> None:
    assert measure(tmp_path / "eps", EPS).cost.images == 4 * TEST_IMAGES
    assert measure(tmp_path / "steps", STEPS).cost.images == TEST_IMAGES


# Interruptions


@pytest.mark.parametrize("settings", [EPS, STEPS], ids=["eps", "steps"])
def test_a_sweep_stopped_at_any_batch_continues_to_the_same_end(tmp_path: Path, settings: SweepSettings) -> None:
    whole = measure(tmp_path / "whole", settings)
    batches = len(settings.eps) * math.ceil(TEST_IMAGES / 7)
    for stop_at in range(1, batches, 2):
        folder = tmp_path / str(stop_at)
        first, second = Listener(stop_at), Listener()
        with pytest.raises(InterruptedRunError):
            measure(folder, settings, listener=first)
        resumed = measure(folder, settings, listener=second)
        assert resumed[:2] == whole[:2]
        assert second.begun == [(first.images, len(settings.eps) * TEST_IMAGES)]
        assert first.images + second.images == len(settings.eps) * TEST_IMAGES, "no batch was done twice"


def test_a_damaged_state_is_noticed_and_redone(tmp_path: Path) -> None:
    whole = measure(tmp_path, STEPS)
    path = tmp_path / "sweep-steps-me.json"
    path.write_text(path.read_text().replace("true", "false", 1))
    listener = Listener()
    assert measure(tmp_path, STEPS, listener=listener)[:2] == whole[:2]
    assert listener.images == TEST_IMAGES
    (note,) = listener.notes
    assert "checksum does not match" in note


def test_a_state_of_another_classifier_is_refused(tmp_path: Path) -> None:
    measure(tmp_path, STEPS, owner="12345678, the beginning that names the file, of one")
    with pytest.raises(BenchError, match="belongs to another run"):
        measure(tmp_path, STEPS, owner="12345678, the same, of another")


class HalfBlind(Backbone):
    """Passes no gradient to images that are brighter than most."""

    def forward(self, images: Tensor) -> Tensor:
        dark = images.mean((1, 2, 3)) < 0.5
        return super().forward(torch.where(dark[:, None, None, None], images, images.detach()))


def test_images_without_a_gradient_are_counted_at_each_value(tmp_path: Path) -> None:
    model = classifier()
    model.encoder.backbone = HalfBlind()
    bright = int((SPLIT.images.float().div(255).mean((1, 2, 3)) >= 0.5).sum())
    assert 0 < bright < TEST_IMAGES
    tiny = EPS.model_copy(update={"eps": (0.0, 1e-6)})
    found = measure(tmp_path / "some", tiny, model=model).no_gradient
    assert found == (NoGradient(), NoGradient(first=bright, last=bright))
    assert measure(tmp_path / "none", STEPS).no_gradient == (NoGradient(),) * len(STEPS.grid)
