"""DeACL's ablations: what each switch changes, that nothing else does, and that off means as published."""

import math
from copy import deepcopy
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import pgd
from bench.data.views import StrongView, WeakView
from bench.errors import BenchError
from bench.method import METHODS, MethodContext, StepLoss
from bench.recipe import DatasetFacts, Recipe, Tier, build_recipe, load_tier
from bench.train import train
from bench.zoo import digest
from methods import deacl
from methods.deacl import DeACL, DeACLConfig, PseudoATSettings, PseudoATStage
from methods.deacl_losses import LOSS_FORMS, LossName, cosine, divergence, identification
from methods.frameworks import FRAMEWORKS, FrameworkName, FrameworkStage
from methods.losses import nt_xent

CPU = torch.device("cpu")
TOY = Tier(
    name="toy",
    summary="a network one channel wide",
    stages={"epochs": 1, "batch_size": 4, "warmup_epochs": 0, "precision": "fp32"},
    encoder={"width": 1},
)
FRAMEWORK_NAMES: tuple[FrameworkName, ...] = get_args(FrameworkName)
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)


def pixels(count: int) -> Tensor:
    shape = (count, 3, 12, 12)
    return torch.randint(0, 256, shape, generator=rng.generator(0, "pixels"), dtype=torch.uint8)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng.generator(seed, "embeddings"), dtype=torch.float64)


def recipe_of(tier: Tier = TOY, *, mirror: bool = True, **overrides: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 12, 12), "num_classes": 4, "train_images": 8},
        **{"test_images": 4, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3, "mirror": mirror},
    )
    return build_recipe(
        method="deacl",
        config_type=DeACLConfig,
        native_encoder=DeACL.native_encoder,
        dataset=facts,
        tier=tier,
        overrides={key.replace("__", "."): value for key, value in overrides.items()},
    )


def stages_of(**overrides: Any) -> tuple[DeACL, FrameworkStage, PseudoATStage]:
    """Both stages; the first is moved away from its start, so that copies can be told from fresh networks."""
    narrow = {"stage1__projector": [6, 5]}
    recipe = recipe_of(**{**narrow, **overrides})
    assert isinstance(recipe.config, DeACLConfig)
    method = DeACL(recipe.config)
    stages = method.stages(MethodContext(recipe, seed=0, device=CPU, images=pixels(8)))
    ssl = next(stages)
    assert isinstance(ssl, FRAMEWORKS[recipe.config.ssl].stage)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, tensor in enumerate(ssl.state_dict().values()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=rng.generator(i, "moved")))
    second = next(stages)
    assert isinstance(second, PseudoATStage)
    return method, ssl, second.train()  # type: ignore[return-value]


def step_of(stage: PseudoATStage) -> tuple[Any, Any]:
    views = stage.views(pixels(8)[:4], rng.generator(0, "views"), torch.arange(4))
    return views, stage(views)


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
        adversarial = pgd(
            lambda x: -F.cosine_similarity(student(x), target, dim=1),
            images,
            threat=self._threat,
            steps=5,
            step_size=0.25 * self._threat.eps,
            start="uniform",
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
        train(trained, pixels(8), folder=tmp_path / name, owner="o", seed=0, device=CPU)
        assert digest(trained.encoder.state_dict()) != before
    assert digest(stage.state_dict()) == digest(bare.state_dict())


# Table 9: the framework of stage 1


@pytest.mark.parametrize("name", FRAMEWORK_NAMES)
def test_stage_1_takes_the_settings_of_its_framework(name: FrameworkName) -> None:
    alone = METHODS.get(name)
    published = alone.config_type().plans()["stage1"]
    assert type(published) is FRAMEWORKS[name].settings
    assert DeACLConfig.parse({"ssl": name}, "config").stage1 == published
    for tier in (load_tier("paper"), load_tier("tiny")):
        recipe = recipe_of(tier, ssl=name)
        itself = build_recipe(
            method=name,
            config_type=alone.config_type,
            native_encoder=alone.native_encoder,
            dataset=recipe.dataset,
            tier=tier,
        )
        assert recipe.config.plans()["stage1"] == itself.config.plans()["stage1"]
        again = DeACLConfig.parse(recipe.config.model_dump(mode="json"), "again")
        assert again == recipe.config
        assert again.digest() == recipe.config.digest()


@pytest.mark.parametrize("name", FRAMEWORK_NAMES)
def test_the_online_backbone_is_the_teacher_and_starts_the_student(name: FrameworkName) -> None:
    method, ssl, second = stages_of(ssl=name, **({"stage1__predictor": [7]} if name == "byol" else {}))
    assert second.teacher is ssl.encoder
    assert digest(second.encoder.state_dict()) == digest(ssl.encoder.state_dict())
    assert second.encoder is not ssl.encoder
    assert method.result() is second.encoder
    if name in ("mocov2", "byol"):
        average = ssl.get_submodule("momentum.network.0")
        assert digest(average.state_dict()) != digest(second.encoder.state_dict())


def test_settings_reach_the_framework_and_only_its_own_keys_exist() -> None:
    config = recipe_of(ssl="byol", stage1__tau=[0.5, 0.75], stage1__view2__solarize_prob=0.5, mirror=False).config
    stage1 = config.model_dump()["stage1"]
    assert stage1["tau"] == (0.5, 0.75)
    assert (stage1["view2"]["solarize_prob"], stage1["view1"]["solarize_prob"]) == (0.5, 0.0)
    assert (stage1["view1"]["flip_prob"], stage1["view2"]["flip_prob"]) == (0.0, 0.0)  # digits must not be mirrored
    assert config.model_dump()["stage2"]["strong_view"]["flip_prob"] == 0.0
    with pytest.raises(BenchError, match=r"unknown setting 'stage1\.temperature'"):
        recipe_of(ssl="byol", stage1__temperature=0.5)
    with pytest.raises(BenchError, match=r"stage1\.x: Extra inputs"):
        DeACLConfig.parse({"ssl": "vicreg", "stage1": {"x": 1}}, "config")


def test_faults_of_both_stages_are_listed_together() -> None:
    with pytest.raises(BenchError) as fault:
        recipe_of(ssl="byol", stage1__lr=-1, stage1__tau=[2, 1], stage2__lr=-1, stage2__loss="kl")
    text = str(fault.value)
    assert "4 faults" in text
    assert all(f"{key}: " in text for key in ("stage1.lr", "stage1.tau.0", "stage2.lr", "stage2.loss"))
    assert "BYOL" not in text  # no list of what it would have been in another framework


def test_an_unknown_framework_is_one_fault() -> None:
    allowed = r"'simclr', 'mocov2', 'byol', 'barlow_twins' or 'vicreg' \(given: 'dino'\)$"
    with pytest.raises(BenchError, match=rf"^recipe deacl/toy: ssl: Input should be {allowed}"):
        recipe_of(ssl="dino")
    with pytest.raises(BenchError, match=rf"^config: ssl: Input should be {allowed}"):
        DeACLConfig.parse({"ssl": "dino", "stage1": {"lr": -1}}, "config")
    with pytest.raises(ValidationError, match="instance of BYOLStageSettings"):
        DeACLConfig(ssl="byol", stage1=FRAMEWORKS["vicreg"].settings())


# The loss forms

READINGS: dict[str, tuple[str, str, str | None]] = {
    "ce2gt_ae2ce": ("c", "S", "S"),
    "ae2gt_ae2ce": ("a", "S", "S"),
    "pgd": ("a", "S", None),
    "ae2gt_kl": ("a", "K", None),
    "ae2gt_infonce": ("a", "N", None),
    "ce2gt_ae2ce_kl": ("c", "K", "K"),
    "ce2gt_ae2ce_infonce": ("c", "N", "N"),
    "cs.ce2gt._kl.ae2ce.": ("c", "S", "K"),
    "kl.ce2gt._cs.ae2ce.": ("c", "K", "S"),
    "cs.ce2gt._infonce.ae2ce.": ("c", "S", "N"),
    "infonce.ce2gt._cs.ae2ce.": ("c", "N", "S"),
    "infonce.ce2gt._kl.ae2ce.": ("c", "N", "K"),
    "kl.ce2gt._infonce.ae2ce.": ("c", "K", "N"),
}


def slow(measure: str, u: Tensor, v: Tensor, temperature: float) -> float:
    """S, K or N in loops: u is pulled towards v."""
    cosines = [[float(a @ b / (a.norm() * b.norm())) for b in v] for a in u]
    if measure == "S":
        return -sum(cosines[i][i] for i in range(len(u))) / len(u)
    total = 0.0
    for i in range(len(u)):
        if measure == "N":
            scores = [math.exp(value / temperature) for value in cosines[i]]
            total -= math.log(scores[i] / sum(scores))
        else:
            of_u, of_v = ([math.exp(float(x) / temperature) for x in row[i]] for row in (u, v))
            p, q = [x / sum(of_v) for x in of_v], [x / sum(of_u) for x in of_u]
            total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total / len(u)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_three_measures_against_loops(temperature: float) -> None:
    u, v = embeddings(5, 4), embeddings(5, 4, seed=1)
    for name, measure in (("S", cosine), ("K", divergence), ("N", identification)):
        assert float(measure(u, v, temperature)) == pytest.approx(slow(name, u, v, temperature), abs=1e-10)
        assert torch.autograd.gradcheck(
            lambda a, b, f=measure: f(a, b, temperature),
            (u.clone().requires_grad_(), v.clone().requires_grad_()),
        )
    assert float(divergence(u, u, temperature)) == pytest.approx(0, abs=1e-12)
    assert abs(float(divergence(u, v, temperature) - divergence(v, u, temperature))) > 1e-3
    same = torch.ones(5, 4, dtype=torch.float64)
    assert float(identification(same, same, temperature)) == pytest.approx(math.log(5), abs=1e-12)


def test_all_thirteen_names_are_composed() -> None:
    assert len(LOSS_NAMES) == 13
    assert set(LOSS_NAMES) == set(LOSS_FORMS) == set(READINGS)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_form_is_what_its_name_says(name: LossName) -> None:
    settings = PseudoATSettings(loss=name, temperature=0.3, lam=1.7)
    _, _, stage = stages_of()
    stage.plan = settings
    c, a, z = (embeddings(5, 4, seed=i).requires_grad_(i < 2) for i in range(3))
    pulled, first, second = READINGS[name]
    loss = stage._loss(c, a, z)
    clean, adversarial = c.detach(), a.detach()
    terms = {"distance": slow(first, clean if pulled == "c" else adversarial, z, 0.3)}
    if second is not None:
        terms["robustness"] = slow(second, adversarial, clean, 0.3)
    assert {key: float(value) for key, value in loss.scalars.items()} == pytest.approx(terms, abs=1e-10)
    expected = terms["distance"] + 1.7 * terms.get("robustness", 0.0)
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-10)
    loss.total.backward()
    assert a.grad is not None
    assert (c.grad is None) == (pulled == "a" and second is None)  # never detached where it occurs


def test_no_loss_form_changes_the_attack_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = []
    original = pgd

    def recording(*args: Any, **kwargs: Any) -> Tensor:
        attacked.append(original(*args, **kwargs))
        return attacked[-1]

    monkeypatch.setattr(deacl, "pgd", recording)
    states = []
    for name in ("ce2gt_ae2ce", "pgd", "ce2gt_ae2ce_infonce"):
        _, _, stage = stages_of(stage2__loss=name)
        step_of(stage)
        states.append(digest(stage.encoder.state_dict()))  # running statistics: of [x; x'] in all forms
    assert all(torch.equal(attacked[0], x) for x in attacked[1:])
    assert len(set(states)) == 1


# Table 6: collapse prevention


def test_the_contrastive_term_is_nt_xent_of_clean_and_adversarial_features() -> None:
    _, _, stage = stages_of(stage2__contrastive=0.5, stage2__temperature=0.3)
    c, a, z = (embeddings(5, 4, seed=i) for i in range(3))
    loss = stage._loss(c, a, z)
    term = float(nt_xent(c, a, 0.3))
    assert float(loss.scalars["contrastive"]) == pytest.approx(term, abs=1e-12)
    assert float(loss.total) == pytest.approx(
        float(loss.scalars["distance"] + 2 * loss.scalars["robustness"]) + 0.5 * term, abs=1e-12
    )
    _, _, without = stages_of()
    assert "contrastive" not in without._loss(c, a, z).scalars


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

    monkeypatch.setattr(deacl, "pgd", attack)
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
    monkeypatch.setattr(deacl, "pgd", attack)
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
    progress = train(stage, pixels(8), folder=tmp_path, owner="o", seed=0, device=CPU)
    assert all(math.isfinite(value) for value in progress.history[0].values())
    assert digest(stage.encoder.state_dict()) != before


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("stage2__loss", "kl", "Input should be 'ce2gt_ae2ce', 'ae2gt_ae2ce'"),
        ("stage2__temperature", 0, "greater than 0"),
        ("stage2__contrastive", -1, "greater than or equal to 0"),
        ("stage2__clean_view", "medium", "'weak' or 'strong'"),
        ("stage2__adversarial_view", "medium", "'weak' or 'strong'"),
        ("stage2__projector", True, "'none' or 'stage1'"),
        ("stage2__lam", -1, "greater than or equal to 0"),
        ("student_init", "random", "'teacher' or 'scratch'"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any, complaint: str) -> None:
    with pytest.raises(BenchError, match=rf"{key.replace('__', '[.]')}: .*{complaint}"):
        recipe_of(**{key: value})
