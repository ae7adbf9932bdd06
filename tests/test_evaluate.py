"""Evaluation: its numbers against plain loops, and which images AutoAttack gets."""

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import (
    CLASSES,
    FACTS,
    SPLIT,
    TEST_IMAGES,
    Recorder,
    Shared,
    classifier,
    measure,
    outcomes,
    pixels,
    recipe,
)
from evaluations import short_attacks as short_attacks
from evaluations import whole as whole
from torch import Tensor

from bench import rng
from bench.attack import PGD, NamedAttack, margin_objective
from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import Evaluation, autoattack_images
from bench.nn import Classifier
from bench.recipe import MethodConfig, Norm, Start, Threat, build_recipe, canonical_digest, load_tier
from bench.record import NoGradient

START_ALONE: dict[str, Any] = {"pgd_steps": 1, "pgd_step_size": 1e-9, "pgd_restarts": 1}
"""PGD that goes nowhere: its outcomes are those of the random start."""
MEDIAN = float(pixels().sum((1, 2, 3)).sort().values[TEST_IMAGES // 2 - 1 : TEST_IMAGES // 2 + 1].mean())


class BlindToDark(Shared):
    """A backbone that passes no gradient to images whose pixels add up to less than those of half the split."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.sum((1, 2, 3)) >= MEDIAN
        return super().forward(torch.where(bright[:, None, None, None], images, images.detach()))


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
            standing = robust.clone()  # a restart attacks only what the ones before it left
            x_adv = PGD(1, 0.25, "uniform")(
                margin_objective(model, labels[standing]),
                images[standing],
                threat=Threat(eps=0.4),
                generator=[rng.generator(0, "pgd", first + i, restart) for i in standing.nonzero()[:, 0].tolist()],
            )
            robust[standing] = model(x_adv).argmax(1) == labels[standing]
        survived += robust.tolist()
    assert ra.outcome.unpack() == survived
    assert (ra.eps, ra.steps, ra.step_size, ra.start, ra.restarts) == (0.4, 1, 0.1, "uniform", restarts)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", ["uniform", "uniform-clamped", "gaussian"])
def test_the_batch_of_an_image_changes_nothing_of_its_attack(norm: Norm, start: Start) -> None:
    def attacked(positions: list[int]) -> torch.Tensor:
        # Eval mode and float64: an image's own sums have the same order in every batch.
        attack = NamedAttack("pgd", recipe(pgd_start=start).evaluate)
        images, labels, threat = pixels().double()[positions], SPLIT.labels[positions], Threat(norm=norm, eps=0.1)
        return attack(classifier().double(), images, labels, threat=threat, seed=0, positions=positions, restart=1)

    together = attacked(list(range(TEST_IMAGES)))
    for batch in ([3], [8, 2, 15]):
        torch.testing.assert_close(attacked(batch), together[batch], rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_ra_does_not_depend_on_the_batch_size(tmp_path: Path, batch: int, whole: Evaluation) -> None:
    found = measure(tmp_path, batch_size=batch, autoattack=False)
    assert (found.sa, found.ra) == (whole.sa, whole.ra)
    assert found.ra.start_drawn == "per image"


def test_an_unfinished_ra_of_an_older_version_begins_again(tmp_path: Path, whole: Evaluation) -> None:
    with pytest.raises(InterruptedRunError):
        measure(tmp_path, Recorder(stop_at=7), autoattack=False)
    path = tmp_path / "evaluation.json"
    state = json.loads(path.read_text())["state"]
    assert 0 < len(state["robust"]) < TEST_IMAGES
    del state["start_drawn"]
    state["robust"] = [not robust for robust in state["robust"]]
    path.write_text(json.dumps({"sha256": canonical_digest(state), "state": state}))
    assert measure(tmp_path, autoattack=False).ra == whole.ra
    # Of a finished one the outcomes stay, and the record says how they were drawn.
    state = json.loads(path.read_text())["state"]
    del state["start_drawn"]
    path.write_text(json.dumps({"sha256": canonical_digest(state), "state": state}))
    old = measure(tmp_path, autoattack=False).ra
    assert old == whole.ra.model_copy(update={"start_drawn": "per batch"})


def test_nothing_is_attacked_once_nothing_stands(tmp_path: Path) -> None:
    backbone = Shared()
    hopeless = measure(tmp_path, model=classifier(backbone), pgd_restarts=50, pgd_steps=2, eps=1.0, autoattack=False)
    assert not hopeless.ra.outcome.correct
    batches = -(-TEST_IMAGES // 5)
    assert backbone.passes < batches * 10  # of 50 restarts with two gradients and a verdict each


def test_ra_is_judged_on_the_classifier_and_not_on_the_copy_that_is_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    wrong = deepcopy(model)
    wrong.head.weight.data.neg_()
    monkeypatch.setattr(Classifier, "prepared", lambda self: wrong)
    found = measure(tmp_path, model=model, eps=0.0, autoattack=False)
    with torch.no_grad():
        of_the_copy = wrong(pixels()).argmax(1) == SPLIT.labels
    assert found.ra.outcome.unpack() == found.sa.unpack() != of_the_copy.tolist()


def test_images_without_a_gradient_are_counted(tmp_path: Path) -> None:
    assert measure(tmp_path / "none", autoattack=False).ra.no_gradient == NoGradient()
    dark = int((pixels().sum((1, 2, 3)) < MEDIAN).sum())
    counted = measure(tmp_path / "dark", model=classifier(BlindToDark()), autoattack=False, eps=1e-6).ra.no_gradient
    assert counted == NoGradient(first=dark, last=dark)
    assert 0 < dark < TEST_IMAGES


@pytest.mark.parametrize("key", ["evaluate.pgd_steps", "slf.selection_steps"])
def test_no_steps_are_no_attack(key: str) -> None:
    with pytest.raises(BenchError, match=rf"{key}: must be at least 1 \(given: 0\)"):
        build_recipe(
            method="toy",
            config_type=MethodConfig,
            native_encoder={},
            dataset=FACTS,
            tier=load_tier("paper"),
            overrides={key: 0},
        )


def test_without_a_radius_every_attack_leaves_the_clean_outcomes(tmp_path: Path) -> None:
    found = measure(tmp_path, eps=0.0)
    assert found.ra.outcome.unpack() == found.sa.unpack()
    assert found.aa is not None
    clean = found.sa.unpack()
    assert found.aa.outcome.unpack() == [clean[i] for i in found.aa.outcome.positions(TEST_IMAGES)]
    assert found.ra.eps == found.aa.eps == 0


def test_more_restarts_never_save_an_image(tmp_path: Path) -> None:
    survived = [
        torch.tensor(measure(tmp_path / str(n), **{**START_ALONE, "pgd_restarts": n}, eps=0.3).ra.outcome.unpack())
        for n in (1, 2, 4, 16)
    ]
    for fewer, more in pairwise(survived):
        assert not (more & ~fewer).any()
    assert survived[-1].sum() < survived[0].sum()


def test_the_seed_decides_the_draws(tmp_path: Path) -> None:
    first, again, other = (
        measure(tmp_path / name, seed=seed, **START_ALONE, eps=0.5, autoattack=False)
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
