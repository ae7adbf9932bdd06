"""Evaluation: its numbers against plain loops, its order, and that any interruption leaves no trace in them."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import Threat, cross_entropy_objective, pgd
from bench.attack.official import OfficialAutoAttack
from bench.data import Split
from bench.errors import BenchError, InterruptedRunError
from bench.evaluate import Evaluation, autoattack_images, evaluate
from bench.nn import Classifier, Encoder
from bench.recipe import DatasetFacts, MethodConfig, Recipe, build_recipe, load_tier
from bench.stop import Stop

CLASSES, TEST_IMAGES, SIDE = 4, 22, 4
CPU = torch.device("cpu")
FACTS = DatasetFacts(
    name="toy",
    sha256="1" * 64,
    image_shape=(3, SIDE, SIDE),
    num_classes=CLASSES,
    train_images=10,
    test_images=TEST_IMAGES,
    eps=0.05,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


class Recorder:
    """Keeps notes and phases, and asks for a stop after the ``stop_at``-th batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.phases: list[tuple[str, int, int]] = []
        self.counted: dict[str, int] = {}
        self.notes: list[str] = []
        self.stop = Stop()
        self._left = stop_at

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.phases.append((phase, total, done))
        self.counted[phase] = done

    def advance(self, amount: int, detail: str = "") -> None:
        self.counted[self.phases[-1][0]] += amount
        if self._left is not None and amount:
            self._left -= 1
            self.stop.requested |= self._left == 0

    def end(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


class StopsInside(nn.Module):
    """A backbone that asks for a stop at its ``count``-th forward pass from now on."""

    feature_dim = 3 * SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.stop_at = -1
        self.stop = Stop()

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        self.stop.requested |= self.passes == self.stop_at
        return images.flatten(1).tanh()


class Shared(StopsInside):
    """One that prepared() does not copy, so that the test and the attack see the same counter."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self


def recipe(**changes: Any) -> Recipe:
    values = {
        "batch_size": 5,
        "pgd_steps": 3,
        "pgd_restarts": 2,
        "autoattack_images": 9,
        "autoattack_batch": 4,
        **changes,
    }
    return build_recipe(
        method="toy",
        config_type=MethodConfig,
        native_encoder={},
        dataset=FACTS,
        tier=load_tier("paper"),
        overrides={f"evaluate.{key}": value for key, value in values.items()},
    )


def classifier(backbone: nn.Module | None = None) -> Classifier:
    """Return a linear classifier of templates, correct on most of ``SPLIT``, robust on some of it."""
    model = Classifier(Encoder(backbone or Shared(), nn.Identity()), nn.Linear(3 * SIDE * SIDE, CLASSES))
    with torch.no_grad():
        model.head.weight.copy_(TEMPLATES.flatten(1) - 0.5)
        model.head.bias.zero_()
    return model.eval()


def _split() -> tuple[Tensor, Split]:
    generator = torch.Generator().manual_seed(0)
    templates = torch.rand(CLASSES, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(TEST_IMAGES) % CLASSES
    # From clear to hopeless, so that every measurement has both outcomes.
    noise = torch.linspace(0.2, 1.0, TEST_IMAGES)[:, None, None, None]
    images = templates[labels] + noise * torch.randn(TEST_IMAGES, 3, SIDE, SIDE, generator=generator)
    return templates, Split((images.clamp(0, 1) * 255).round().to(torch.uint8), labels)


TEMPLATES, SPLIT = _split()


def measure(
    path: Path,
    recorder: Recorder | None = None,
    *,
    model: Classifier | None = None,
    owner: str = "me",
    seed: int = 0,
    stop: Stop | None = None,
    **changes: Any,
) -> Evaluation:
    recorder = recorder or Recorder()
    return evaluate(
        model or classifier(),
        SPLIT,
        recipe=recipe(**changes),
        owner=owner,
        path=path / "evaluation.json",
        seed=seed,
        device=CPU,
        reporter=recorder,
        stop=stop or recorder.stop,
    )


def outcomes(evaluation: Evaluation) -> tuple[Any, ...]:
    """Return all that an interruption must not change: everything but the cost."""
    return evaluation.sa, evaluation.ra, evaluation.aa


def pixels() -> Tensor:
    return SPLIT.images.float() / 255


@pytest.fixture(scope="module", autouse=True)
def short_attacks() -> Iterator[None]:
    """Cut AutoAttack's attacks short: what they find is tested elsewhere, here only that it is kept."""
    build = OfficialAutoAttack.__init__

    def short(self: OfficialAutoAttack, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        library = self._adversary
        library.apgd.n_iter = library.apgd_targeted.n_iter = library.fab.n_iter = 5
        library.square.n_queries = 30

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OfficialAutoAttack, "__init__", short)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return measure(tmp_path_factory.mktemp("whole"))


# What the numbers are


def test_both_outcomes_occur_in_every_measurement(whole: Evaluation) -> None:
    assert whole.aa is not None
    for outcome in (whole.sa, whole.ra.outcome, whole.aa.outcome):
        assert 0 < outcome.correct < outcome.n
    assert whole.ra.outcome.correct < whole.sa.correct


def test_sa_is_what_a_plain_loop_counts(whole: Evaluation) -> None:
    model, correct = classifier(), []
    for image, label in zip(pixels(), SPLIT.labels.tolist(), strict=True):
        correct.append(int(model(image[None]).argmax()) == label)
    assert whole.sa.unpack() == correct
    assert whole.sa.accuracy == sum(correct) / TEST_IMAGES
    assert whole.sa.images is None


@pytest.mark.parametrize("restarts", [1, 3])
def test_ra_is_surviving_every_restart_of_pgd(tmp_path: Path, restarts: int) -> None:
    # One step in a wide ball: the outcomes hang on every single draw.
    ra = measure(tmp_path, pgd_restarts=restarts, pgd_steps=1, eps=0.4, autoattack=False).ra
    model, survived = classifier(), []
    for first in range(0, TEST_IMAGES, 5):
        images, labels = pixels()[first : first + 5], SPLIT.labels[first : first + 5]
        robust = torch.ones(len(labels), dtype=torch.bool)
        for restart in range(restarts):
            x_adv = pgd(
                cross_entropy_objective(model, labels),
                images,
                threat=Threat(eps=0.4),
                steps=1,
                step_size=0.25 * 0.4,
                start="uniform",
                generator=rng.generator(0, "pgd", first, restart),
            )
            robust &= model(x_adv).argmax(1) == labels
        survived += robust.tolist()
    assert ra.outcome.unpack() == survived
    assert (ra.eps, ra.steps, ra.step_size, ra.start, ra.restarts) == (0.4, 1, 0.1, "uniform", restarts)


def test_without_a_radius_every_attack_leaves_the_clean_outcomes(tmp_path: Path) -> None:
    found = measure(tmp_path, eps=0.0)
    assert found.ra.outcome.unpack() == found.sa.unpack()
    assert found.aa is not None
    clean = found.sa.unpack()
    assert found.aa.outcome.unpack() == [clean[i] for i in found.aa.outcome.positions(TEST_IMAGES)]
    assert found.ra.eps == found.aa.eps == 0


def test_more_restarts_never_save_an_image(tmp_path: Path) -> None:
    survived = [
        torch.tensor(measure(tmp_path / str(n), pgd_restarts=n, pgd_steps=0, eps=0.3).ra.outcome.unpack())
        for n in (1, 2, 4, 16)
    ]
    for fewer, more in pairwise(survived):
        assert not (more & ~fewer).any()
    assert survived[-1].sum() < survived[0].sum()


def test_the_seed_decides_the_draws(tmp_path: Path) -> None:
    first, again, other = (
        measure(tmp_path / name, seed=seed, pgd_steps=0, pgd_restarts=1, eps=0.5, autoattack=False)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert outcomes(first) == outcomes(again)
    assert first.sa == other.sa
    assert first.ra.outcome.bits != other.ra.outcome.bits


def test_eps_of_the_threat_model_is_the_default(tmp_path: Path) -> None:
    assert measure(tmp_path / "a", autoattack=False).ra.eps == FACTS.eps
    assert measure(tmp_path / "b", autoattack=False, eps=0.01).ra.eps == 0.01


def test_autoattack_only_takes_images_away_attack_by_attack(whole: Evaluation) -> None:
    aa = whole.aa
    assert aa is not None
    clean = whole.sa.unpack()
    subset = aa.outcome.positions(TEST_IMAGES)
    counts = [sum(clean[i] for i in subset), *aa.survivors.values()]
    assert counts == sorted(counts, reverse=True)
    assert list(aa.survivors) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(aa.survivors.values())[-1] == aa.outcome.correct == sum(aa.outcome.unpack())
    assert all(clean[i] for i, robust in zip(subset, aa.outcome.unpack(), strict=True) if robust)
    assert aa.targets == CLASSES - 1


def test_nothing_is_drawn_from_the_global_generator(tmp_path: Path) -> None:
    model = classifier()
    before = torch.get_rng_state()
    measure(tmp_path, model=model)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_classifier_comes_back_as_it_was(tmp_path: Path) -> None:
    model = classifier()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    measure(tmp_path, model=model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# Which images AutoAttack gets


def test_the_subset_is_sorted_distinct_and_of_the_size_asked_for() -> None:
    for wanted in (1, 9, TEST_IMAGES - 1):
        chosen = autoattack_images(recipe(autoattack_images=wanted))
        assert chosen == sorted(set(chosen))
        assert len(chosen) == wanted
        assert set(chosen) <= set(range(TEST_IMAGES))
    for enough in (None, TEST_IMAGES, 10 * TEST_IMAGES):
        assert autoattack_images(recipe(autoattack_images=enough)) == list(range(TEST_IMAGES))


def test_the_subset_depends_on_the_data_alone() -> None:
    mine = recipe()
    chosen = autoattack_images(mine)
    others = [
        recipe(eps=0.3, pgd_steps=9, autoattack_batch=2),
        mine.model_copy(update={"method": "another", "tier": "mini", "fidelity": "native"}),
    ]
    assert [autoattack_images(other) for other in others] == [chosen, chosen]
    other_data = FACTS.model_copy(update={"sha256": "2" * 64})
    assert autoattack_images(mine.model_copy(update={"dataset": other_data})) != chosen


def test_the_subset_grows_by_adding_images() -> None:
    sizes = [set(autoattack_images(recipe(autoattack_images=n))) for n in (3, 9, 15)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_subset_is_in_the_outcome(tmp_path: Path, whole: Evaluation) -> None:
    assert whole.aa is not None
    assert whole.aa.outcome.positions(TEST_IMAGES) == autoattack_images(recipe())
    everything = measure(tmp_path, autoattack_images=None, eps=0.5).aa
    assert everything is not None
    assert everything.outcome.images is None
    assert everything.outcome.n == TEST_IMAGES


# Interruptions


@pytest.mark.parametrize("stop_at", range(1, 18))
def test_stopped_after_any_batch_it_continues_to_the_same_end(tmp_path: Path, whole: Evaluation, stop_at: int) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(stop_at))
    recorder = Recorder()
    assert outcomes(measure(tmp_path, recorder)) == outcomes(whole)
    assert recorder.notes == []
    assert all(recorder.counted[phase] == total for phase, total, _ in recorder.phases)


@pytest.mark.parametrize("stop_at", [10, 60, 120, 180, 300])
def test_stopped_in_the_middle_of_an_attack_it_continues_to_the_same_end(
    tmp_path: Path, whole: Evaluation, stop_at: int
) -> None:
    backbone = Shared()
    backbone.stop_at = stop_at
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, model=classifier(backbone), stop=backbone.stop)
    assert backbone.passes <= stop_at + 1  # at once, not at the end of the attack
    assert outcomes(measure(tmp_path)) == outcomes(whole)


def test_stopped_again_and_again_it_does_no_batch_twice(tmp_path: Path, whole: Evaluation) -> None:
    found, rounds = None, 0
    while found is None:
        rounds += 1
        try:
            found = measure(tmp_path, Recorder(stop_at=1))
        except InterruptedRunError:
            continue
    batches = 2 * -(-TEST_IMAGES // 5)
    assert batches < rounds < batches + 20
    assert outcomes(found) == outcomes(whole)


def test_a_finished_evaluation_is_not_done_again(tmp_path: Path, whole: Evaluation) -> None:
    first = measure(tmp_path)
    backbone = Shared()
    assert measure(tmp_path, model=classifier(backbone)) == first
    assert backbone.passes == 0
    assert outcomes(first) == outcomes(whole)


def test_cost_adds_up_over_interruptions(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(2))
    path = tmp_path / "evaluation.json"
    before = json.loads(path.read_text())["state"]["seconds"]
    assert set(before) == {"sa"}
    cost = measure(tmp_path).cost
    assert set(cost) == {"evaluate:sa", "evaluate:ra", "evaluate:aa"}
    assert cost["evaluate:sa"].seconds > before["sa"] > 0
    assert [cost[f"evaluate:{name}"].images for name in ("sa", "ra", "aa")] == [TEST_IMAGES, TEST_IMAGES, 9]


# State that is not what it should be


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("true", "false", 1),
        lambda text: text.replace("false", "true", 1),
        lambda text: text.replace("robust", "robusT", 1),
    ],
    ids=["cut", "empty", "list", "no keys", "a hit lost", "a hit gained", "a key changed"],
)
def test_damaged_state_is_noticed_said_and_done_again(tmp_path: Path, whole: Evaluation, damage: Any) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(7))
    path = tmp_path / "evaluation.json"
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    recorder = Recorder()
    assert outcomes(measure(tmp_path, recorder)) == outcomes(whole)
    (note,) = recorder.notes
    assert str(path) in note
    assert "damaged" in note
    assert "starts again" in note
    assert (tmp_path / "evaluation.json.damaged").read_text() == damage(text)
    assert recorder.phases[0] == ("SA, clean images", TEST_IMAGES, 0)


def test_state_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    measure(tmp_path, autoattack=False)
    path = tmp_path / "evaluation.json"
    before = path.read_bytes()
    with pytest.raises(BenchError, match=r"evaluation\.json belongs to another run. Move it away"):
        measure(tmp_path, owner="you")
    assert path.read_bytes() == before


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = classifier()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(BenchError, match="not all finite"):
        measure(tmp_path, model=model)
