"""DeACL's ablations: what views and projector change, that nothing else does, and that off means as published."""

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from attacked_images import replace_pgd
from deacl_stages import CPU, pixels, recipe_of, stages_of, step_of
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attack import PGD
from bench.data.views import StrongView, WeakView
from bench.errors import BenchError
from bench.job import Job
from bench.method import StepLoss
from bench.train import train
from bench.zoo import digest
from methods.deacl import DeACLConfig, PseudoATStage

# Off means as published


def test_by_default_nothing_is_switched_on() -> None:
    config = DeACLConfig()
    settings = config.stage2
    assert (config.ssl, config.student_init) == ("simclr", "teacher")
    assert (settings.loss, settings.lam, settings.contrastive, settings.projector) == ("ce2gt_ae2ce", 2.0, 0.0, "none")
    assert (settings.clean_view, settings.adversarial_view) == ("weak", "weak")
    assert (settings.view, settings.strong_view) == (WeakView(), StrongView())
    assert (settings.weight_decay, settings.temperature) == (5e-4, 0.1)


class Published(PseudoATStage):
    """Stage 2 as published and without any switch, for comparison."""

    def forward(self, views: Any) -> StepLoss:
        images, generator = views.images, views.generator
        self.teacher.eval()
        with torch.no_grad():
            target = self.teacher(images)
        student = self.encoder.prepared()
        adversarial = PGD(5, 0.25, "uniform")(
            lambda x: -F.cosine_similarity(student(x), target, dim=1),
            images,
            threat=self._threat,
            generator=generator,
        )
        clean, attacked = self.encoder(torch.cat([images, adversarial])).chunk(2)
        distance = -F.cosine_similarity(clean, target, dim=1).mean()
        robustness = -F.cosine_similarity(attacked, clean, dim=1).mean()
        return StepLoss(distance + 2.0 * robustness)


def test_the_default_trains_to_the_same_bits_as_the_method_without_switches(tmp_path: Any) -> None:
    _, _, stage = stages_of()
    bare = deepcopy(stage)
    bare.__class__ = Published
    for name, trained in (("switches", stage), ("bare", bare)):
        before = digest(trained.encoder.state_dict())
        train(trained, pixels(8), Job(tmp_path / name, "o", 0, CPU))
        assert digest(trained.encoder.state_dict()) != before
    assert digest(stage.state_dict()) == digest(bare.state_dict())


# Table 4: views


def identity_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the weak view 0.25 everywhere and the strong one 0.75, so that they can be told apart."""
    for kind, level in ((WeakView, 0.25), (StrongView, 0.75)):
        monkeypatch.setattr(
            kind, "__call__", lambda self, images, generator, level=level: torch.full(images.shape, level)
        )


@pytest.mark.parametrize(
    ("clean", "adversarial"), [("weak", "weak"), ("strong", "strong"), ("weak", "strong"), ("strong", "weak")]
)
def test_teacher_and_clean_student_see_one_view_and_the_attack_starts_from_the_other(
    clean: str, adversarial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity_views(monkeypatch)
    level = {"weak": 0.25, "strong": 0.75}
    _, _, stage = stages_of(stage2__clean_view=clean, stage2__adversarial_view=adversarial)
    seen: dict[str, Tensor] = {}

    def attack(objective: Any, images: Tensor, **numbers: Any) -> Tensor:
        seen["attacked"] = images
        return images + 0.01

    replace_pgd(monkeypatch, attack)
    stage.teacher.register_forward_pre_hook(lambda module, inputs: seen.update(teacher=inputs[0]))
    stage.encoder.register_forward_pre_hook(lambda module, inputs: seen.update(student=inputs[0]))
    views, _ = step_of(stage)
    c, a = torch.full((4, 3, 12, 12), level[clean]), torch.full((4, 3, 12, 12), level[adversarial])
    assert torch.equal(seen["teacher"], c)
    assert torch.equal(seen["attacked"], a)
    assert torch.equal(seen["student"], torch.cat([c, a + 0.01]))
    assert (views.attacked is views.images) == (clean == adversarial)


def test_views_of_equal_strength_are_the_same_view_and_of_unequal_strength_independent_ones() -> None:
    both: dict[str, Any] = {}
    for clean, adversarial in (("weak", "weak"), ("weak", "strong"), ("strong", "strong")):
        _, _, stage = stages_of(stage2__clean_view=clean, stage2__adversarial_view=adversarial)
        both[f"{clean}/{adversarial}"] = step_of(stage)[0]
    assert torch.equal(both["weak/weak"].images, both["weak/strong"].images)  # the first draw is the clean view's
    assert not torch.equal(both["weak/strong"].attacked, both["strong/strong"].attacked)
    strong = both["strong/strong"].images
    assert strong.min() >= 0
    assert strong.max() <= 1  # pixels: no view normalises, so none does it twice


# Table 5: the projector


def networks(stage: PseudoATStage) -> tuple[Tensor, Tensor]:
    """Teacher's and student's outputs in eval mode for the same images."""
    images = pixels(8).float() / 255
    with torch.no_grad():
        student = nn.Sequential(deepcopy(stage.encoder), deepcopy(stage.projector)).eval()
        return deepcopy(stage.teacher).eval()(images), student(images)


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_the_projector_of_stage_1_stands_on_both_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, ssl, stage = stages_of(ssl=name, stage2__projector="stage1")
    assert digest(stage.projector.state_dict()) == digest(ssl.projector.state_dict())
    teacher, student = networks(stage)
    assert teacher.shape == (8, 5)
    assert torch.equal(teacher, student)
    objective: list[Any] = []

    def attack(value: Any, images: Tensor, **numbers: Any) -> Tensor:
        objective.append(value(images))
        modes.append(stage.projector.training)
        return images

    modes: list[bool] = []
    replace_pgd(monkeypatch, attack)
    frozen = digest(stage.teacher.state_dict())
    _, loss = step_of(stage)
    assert torch.allclose(objective[0], -torch.ones(4), atol=1e-5)  # still the teacher's copy: cosine 1
    assert modes == [False]  # attacked in eval mode, like the encoder
    assert stage.projector.training
    assert all(p.requires_grad for p in stage.projector.parameters())
    loss.total.backward()
    assert all(p.grad is not None for p in stage.projector.parameters())
    assert not any(p.requires_grad for p in stage.teacher.parameters())
    assert digest(stage.teacher.state_dict()) == frozen
    assert method.result() is stage.encoder


def test_without_projector_features_are_compared() -> None:
    _, ssl, stage = stages_of()
    assert isinstance(stage.projector, nn.Identity)
    teacher, student = networks(stage)
    assert teacher.shape == student.shape == (8, ssl.encoder.feature_dim)


def test_a_student_from_scratch_has_a_projector_from_scratch() -> None:
    _, ssl, stage = stages_of(student_init="scratch", stage2__projector="stage1")
    fresh, trained = stage.projector.state_dict(), ssl.projector.state_dict()
    assert fresh.keys() == trained.keys()
    assert all(not torch.equal(fresh[key], trained[key]) for key in fresh)
    bound = 1 / math.sqrt(ssl.encoder.feature_dim)  # of the framework's own initialisation
    assert float(fresh["0.weight"].abs().max()) <= bound
    _, _, again = stages_of(student_init="scratch", stage2__projector="stage1")
    assert digest(again.projector.state_dict()) == digest(fresh)


# All of it together


@pytest.mark.parametrize(
    "switches",
    [
        {"stage2__loss": "infonce.ce2gt._kl.ae2ce.", "stage2__contrastive": 1.0},
        {"stage2__clean_view": "strong", "stage2__adversarial_view": "weak"},
        {"stage2__projector": "stage1", "ssl": "barlow_twins"},
    ],
)
def test_switches_train_and_are_recorded(switches: dict[str, Any], tmp_path: Any) -> None:
    recipe = recipe_of(**switches)
    dump = recipe.model_dump(mode="json")["config"]
    for key, value in switches.items():
        section, _, name = key.partition("__")
        assert (dump[section][name] if name else dump[section]) == value
    assert recipe.pretraining_digest() != recipe_of().pretraining_digest()
    _, _, stage = stages_of(**switches)
    before = digest(stage.encoder.state_dict())
    progress = train(stage, pixels(8), Job(tmp_path, "o", 0, CPU))
    assert all(math.isfinite(value) for value in progress.history[0].values())
    assert digest(stage.encoder.state_dict()) != before


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("stage2__loss", "kl", "must be 'ce2gt_ae2ce', 'ae2gt_ae2ce'"),
        ("stage2__temperature", 0, "more than 0"),
        ("stage2__contrastive", -1, "at least 0"),
        ("stage2__clean_view", "medium", "'weak' or 'strong'"),
        ("stage2__adversarial_view", "medium", "'weak' or 'strong'"),
        ("stage2__projector", True, "'none' or 'stage1'"),
        ("stage2__lam", -1, "at least 0"),
        ("student_init", "random", "'teacher' or 'scratch'"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any, complaint: str) -> None:
    with pytest.raises(BenchError, match=rf"{key.replace('__', '[.]')}: .*{complaint}"):
        recipe_of(**{key: value})
