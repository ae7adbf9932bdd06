"""AutoAttack: right on models whose robustness is known, resumable, and not believed blindly."""

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import AutoAttackResult, AutoAttackState, Threat, auto_attack
from bench.attack.official import Flags, OfficialAutoAttack
from bench.errors import BenchError
from bench.recipe import Norm

CLASSES, COUNT = 4, 24
LINF, L2 = Threat(eps=0.05), Threat(norm="l2", eps=0.4)
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")


class Linear(nn.Module):
    """Logits W (x - 1/2): the distance from an image to each decision boundary has a closed form."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 192, generator=rng.generator(0, "weight")))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


class Data(NamedTuple):
    images: Tensor
    labels: Tensor


def data(classes: int = CLASSES) -> Data:
    """Images in [0.3, 0.7] at all distances from the linear model's boundaries: no ball meets 0 or 1."""
    weight = Linear(classes).weight.detach()
    labels = torch.arange(COUNT) % classes
    towards = (weight[labels] - weight.mean(0)).sign()
    noise = 0.01 * torch.randn(COUNT, 192, generator=rng.generator(0, "images"))
    images = (0.5 + torch.linspace(0, 0.12, COUNT)[:, None] * towards + noise).view(COUNT, 3, 8, 8)
    assert images.min() >= 0.3
    assert images.max() <= 0.7
    return Data(images, labels)


def boundary_distance(norm: Norm) -> Tensor:
    """Return how far each image is from the nearest wrong class, negative if it is misclassified: [COUNT].

    The margin to class j is (w_y - w_j) (x - 1/2); a step of length d in l-inf (l2) lowers it by at most
    d times the l1 (l2) norm of w_y - w_j.
    """
    images, labels = data()
    weight = Linear().weight.detach().double()
    difference = weight[labels][:, None] - weight  # [COUNT, K, D]
    margin = (difference * (images.double() - 0.5).flatten(1)[:, None]).sum(2)
    of_class: Tensor = margin / torch.linalg.vector_norm(difference, ord=1 if norm == "linf" else 2, dim=2)
    of_class[torch.arange(COUNT), labels] = torch.inf
    return of_class.amin(1)


def run(model: nn.Module | None = None, **changes: Any) -> AutoAttackResult:
    images, labels = data()
    numbers: dict[str, Any] = {"threat": LINF, "num_classes": CLASSES, "seed": 0, "batch_size": 7}
    return auto_attack(
        model or Linear(),
        changes.pop("images", images),
        changes.pop("labels", labels),
        **(numbers | changes),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On images this small threads only wait for each other, for a minute where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the attacks' iterations where a test is about everything but their strength."""
    construct = OfficialAutoAttack.__init__

    def shortened(self: OfficialAutoAttack, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        library = self._adversary
        library.apgd.n_iter = library.apgd_targeted.n_iter = library.fab.n_iter = 5
        library.square.n_queries = 30

    monkeypatch.setattr(OfficialAutoAttack, "__init__", shortened)


# What it finds


def test_outcomes_on_a_linear_model_are_those_of_the_closed_form() -> None:
    distance = boundary_distance("linf")
    robust = distance > LINF.eps
    assert 8 < robust.sum() < 16
    assert ((distance / LINF.eps - 1).abs() > 0.01).all()  # no image too near the verge to call
    state = torch.get_rng_state()
    result = run(batch_size=COUNT)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(result.clean, distance > 0)
    assert not result.clean.all()
    assert torch.equal(result.robust, robust)
    assert result.warnings == ()
    assert (result.package, result.package_version) == ("pyautoattack", pyautoattack.__version__)

    images, labels = data()
    assert LINF.distance(result.x_adv, images).max() <= LINF.eps + 1e-6
    broken = result.clean & ~result.robust
    assert torch.equal(result.x_adv[~broken], images[~broken])
    assert torch.equal(Linear()(result.x_adv).argmax(1) == labels, result.robust)


def test_l2_outcomes_on_a_linear_model_are_those_of_the_closed_form(quick: None) -> None:
    distance = boundary_distance("l2")
    robust = distance > L2.eps
    assert 8 < robust.sum() < 20
    assert ((distance / L2.eps - 1).abs() > 0.005).all()
    result = run(threat=L2)
    assert torch.equal(result.robust, robust)
    assert L2.distance(result.x_adv, data().images).max() <= L2.eps + 1e-5


@pytest.mark.usefixtures("quick")
def test_an_attack_more_never_raises_the_number_of_survivors() -> None:
    with rng.scoped(0, "net"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    images = torch.rand(COUNT, 3, 8, 8, generator=rng.generator(0, "images"))
    labels = net.eval()(images).argmax(1)
    result = run(net, images=images, labels=labels, num_classes=5, threat=Threat(eps=0.02))
    assert tuple(result.survivors) == ATTACKS
    for before, after in pairwise([result.clean, *result.survivors.values(), result.robust]):
        assert not (after & ~before).any()
    assert result.clean.all()
    assert 0 < result.robust.sum() < COUNT


@pytest.mark.usefixtures("quick")
def test_the_model_comes_back_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), Linear()).train()
    net[0].eval()
    net[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run(net)
    assert [part.training for part in net.modules()] == [True, False, True]
    assert [parameter.requires_grad for parameter in net.parameters()] == [False, True, True]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.usefixtures("quick")
def test_memory_format_does_not_matter() -> None:
    result = run(images=data().images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(result.x_adv, run().x_adv)


def test_no_attack_runs_when_nothing_is_left_to_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", None)
    result = run(labels=Linear()(data().images).argmin(1))
    assert not result.clean.any()
    assert tuple(result.survivors) == ATTACKS
    assert not result.robust.any()


def official(targets: int = 9) -> OfficialAutoAttack:
    return OfficialAutoAttack(
        Linear(), threat=LINF, targets=targets, version="standard", device=torch.device("cpu"), flags=Flags()
    )


def test_the_attacks_run_with_the_librarys_standard_numbers() -> None:
    def numbers(adversary: Any) -> dict[str, Any]:
        parts = {name: getattr(adversary, name).__dict__ for name in ("apgd", "apgd_targeted", "fab", "square")}
        skipped = ("model", "predict", "logger", "seed")
        return {
            f"{name}.{key}": value for name, part in parts.items() for key, value in part.items() if key not in skipped
        }

    theirs = numbers(
        pyautoattack.AutoAttack(Linear(), norm="Linf", eps=0.05, version="standard", device=torch.device("cpu"))
    )
    assert numbers(official()._adversary) == theirs
    assert official().attacks == ATTACKS
    fewer = numbers(official(targets=3)._adversary)
    assert {key for key in theirs if theirs[key] != fewer[key]} == {
        "apgd_targeted.n_target_classes",
        "fab.n_target_classes",
    }
    expected = {"apgd.n_restarts": 1, "apgd.n_iter": 100, "fab.n_restarts": 1, "square.n_queries": 5000}
    assert expected.items() <= theirs.items()


@pytest.mark.parametrize(("classes", "targets"), [(4, 3), (10, 9), (12, 9)])
@pytest.mark.usefixtures("quick")
def test_targets_are_nine_or_every_wrong_class(classes: int, targets: int) -> None:
    images, labels = data(classes)
    result = run(Linear(classes), images=images, labels=labels, num_classes=classes)
    assert result.targets == targets
    assert result.warnings == ()  # the library would flag more targets than wrong classes


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_than_four_classes_are_refused(classes: int) -> None:
    with pytest.raises(BenchError, match=rf"at least 4 classes; here are {classes}.*evaluate.autoattack=false"):
        run(Linear(classes), num_classes=classes)


class OriginalAutoAttack:
    """The authors' own package, whose constructor and evaluation differ from the published fork's."""

    def __init__(
        self,
        model: nn.Module,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: tuple[str, ...] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str = "cuda",
        log_path: str | None = None,
    ) -> None:
        assert not verbose
        self._fork = pyautoattack.AutoAttack(model, norm=norm, eps=eps, seed=seed, version=version, device=device)
        self.apgd, self.apgd_targeted, self.fab = self._fork.apgd, self._fork.apgd_targeted, self._fork.fab
        self.square, self.attacks_to_run, self.seed = self._fork.square, self._fork.attacks_to_run, seed
        self.logger: Any = None

    def run_standard_evaluation(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> Tensor:
        self.logger.log("Warning: said by the original")
        self.logger.log("robust accuracy: 10.00%")
        self._fork.attacks_to_run, self._fork.seed = self.attacks_to_run, self.seed
        x_adv: Tensor = self._fork.run_standard_evaluation(x_orig, y_orig, batch_size=bs)[0]
        return x_adv


@pytest.mark.usefixtures("quick")
def test_the_original_package_is_used_where_it_alone_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run()
    original = ModuleType("autoattack")
    original.AutoAttack = OriginalAutoAttack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", original)
    monkeypatch.setitem(sys.modules, "autoattack.checks", import_module("pyautoattack.checks"))
    monkeypatch.setattr("bench.attack.official.find_spec", lambda name: name == "autoattack" or None)
    monkeypatch.setattr("bench.attack.official.metadata.version", {"autoattack": "0.1"}.__getitem__)
    result = run()
    assert (result.package, result.package_version) == ("autoattack", "0.1")
    assert torch.equal(result.x_adv, expected.x_adv)
    assert result.warnings == ("said by the original",)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.attack.official.find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"pip install pyautoattack.*evaluate.autoattack=false"):
        run()


# Stopping and going on


def same(result: AutoAttackResult, reference: AutoAttackResult) -> bool:
    outcomes = zip(
        [result.clean, result.robust, *result.survivors.values()],
        [reference.clean, reference.robust, *reference.survivors.values()],
        strict=True,
    )
    return all(torch.equal(a, b) for a, b in outcomes) and result.warnings == reference.warnings


class Killed(BaseException):
    """As abrupt as a signal: nothing catches it."""


def killed_after(states: int, saved: list[str]) -> Callable[[AutoAttackState], None]:
    def on_state(state: AutoAttackState) -> None:
        # Sorted, as a careful writer of JSON may do: the order of the keys must carry no meaning.
        saved.append(json.dumps(state.model_dump(mode="json"), sort_keys=True))
        if len(saved) == states:
            raise Killed

    return on_state


class Probabilities(Linear):
    """The mistake AutoAttack flags most often: softmax where logits belong."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mul(0.2).softmax(1)


@pytest.mark.parametrize("model", [Linear, Probabilities])
@pytest.mark.usefixtures("quick")
def test_a_killed_run_continues_to_the_same_result(model: Callable[[], nn.Module]) -> None:
    states: list[str] = []
    progress: list[tuple[str, int, int]] = []
    reference = run(
        model(),
        on_state=killed_after(0, states),
        on_progress=lambda attack, done, total: progress.append((attack, done, total)),
    )
    begun = [attack for attack, done, _ in progress if done == 0]
    assert begun == list(ATTACKS)
    assert len(states) == len(progress) - len(begun) > len(ATTACKS)
    assert all(0 <= done <= total <= COUNT for _, done, total in progress)
    for kill in range(1, len(states) + 1):
        saved: list[str] = []
        with pytest.raises(Killed):
            run(model(), on_state=killed_after(kill, saved))
        assert saved == states[:kill]
        rest: list[str] = []
        state = AutoAttackState.parse(json.loads(saved[-1]), "state")
        result = run(model(), state=state, on_state=killed_after(0, rest))
        assert same(result, reference)
        assert rest == states[kill:]
        broken_now = (result.x_adv != data().images).flatten(1).any(1)
        assert torch.equal(result.x_adv[broken_now], reference.x_adv[broken_now])


@pytest.mark.usefixtures("quick")
def test_the_seed_decides_the_images_and_the_global_state_does_not() -> None:
    reference = run().x_adv
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(run().x_adv, reference)
    assert not torch.equal(run(seed=1).x_adv, reference)


def test_every_attack_and_batch_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def evaluation(self: Any, x: Tensor, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        seeds.append(self.seed)
        return x, y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", evaluation)
    run(batch_size=7)
    assert len(seeds) == len(set(seeds)) == len(ATTACKS) * 4  # 23 images are correct: four batches
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.usefixtures("quick")
def test_a_state_of_other_images_is_refused() -> None:
    states: list[str] = []
    with pytest.raises(Killed):
        run(on_state=killed_after(1, states))
    state = AutoAttackState.parse(json.loads(states[0]), "state")
    images, labels = data()
    with pytest.raises(BenchError, match=r"about 24 images, this run has 20. Delete"):
        run(images=images[:20], labels=labels[:20], state=state)


# What is not believed


def lie(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], Tensor]) -> None:
    """Let the library return ``answer(images)`` for every attack."""

    def evaluation(_: Any, images: Tensor, labels: Tensor, **__: Any) -> tuple[Tensor, Tensor]:
        return answer(images), labels

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", evaluation)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x + 2 * LINF.eps,
        lambda x: (x - LINF.eps - 1e-5).clamp(0, 1),
        lambda x: x * torch.nan,
        lambda x: torch.where(x == x.max(), torch.nan, x),
    ],
    ids=["far", "just too far", "nan", "one nan"],
)
def test_an_image_outside_the_ball_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], Tensor]
) -> None:
    lie(monkeypatch, answer)
    with pytest.raises(BenchError, match=r"outside the threat model: apgd-ce of pyautoattack"):
        run()


def test_an_image_outside_the_pixel_range_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lie(monkeypatch, lambda x: x - 0.04)
    with pytest.raises(BenchError, match=r"outside the threat model.*pixels in \[-0.04"):
        run(images=data().images.mul(0).add(Linear().weight.detach()[data().labels].view(COUNT, 3, 8, 8) > 0))


def test_outcomes_come_from_the_model_and_not_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    lie(monkeypatch, lambda x: x)  # says that it broke images, and gives them back unchanged
    result = run()
    assert torch.equal(result.robust, result.clean)


def test_logits_that_are_not_finite_are_refused() -> None:
    broken = Linear()
    broken.weight.data[0, 0] = torch.nan
    with pytest.raises(BenchError, match="logits are not all finite"):
        run(broken)


# What it warns of


@pytest.mark.usefixtures("quick")
def test_flags_are_kept_once_of_each_kind() -> None:
    warnings = run(Probabilities()).warnings
    assert len([w for w in warnings if "probability distribution" in w]) == 1
    flags = Flags(["there are 3 points with zero gradient!"])
    flags.warning("there are 12 points with zero gradient!")
    flags.log("Warning: there are 1 points with zero gradient!")
    flags.log("robust accuracy: 10.00%")
    flags.debug("running square")
    flags.log("Warning: it seems to be a dynamic defense!")
    assert flags.raised == ["there are 3 points with zero gradient!", "it seems to be a dynamic defense!"]


class Dynamic(Linear):
    """A defence that differentiates while it classifies."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = x.detach().requires_grad_()
            torch.autograd.grad(super().forward(probe).sum(), probe)
        return super().forward(x)


@pytest.mark.usefixtures("quick")
def test_a_flagged_model_does_not_flag_the_next() -> None:
    def tracer(*_: Any) -> None:
        return None

    previous = sys.gettrace()
    sys.settrace(tracer)
    try:
        assert any("dynamic" in warning for warning in run(Dynamic()).warnings)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(previous)
    assert run().warnings == ()


def test_square_beating_the_gradient_attacks_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluation(self: Any, x: Tensor, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        moved = x - LINF.eps * Linear().weight.detach()[y].sign().view(x.shape)
        return (moved if self.attacks_to_run == ["square"] else x), y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", evaluation)
    result = run()
    assert result.robust.sum() < result.survivors["fab-t"].sum()
    assert len(result.warnings) == 1
    assert "Square Attack has decreased the robust accuracy" in result.warnings[0]
