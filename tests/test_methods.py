"""Methods: every registered one trains, and DeACL's second stage is the paper's, step by step."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from attacked_images import replace_pgd
from torch import Tensor, nn
from torch.nn import functional as F
from toy_runs import Listener

from bench import rng
from bench.attack import PGD, Objective
from bench.job import Job
from bench.method import METHODS, Method, MethodContext, Stage
from bench.nn import Encoder
from bench.recipe import DatasetFacts, Threat, Tier, build_recipe
from bench.train import train
from methods.losses import negative_cosine

CPU = torch.device("cpu")
EPS = 0.1

# As small as every method allows: two steps of eight images of 8 x 8 pixels.
TOY = Tier(
    name="toy",
    summary="",
    stages={"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "precision": "fp32"},
    encoder={"width": 2},
)


def make_images(count: int = 16) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=rng.generator(0, "images")).to(torch.uint8)


def make_context(method: str, **overrides: Any) -> MethodContext:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "0" * 64, "image_shape": (3, 8, 8), "num_classes": 4, "train_images": 16},
        **{"test_images": 16, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    cls = METHODS.get(method)
    recipe = build_recipe(
        method=method,
        config_type=cls.config_type,
        native_encoder=cls.native_encoder,
        dataset=facts,
        tier=TOY,
        overrides={key.replace("__", "."): value for key, value in overrides.items()},
    )
    return MethodContext(recipe, seed=0, device=CPU, images=make_images())


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Every method


def test_the_methods_of_this_package_are_registered() -> None:
    assert {"deacl", "simclr"} <= set(METHODS)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_says_who_it_is(name: str) -> None:
    info = METHODS.get(name).info
    assert info.bibtex.lstrip().startswith("@")
    assert f"{{{info.year}}}" in info.bibtex
    assert info.paper
    assert info.title
    assert info.summary


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_trains_two_steps_and_hands_over_an_encoder(name: str, precision: str, tmp_path: Path) -> None:
    plans = METHODS.get(name).config_type().plans()
    small = {"precision": precision, "steps": 1, "projector": (8, 4)}  # all steps of an attack are alike
    changes: dict[str, Any] = {}
    for section, plan in plans.items():
        changes |= {f"{section}.{k}": v for k, v in small.items() if type(getattr(plan, k, None)) is type(v)}
    context = make_context(name, **changes)
    method: Method = METHODS.get(name)(context.recipe.config)
    names = []
    for stage in method.stages(context):
        before = state_of(stage.encoder)
        progress = train(stage, context.images, Job(tmp_path, "toy", 0, CPU, monitor := Listener()))
        assert not any("no saved state" in note or "a gradient for" in note for note in monitor.notes)
        (epoch,) = progress.history
        assert all(torch.tensor(value).isfinite() for value in epoch.values()), (stage.name, epoch)
        assert progress.cost.images == 16
        moved = state_of(stage.encoder)
        same = [torch.equal(value, moved[key]) for key, value in before.items() if value.ndim == 4]
        assert set(same) == {False}, stage.name
        assert all(value.isfinite().all() for value in moved.values())
        names.append(stage.name)
    assert len(names) == len(set(names)) == len(context.recipe.config.plans())
    encoder = method.result().eval()
    features = torch.no_grad()(encoder)(context.images.float() / 255)
    assert features.shape == (16, encoder.feature_dim)
    assert features.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 0  # no constant
    assert not any(isinstance(value, nn.Linear) for value in encoder.modules())  # heads stay behind


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_starts_from_the_seed_alone(name: str) -> None:
    """Whatever the process drew before: the same seed gives the same stages, another seed others."""
    context = make_context(name)

    def first_weights() -> dict[str, Tensor]:
        method: Method = METHODS.get(name)(context.recipe.config)
        stage: nn.Module | None = next(iter(method.stages(context)), None)
        return state_of(stage or method.result())

    torch.manual_seed(0)
    first = first_weights()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert same(first_weights(), first)
    assert torch.equal(torch.get_rng_state(), before)


# DeACL


class Recorded:
    """Stands in for the attack engine: keeps what it was asked, and returns images given beforehand."""

    def __init__(self, adversarial: Tensor) -> None:
        self.adversarial = adversarial
        self.numbers: dict[str, Any] = {}
        self.objective: Objective | None = None

    def __call__(self, objective: Objective, images: Tensor, **numbers: Any) -> Tensor:
        self.objective, self.numbers, self.images = objective, numbers, images
        return self.adversarial


@torch.no_grad()
def unsettle(encoder: Encoder, seed: int = 5) -> None:
    """Move all of ``encoder`` as if it had been trained, its batch-norm statistics too."""
    generator = rng.generator(seed, "unsettle")
    for name, tensor in encoder.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point() and name.startswith("backbone"):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))


class Stages:
    """DeACL's two stages, the first "trained" by :func:`unsettle` before the second was asked for."""

    def __init__(self, **overrides: Any) -> None:
        self.context = make_context("deacl", **overrides)
        self.method: Method = METHODS.get("deacl")(self.context.recipe.config)
        stages = self.method.stages(self.context)
        self.ssl = next(stages)
        unsettle(self.ssl.encoder)
        self.trained = state_of(self.ssl.encoder)
        self.second: Stage = next(stages)
        assert next(stages, None) is None

    def teacher(self) -> Encoder:
        teacher = self.second.get_submodule("teacher")
        assert isinstance(teacher, Encoder)
        return teacher

    def views(self, seed: int = 0) -> Any:
        generator = rng.generator(seed, "views")
        return self.second.views(self.context.images[:8], generator, torch.arange(8))


@pytest.fixture
def stages() -> Stages:
    """A student that differs from its teacher, in float64 and in training, as in the middle of stage 2."""
    found = Stages()
    unsettle(found.second.encoder, seed=6)
    found.second.double().train()
    return found


def double_views(stages: Stages) -> tuple[Tensor, torch.Generator, Any]:
    views = stages.views()
    views = views._make(part.double() if isinstance(part, Tensor) else part for part in views)
    return views.images, views.generator, views


def shifted(images: Tensor) -> Tensor:
    """Some x' within the threat model."""
    noise = torch.rand(images.shape, generator=rng.generator(3, "x'"), dtype=images.dtype)
    return (images + EPS * (2 * noise - 1)).clamp(0, 1)


def slow_equation_4(
    student: Encoder, teacher: Encoder, images: Tensor, adversarial: Tensor, *, detached: bool = False
) -> Tensor:
    """Equation 4 in loops: - sum_i cos(f2(x_i), z_i) / B - 2 sum_i cos(f2(x'_i), f2(x_i)) / B."""
    targets = deepcopy(teacher).eval()(images).detach()
    features = student.train()(torch.cat([images, adversarial]))  # batch statistics of the mixed batch
    total = torch.zeros((), dtype=images.dtype)
    for i in range(len(images)):
        clean, attacked = features[i], features[len(images) + i]
        to_target = clean @ targets[i] / (clean @ clean).sqrt() / (targets[i] @ targets[i]).sqrt()
        towards = clean.detach() if detached else clean
        to_clean = attacked @ towards / (attacked @ attacked).sqrt() / (towards @ towards).sqrt()
        total = total - to_target / len(images) - 2 * to_clean / len(images)
    return total


def gradients(loss: Tensor, encoder: Encoder) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(encoder.parameters()))])


def test_the_loss_is_equation_4(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, views = double_views(stages)
    adversarial = shifted(images)
    replace_pgd(monkeypatch, Recorded(adversarial))
    student = deepcopy(stages.second.encoder)
    expected = slow_equation_4(student, stages.teacher(), images, adversarial)
    loss = stages.second(views)
    assert float(loss.total.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    assert loss.total.dtype == torch.float64
    parts = {name: float(value) for name, value in loss.scalars.items()}
    assert parts["distance"] + 2 * parts["robustness"] == pytest.approx(float(loss.total.detach()), abs=1e-12)
    # The same network in two forward passes, of the clean and of the adversarial batch, is another method.
    apart = deepcopy(student).train()
    separate = -F.cosine_similarity(apart(adversarial), apart(images)).mean()
    assert abs(float(separate.detach()) - parts["robustness"]) > 1e-4


def test_the_clean_branch_is_pulled_too(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, views = double_views(stages)
    adversarial = shifted(images)
    replace_pgd(monkeypatch, Recorded(adversarial))
    teacher, student = stages.teacher(), stages.second.encoder
    found = gradients(stages.second(views).total, student)
    expected, detached = (
        gradients(slow_equation_4(twin, teacher, images, adversarial, detached=detached), twin)
        for detached, twin in ((False, deepcopy(student)), (True, deepcopy(student)))
    )
    scale = float(expected.norm())
    assert scale > 1e-3
    assert float((found - expected).norm()) < 1e-10 * scale
    assert float((found - detached).norm()) > 0.01 * scale


def test_lambda_weighs_the_adversarial_term(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = []
    for lam in (0.0, 2.0, 3.0):
        stages = Stages(stage2__lam=lam)
        unsettle(stages.second.encoder, seed=6)
        views = stages.views()
        replace_pgd(monkeypatch, Recorded(shifted(views.images)))
        loss = stages.second.train()(views)
        totals.append(float(loss.total.detach()))
        assert totals[-1] == pytest.approx(float(loss.scalars["distance"] + lam * loss.scalars["robustness"]))
    assert (totals[1] - totals[0]) / 2 == pytest.approx(totals[2] - totals[1], abs=1e-5)
    assert abs(totals[1] - totals[0]) > 0.01


def test_the_teacher_learns_nothing(stages: Stages) -> None:
    before = state_of(stages.teacher())
    stages.second(double_views(stages)[2]).total.backward()
    assert same(state_of(stages.teacher()), before)
    assert all(p.grad is None for p in stages.teacher().parameters())
    assert all(p.grad is not None for p in stages.second.encoder.parameters())
    optimised = [name for name, p in stages.second.named_parameters() if p.requires_grad]
    assert optimised
    assert all(name.startswith("encoder.") for name in optimised)


def test_batch_norm_moves_once_a_step_over_the_mixed_batch(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, views = double_views(stages)
    adversarial = shifted(images)
    replace_pgd(monkeypatch, Recorded(adversarial))
    encoder = stages.second.encoder
    before, stem = state_of(encoder), encoder.get_submodule("backbone.conv1")
    maps = stem(encoder.normalise(torch.cat([images, adversarial])))
    expected = 0.9 * before["backbone.bn1.running_mean"] + 0.1 * maps.mean(dim=(0, 2, 3))
    stages.second(views)
    after = state_of(encoder)
    assert torch.allclose(after["backbone.bn1.running_mean"], expected, atol=1e-12)
    counters = [name for name in before if name.endswith("num_batches_tracked")]
    assert len(counters) == 20
    assert all(int(after[name] - before[name]) == 1 for name in counters)


def test_the_attack_itself_leaves_no_trace_in_the_student(stages: Stages) -> None:
    """With the real attack, five steps long, a step still counts one batch, and the student stays in training."""
    before = state_of(stages.second.encoder)
    stages.second(double_views(stages)[2])
    after = state_of(stages.second.encoder)
    counters = [name for name in before if name.endswith("num_batches_tracked")]
    assert all(int(after[name] - before[name]) == 1 for name in counters)
    assert all(torch.equal(after[name], before[name]) for name, _ in stages.second.encoder.named_parameters())
    assert stages.second.encoder.training
    assert all(p.grad is None for p in stages.second.encoder.parameters())


def test_the_attack_pushes_the_student_away_from_the_teachers_target(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, generator, views = double_views(stages)
    recorded = Recorded(images)
    replace_pgd(monkeypatch, recorded)
    student, teacher = (deepcopy(part).eval() for part in (stages.second.encoder, stages.teacher()))
    stages.second(views)
    with torch.no_grad():
        target, own = teacher(images), student(images)
        x = shifted(images)
        expected = negative_cosine(student(x), target)
        assert recorded.objective is not None
        assert torch.allclose(recorded.objective(x), expected, atol=1e-10)
        assert not torch.allclose(negative_cosine(student(x), own), expected, atol=1e-3)  # TRADES would aim there
    numbers = recorded.numbers
    assert torch.equal(recorded.images, images)
    assert numbers["threat"] == Threat(norm="linf", eps=EPS)
    assert numbers["attack"] == PGD(steps=5, step_size=0.25, start="uniform")
    assert numbers["generator"] is generator


def test_the_attack_is_pgd_as_published(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """x0 = x + U(-eps, eps) unclamped; five times: a step of eps / 4 along the sign, then the ball, then [0, 1]."""
    images, generator, views = double_views(stages)
    student, teacher = (deepcopy(part).eval() for part in (stages.second.encoder, stages.teacher()))
    target = teacher(images).detach()
    again = torch.Generator()
    again.set_state(generator.get_state())
    noise = torch.rand(images.shape, generator=again, dtype=torch.float64)
    x = images + EPS * (2 * noise - 1)
    start = x
    for _ in range(5):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-F.cosine_similarity(student(x), target).sum(), x)
        x = torch.minimum(torch.maximum(x + EPS / 4 * gradient.sign(), images - EPS), images + EPS).clamp(0, 1)
    seen: list[Tensor] = []
    handle = stages.second.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    stages.second(views)
    handle.remove()
    clean, adversarial = seen[-1].chunk(2)  # before it, those of the attack's copy of the student
    assert torch.equal(clean, images)
    assert torch.allclose(adversarial, x, atol=1e-9)
    assert float((adversarial - images).abs().max()) <= EPS
    assert 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1
    with torch.no_grad():
        risen = [float(negative_cosine(student(at), target).mean()) for at in (images, start, adversarial)]
    assert risen[2] > risen[1] + 0.01
    assert risen[2] > risen[0] + 0.01


def test_the_teacher_is_stage_one_as_it_ended_and_the_student_its_copy() -> None:
    stages = Stages()
    assert same(state_of(stages.teacher()), stages.trained)
    assert same(state_of(stages.second.encoder), stages.trained)
    assert stages.method.result() is stages.second.encoder
    shared = {p.data_ptr() for p in stages.teacher().parameters()} & {
        p.data_ptr() for p in stages.second.encoder.parameters()
    }
    assert not shared
    assert all(p.requires_grad for p in stages.second.encoder.parameters())


def test_a_student_from_scratch_owes_nothing_to_the_teacher() -> None:
    stages = Stages(student_init="scratch")
    assert same(state_of(stages.teacher()), stages.trained)
    fresh = state_of(stages.second.encoder)
    assert same(fresh, state_of(stages.context.new_encoder("student")))
    assert not torch.equal(fresh["backbone.conv1.weight"], stages.trained["backbone.conv1.weight"])
    untrained = stages.context.new_encoder("ssl").state_dict()
    assert not torch.equal(fresh["backbone.conv1.weight"], untrained["backbone.conv1.weight"])
    assert all(int(value) == 0 for name, value in fresh.items() if name.endswith("num_batches_tracked"))


def test_training_stage_two_leaves_the_teacher_as_it_was(tmp_path: Path) -> None:
    stages = Stages()
    train(stages.second, stages.context.images, Job(tmp_path, "toy", 0, CPU))
    assert same(state_of(stages.teacher()), stages.trained)
    assert not same(state_of(stages.second.encoder), stages.trained)


def test_both_branches_of_simclr_share_one_batch_of_statistics() -> None:
    """Two strong views of each image in one forward pass: one update of the running statistics."""
    context = make_context("simclr")
    method: Method = METHODS.get("simclr")(context.recipe.config)
    stage = next(iter(method.stages(context))).train()
    views = stage.views(context.images[:8], rng.generator(0, "views"), torch.arange(8))
    assert views.shape == (16, 3, 8, 8)
    assert not torch.equal(views[:8], views[8:])
    stage(views)
    state = stage.encoder.state_dict()
    assert all(int(value) == 1 for name, value in state.items() if name.endswith("num_batches_tracked"))
