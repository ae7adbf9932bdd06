"""AutoAttack: right on models whose robustness is known, with the library's standard numbers."""

import sys
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any

import pyautoattack
import pytest
import torch
from attacked_linear import ATTACKS, COUNT, L2, LINF, Linear, data, run
from attacked_linear import quick as quick
from torch import Tensor, nn

from bench import rng
from bench.attack import distance, square_fits
from bench.attack.official import Flags, OfficialAutoAttack
from bench.errors import BenchError
from bench.recipe import Norm, Threat

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_outcomes_on_a_linear_model_are_those_of_the_closed_form() -> None:
    verge = boundary_distance("linf")
    robust = verge > LINF.eps
    assert 8 < robust.sum() < 16
    assert ((verge / LINF.eps - 1).abs() > 0.01).all()  # no image too near the verge to call
    state = torch.get_rng_state()
    result = run(batch_size=COUNT)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(result.clean, verge > 0)
    assert not result.clean.all()
    assert torch.equal(result.robust, robust)
    assert result.warnings == ()
    assert (result.package, result.package_version) == ("pyautoattack", pyautoattack.__version__)

    images, labels = data()
    assert distance(result.x_adv, images, LINF.norm).max() <= LINF.eps + 1e-6
    broken = result.clean & ~result.robust
    assert torch.equal(result.x_adv[~broken], images[~broken])
    assert torch.equal(Linear()(result.x_adv).argmax(1) == labels, result.robust)


def test_l2_outcomes_on_a_linear_model_are_those_of_the_closed_form(quick: None) -> None:
    verge = boundary_distance("l2")
    robust = verge > L2.eps
    assert 8 < robust.sum() < 20
    assert ((verge / L2.eps - 1).abs() > 0.005).all()
    result = run(threat=L2)
    assert torch.equal(result.robust, robust)
    assert distance(result.x_adv, data().images, L2.norm).max() <= L2.eps + 1e-5


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
    with pytest.raises(BenchError, match=rf"at least 4 classes; this dataset has {classes}.*evaluate.autoattack=false"):
        run(Linear(classes), num_classes=classes)


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 12), (4, 4)])
def test_square_under_l2_is_refused_where_it_would_break(height: int, width: int) -> None:
    """Under l2 the library's Square raises for some of them after three attacks, and under linf it works."""
    images = torch.full((COUNT, 1, height, width), 0.5)
    with pytest.raises(BenchError, match=rf"this dataset are {height} x {width}.*evaluate.autoattack=false, or .*linf"):
        run(images=images, threat=L2)
    assert square_fits((1, height, width), "linf")
    assert square_fits((1, 5, 5), "l2")


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


@pytest.fixture
def only_the_original_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ModuleType("autoattack")
    original.AutoAttack = OriginalAutoAttack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", original)
    monkeypatch.setitem(sys.modules, "autoattack.checks", import_module("pyautoattack.checks"))
    monkeypatch.setattr("bench.attack.official.find_spec", lambda name: name == "autoattack" or None)
    monkeypatch.setattr("bench.attack.official.metadata.version", {"autoattack": "0.1"}.__getitem__)


@pytest.mark.usefixtures("quick")
def test_the_original_package_is_used_where_it_alone_is_installed(request: pytest.FixtureRequest) -> None:
    expected = run()
    request.getfixturevalue("only_the_original_is_installed")
    result = run()
    assert (result.package, result.package_version) == ("autoattack", "0.1")
    assert torch.equal(result.x_adv, expected.x_adv)
    assert result.warnings == ("said by the original",)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.attack.official.find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"pip install pyautoattack.*evaluate.autoattack=false"):
        run()
