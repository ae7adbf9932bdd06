"""``--set`` with the value that the recipe has anyway: the same run, and a record that names no change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_budget import TIER
from toy_runs import SMALL, carry_out, changed, toy_data, toy_request

from bench.nn import unread_settings
from bench.recipe import AFFSettings, Recipe, reevaluated
from bench.results import read_groups
from bench.results.rows import make_rows
from bench.results.verifications import Verifications
from bench.run import EvaluationRequest, RunRequest, prepare, prepare_evaluation

_STAGES = {"ap-dpe": 1, "acl": 1, "advcl": 2, "deacl": 2}
BATCHES = {"stage1.batch_size": 8, "slf.batch_size": 8}
"""What 24 images can fill."""
SIZES = {name: {f"stage{number + 1}.batch_size": 8 for number in range(count)} for name, count in _STAGES.items()}


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return toy_request(toy_data(tmp_path / "toy.npz", classes=4), tmp_path)


def recipe_of(request: RunRequest, **overrides: Any) -> Recipe:
    return prepare(changed(request, **overrides)).recipe


def test_only_what_changes_something_is_an_override(request_: RunRequest) -> None:
    plain = recipe_of(request_)
    assert plain.idle == ()
    assert plain.overrides_of("slf") == {key: SMALL[key] for key in SMALL if key[:4] not in ("alf.", "aff.")}
    typed = recipe_of(request_, threat__eps=8 / 255, slf__momentum=0.5, evaluate__pgd_start="uniform")
    assert typed.idle == ("threat.eps", "evaluate.pgd_start")
    assert typed.overrides_of("slf") == {**plain.overrides_of("slf"), "slf.momentum": 0.5}
    assert typed.overrides["threat.eps"] == 8 / 255, "what was typed is kept"


def test_a_default_is_a_change_where_another_setting_moves_it(request_: RunRequest) -> None:
    request = replace(request_, method="deacl", tier="tiny", overrides={**BATCHES, "stage2.batch_size": 8})
    assert recipe_of(request, ssl="simclr", stage1__temperature=0.2).idle == ("ssl", "stage1.temperature")
    assert recipe_of(request, ssl="mocov2", stage1__warmup_epochs=4).idle == ("stage1.warmup_epochs",)
    assert recipe_of(request, stage1__warmup_epochs=4).idle == ()


def test_settings_that_stand_or_fall_together_are_kept(request_: RunRequest) -> None:
    request = replace(request_, overrides=BATCHES)
    assert recipe_of(request, stage1__epochs=1, stage1__warmup_epochs=1).idle == ()


def test_what_a_budget_would_stretch_is_kept(request_: RunRequest) -> None:
    request = replace(request_, overrides={"encoder.width": 1, **BATCHES})
    warmup = recipe_of(request).config.plans()["stage1"].warmup_epochs
    asked = changed(request, stage1__warmup_epochs=warmup)
    assert prepare(asked).recipe.idle == ("stage1.warmup_epochs",)
    assert prepare(replace(asked, budget="1e12")).recipe.idle == ()
    other = changed(asked, slf__momentum=0.9)
    assert prepare(replace(other, budget="1e12")).recipe.idle == ("slf.momentum",)


def test_another_evaluation_keeps_what_it_may_move(request_: RunRequest) -> None:
    recipe = recipe_of(request_, threat__eps=8 / 255, slf__momentum=0.9, aff__momentum=0.9)
    assert recipe.idle == ("threat.eps", "slf.momentum", "aff.momentum")
    assert reevaluated(recipe, overrides={"slf.epochs": 3}).idle == ("threat.eps", "aff.momentum")
    assert reevaluated(recipe, overrides={"threat.eps": 0.1}).idle == ()
    other = recipe.dataset.model_copy(update={"sha256": "0" * 64, "eps": 0.1})
    moved = reevaluated(recipe, overrides={}, finetune=other)
    assert moved.downstream.threat.eps == 8 / 255
    assert moved.idle == ()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_an_evaluation_sets_back_to_the_default_is_no_change(
    request_: RunRequest, tmp_path: Path, elsewhere: bool
) -> None:
    """A first look without some of the evaluation, and the rest of it later, is the run that had it from the start."""
    other = toy_data(tmp_path / "other.npz", classes=5) if elsewhere else None
    request = replace(request_, protocols=("knn",), finetune_dataset=other)
    first = changed(request, evaluate__pgd_steps=1, evaluate__autoattack=False, threat__eps=8 / 255)
    carry_out(first, tmp_path / "results")
    (encoder,) = first.runs_dir.glob("*/encoder.safetensors")
    full = {"evaluate.pgd_steps": 20, "evaluate.autoattack": True, "evaluate.attack": "pgd", "evaluate.pgd_restarts": 2}
    asked = EvaluationRequest(
        encoder, protocols=("knn",), finetune_dataset=other, overrides=full, runs_dir=first.runs_dir, device="cpu"
    )
    again = prepare_evaluation(asked).recipe
    settings = {key: value for key, value in SMALL.items() if key not in full}
    straight = prepare(replace(request, overrides={**settings, "evaluate.pgd_restarts": 2})).recipe
    assert again.overrides_of("knn") == straight.overrides_of("knn")
    assert again.protocol_digest("knn") == straight.protocol_digest("knn")


def test_the_radius_of_the_threat_model_is_no_change_of_the_evaluation(request_: RunRequest) -> None:
    for threat in ({}, {"threat__eps": 0.1}):
        radius = threat.get("threat__eps", 8 / 255)
        plain, same = recipe_of(request_, **threat), recipe_of(request_, **threat, evaluate__eps=radius)
        assert same.protocol_digest("slf") == plain.protocol_digest("slf")
        assert same.overrides_of("slf") == plain.overrides_of("slf")
        again = reevaluated(recipe_of(request_, **threat, evaluate__eps=0.2), overrides={"evaluate.eps": radius})
        assert again.protocol_digest("slf") == plain.protocol_digest("slf")
        assert reevaluated(same, overrides={"threat.eps": 0.3}).evaluate.eps == radius, "what was typed is kept"


def test_the_default_radius_of_other_data_is_no_change(request_: RunRequest) -> None:
    recipe = recipe_of(request_)
    other = recipe.dataset.model_copy(update={"sha256": "0" * 64, "eps": 0.1})
    given = {"threat.eps": 0.1, "threat.norm": "linf"}
    plain, same = (reevaluated(recipe, overrides=asked, finetune=other) for asked in ({}, given))
    assert same.overrides == plain.overrides
    moved = reevaluated(recipe, overrides={"threat.eps": 0.2, "threat.norm": "linf"}, finetune=other)
    assert moved.overrides == {**plain.overrides, "finetune.threat.eps": 0.2}


def test_a_value_of_an_own_tier_is_no_change(request_: RunRequest, tmp_path: Path) -> None:
    tier = tmp_path / "toy.toml"
    tier.write_text(TIER)
    request = replace(request_, tier=str(tier), protocols=("knn",), overrides={"stage1.epochs": 1})
    carry_out(request, tmp_path / "results")
    (encoder,) = request.runs_dir.glob("*/encoder.safetensors")
    given = {"evaluate.pgd_steps": 1, "evaluate.pgd_restarts": 2}
    asked = EvaluationRequest(encoder, protocols=("knn",), overrides=given, runs_dir=request.runs_dir, device="cpu")
    again = prepare_evaluation(asked).recipe
    assert again.overrides_of("knn") == {"stage1.epochs": 1, "evaluate.pgd_restarts": 2}


def test_the_run_is_the_plain_one_and_so_is_its_row(request_: RunRequest, tmp_path: Path) -> None:
    results = tmp_path / "results"
    ((record, path),) = carry_out(changed(request_, threat__eps=8 / 255), results)
    assert record.recipe["overrides"] == {**SMALL, "threat.eps": 8 / 255}
    ((plain, plain_path),) = carry_out(request_, results)
    assert (plain.sha256, plain_path) == (record.sha256, path)
    (row,) = make_rows(read_groups(results).groups, results, Verifications())
    assert "threat.eps" not in row.overrides


@pytest.mark.parametrize(
    ("key", "value", "beside"),
    [
        ("stage1.decay_epochs", [0], "stage1.schedule=warmup-cosine"),
        ("stage1.beta2", 0.9, "stage1.optimizer=lars"),
        ("slf.lr_floor", 0.1, "slf.schedule=steps"),
        ("slf.selection_steps", 3, "slf.selection=last"),
        ("evaluate.corruption_names", ["fog"], "evaluate.corruptions=none"),
    ],
)
def test_a_setting_that_nothing_reads_is_told(request_: RunRequest, key: str, value: Any, beside: str) -> None:
    request = replace(request_, protocols=("slf",))
    with pytest.warns(UserWarning, match=rf"--set {key} has no effect with {beside}, yet counts as a change") as told:
        prepare(replace(request, overrides={**request.overrides, key: value}))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("method", "overrides", "beside"),
    [
        ("ap-dpe", {"task": "rotation", "stage1.h_weight": 0.3}, "stage1.h_weight has no effect with task=rotation"),
        ("ap-dpe", {"stage1.h_weight": 0, "stage1.outer_sign": -1}, "stage1.outer_sign has no effect with stage1.h_we"),
        ("ap-dpe", {"task": "jigsaw", "stage1.selfie_loss": "scaled"}, "stage1.selfie_loss has no effect with task=j"),
        ("acl", {"variant": "a2a", "branch": "clean"}, "branch has no effect with variant=a2a"),
        ("acl", {"stage1.optimizer": "sgd", "stage1.lars_lr_in_momentum": False}, "with stage1.optimizer=sgd"),
        ("advcl", {"pseudo_labels": "none", "stage2.lam": 0.7}, "stage2.lam has no effect with pseudo_labels=none"),
        ("advcl", {"pseudo_labels": "none", "stage1.epochs": 3}, "stage1.epochs has no effect with pseudo_labels=none"),
        ("deacl", {"stage2.strong_view.blur_prob": 0}, "blur_prob has no effect with stage2.adversarial_view=weak"),
    ],
)
def test_what_no_part_of_the_method_reads_is_told(
    request_: RunRequest, method: str, overrides: dict[str, Any], beside: str
) -> None:
    with pytest.warns(UserWarning, match=beside):
        prepare(replace(request_, method=method, protocols=("knn",), overrides={**SIZES[method], **overrides}))


def test_an_evaluation_tells_what_nothing_reads_of_its_own_settings(request_: RunRequest, tmp_path: Path) -> None:
    carry_out(replace(request_, protocols=("knn",)), tmp_path / "results")
    (encoder,) = request_.runs_dir.glob("*/encoder.safetensors")
    asked = EvaluationRequest(
        encoder, protocols=("slf",), overrides={"slf.selection_steps": 3}, runs_dir=request_.runs_dir, device="cpu"
    )
    with pytest.warns(UserWarning, match=r"slf.selection_steps has no effect with slf.selection=last") as told:
        prepare_evaluation(asked)
    assert len(told) == 1


def test_what_another_setting_makes_read_is_not_told(request_: RunRequest, recwarn: pytest.WarningsRecorder) -> None:
    prepare(changed(request_, stage1__schedule="steps", stage1__decay_epochs=[0]))
    prepare(replace(request_, protocols=("slf",), overrides={**request_.overrides, "aff.selection_steps": 3}))
    assert not [told for told in recwarn if "has no effect" in str(told.message)]


def test_an_own_network_reads_the_settings_that_it_names(
    request_: RunRequest, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    text = "from torch import nn\n\ndef flat(width):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width))\n"
    (tmp_path / "net.py").write_text(text)
    arch = f"{tmp_path / 'net.py'}:flat"
    prepare(changed(request_, encoder__arch=arch, encoder__width=3, encoder__stem_padding=2))
    told = [str(one.message) for one in recwarn if "has no effect" in str(one.message)]
    assert told == [
        f"--set encoder.stem_padding has no effect with encoder.arch={arch}, yet counts as a change of the recipe"
    ]


def test_a_network_of_another_library_reads_none_of_the_settings_of_ours() -> None:
    for arch in ("timm:resnet10t", "torchvision:resnet18"):
        assert unread_settings(arch) == ["width", "stem_padding", "stem_init"]
    for arch in ("resnet18", "preact-resnet18", "wrn28-10"):
        assert unread_settings(arch) == []


def test_only_trades_reads_its_weight() -> None:
    assert AFFSettings(loss="pgd").unread.items() >= {("beta", "loss=pgd"), ("clean_passes", "loss=pgd")}
    assert not {"beta", "clean_passes"} & AFFSettings().unread.keys()
