"""Presets: every knob of every protocol, number by number as the sources give it, and what wins over what."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cifar_recipes import make_facts, recipe_of
from toy_runs import toy_data

from bench.cli import main
from bench.errors import BenchError
from bench.recipe import (
    DEFAULT_PROTOCOLS,
    PRESETS,
    AFFSettings,
    ALFSettings,
    FinetuneSettings,
    SLFSettings,
    parse_overrides,
    preset_overrides,
    reevaluated,
)

SECTIONS: dict[str, type[FinetuneSettings]] = {"slf": SLFSettings, "alf": ALFSettings, "aff": AFFSettings}
IDLE = {
    *("lars_eta", "lars_clip", "lars_exclude_vectors", "lars_lr_in_momentum", "beta2"),  # of LARS and AdamW
    *("schedule_unit", "warmup_epochs", "warmup_start", "lr_floor"),  # of schedules other than steps
    "short_lr",  # of pre-training: protocols are not scaled
    *("selection_fraction", "selection_steps"),  # of selection=best
    *("accumulate", "batch_norm"),  # of batches in parts, and of several devices
    "crop",  # of the data: their size
}
"""Knobs that take no part in any preset."""

# What all four sources share: 25 epochs of SGD with momentum 0.9, weight decay 2e-4, a tenth of the rate from the
# 16th and the 21st epoch on, crop and flip, every image of an epoch, the last epoch's classifier.
SHARED = {
    **{"epochs": 25, "drop_last": False, "precision": "fp32", "flip_prob": 0.5, "selection": "last"},
    **{"optimizer": "sgd", "lr_batch": None, "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4},
    **{"schedule": "steps", "decay_epochs": (15, 20)},
}
TRADES = {"loss": "trades", "beta": 6.0, "steps": 10, "step_size": 0.25, "start": "gaussian"}
PGD = {"loss": "pgd", "beta": 6.0, "step_size": 0.25, "start": "uniform", "clean_passes": 1}
LARGE = {"batch_size": 512, "head_init": "default"}
EXPECTED: dict[tuple[str, str], dict[str, Any]] = {
    ("uniform", "slf"): {**LARGE, "encoder_bn": "eval", "lr": 0.1},
    ("uniform", "alf"): {**LARGE, **TRADES, "encoder_bn": "eval", "lr": 0.1, "clean_passes": 1},
    ("uniform", "aff"): {**LARGE, **TRADES, "bn": "single", "lr": 0.1, "clean_passes": 1},
    # AdvCL at 24cb7a6 (SLF); A-InfoNCE at b28763e, Asym-AdvCL, which adds ALF (PGD-20) and AFF at rate 0.1.
    ("advcl", "slf"): {**LARGE, "encoder_bn": "eval", "lr": 0.01},
    ("advcl", "alf"): {**LARGE, **PGD, "encoder_bn": "eval", "lr": 0.1, "steps": 20},
    ("advcl", "aff"): {**LARGE, **TRADES, "bn": "single", "lr": 0.1, "clean_passes": 1},
    # DeACL at 3fb81e3: train-mode encoder, TRADES' own three forward passes, README's rates.
    ("deacl-2024", "slf"): {**LARGE, "encoder_bn": "train", "lr": 0.1},
    ("deacl-2024", "alf"): {**LARGE, **TRADES, "encoder_bn": "train", "lr": 0.01, "clean_passes": 2},
    ("deacl-2024", "aff"): {**LARGE, **TRADES, "bn": "single", "lr": 0.01, "clean_passes": 2},
    # RobustSSL_Benchmark at 05f778a, its values for DeACL and AdvCL: classifier from zero, batches of 128 in AFF.
    ("robustssl-benchmark", "slf"): {"batch_size": 512, "head_init": "zero", "encoder_bn": "eval", "lr": 0.01},
    ("robustssl-benchmark", "alf"): {
        **{**PGD, "steps": 10},
        **{"batch_size": 512, "head_init": "zero", "encoder_bn": "eval", "lr": 0.01},
    },
    ("robustssl-benchmark", "aff"): {
        **{**TRADES, "clean_passes": 1},
        **{"batch_size": 128, "head_init": "zero", "bn": "single", "lr": 0.1},
    },
}


def knobs(settings: FinetuneSettings) -> dict[str, Any]:
    return {key: value for key, value in settings.model_dump().items() if key not in IDLE}


def test_the_table_is_complete() -> None:
    assert EXPECTED.keys() == {(preset, protocol) for preset in PRESETS for protocol in DEFAULT_PROTOCOLS}


@pytest.mark.parametrize(("preset", "protocol"), EXPECTED)
def test_a_preset_is_its_source_knob_by_knob(preset: str, protocol: str) -> None:
    settings = getattr(recipe_of(f"{protocol}.preset={preset}"), protocol)
    assert knobs(settings) == {"preset": preset, **SHARED, **EXPECTED[preset, protocol]}
    # A record's recipe is read back as it was written.
    assert SECTIONS[protocol].parse(settings.model_dump(mode="json"), protocol) == settings


@pytest.mark.parametrize("protocol", DEFAULT_PROTOCOLS)
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "uniform"])
def test_a_preset_of_others_leaves_no_knob_to_our_defaults(preset: str, protocol: str) -> None:
    assert PRESETS[preset][protocol].keys() == SECTIONS[protocol].model_fields.keys() - IDLE - {"preset"}


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text("utf-8")
    head, _, *rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith(("| preset ", "| --- | --- | --- | --- | --- | --- | --- | --- |", "| `"))
    ]
    assert [tuple(row[:2]) for row in rows] == list(EXPECTED)
    for preset, protocol, *cells in rows:
        expected = EXPECTED[preset, protocol]
        assert dict(zip(head[2:], cells, strict=True)) == {key: str(expected.get(key, "")) for key in head[2:]}
        # What is in no column is the same for all, and said above the table.
        assert expected.keys() - set(head) <= {"beta", "step_size"}
    assert all(f"`{key}=" in page for key in (*SHARED, "beta", "step_size"))


def test_uniform_is_what_nothing_asked_for_gives() -> None:
    assert recipe_of(preset="uniform").model_dump(exclude={"overrides"}) == recipe_of().model_dump(
        exclude={"overrides"}
    )


def test_one_name_fills_the_sections_of_all_protocols_that_train() -> None:
    recipe = recipe_of(preset="robustssl-benchmark")
    for protocol in (*DEFAULT_PROTOCOLS, "slf-1pct", "slf-10pct"):
        assert getattr(recipe, protocol) == getattr(recipe_of(f"{protocol}.preset=robustssl-benchmark"), protocol), (
            protocol
        )
    assert recipe.pretraining_digest() == recipe_of().pretraining_digest()
    assert len({r.protocol_digest("slf") for r in (recipe, recipe_of(), recipe_of("slf.lr=0.01"))}) == 3
    assert recipe.overrides_of("alf") == {"alf.preset": "robustssl-benchmark"}


def test_what_is_set_wins_over_the_preset_whatever_the_order() -> None:
    slf = recipe_of("slf.lr=0.05", "slf.weight_decay=0.0", preset="deacl-2024").protocol("slf")
    assert (slf.preset, slf.encoder_bn, slf.lr, slf.weight_decay) == ("deacl-2024", "train", 0.05, 0.0)
    recipe = recipe_of("slf.preset=uniform", preset="deacl-2024")
    assert (recipe.protocol("slf").encoder_bn, recipe.protocol("alf").encoder_bn) == ("eval", "train")
    assert recipe_of("slf.encoder_bn=eval", "slf.preset=deacl-2024").protocol("slf").encoder_bn == "eval"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tier", ["tiny", "mini"])
def test_a_tier_touches_batches_and_the_length_of_adversarial_finetuning(tier: str, preset: str) -> None:
    scaled, published = recipe_of(tier=tier, preset=preset), recipe_of(preset=preset)
    shorter = {"epochs": 5, "decay_epochs": (3, 4)}
    for protocol in DEFAULT_PROTOCOLS:
        expected = getattr(published, protocol).model_dump() | {"batch_size": 64}
        expected |= shorter if protocol != "slf" else {}
        assert getattr(scaled, protocol).model_dump() == expected
    assert recipe_of("aff.batch_size=65", tier=tier, preset=preset).protocol("aff").batch_size == 65


@pytest.mark.parametrize("tier", ["tiny", "mini"])
def test_adversarial_finetuning_is_shortened_in_the_proportions_of_the_whole(tier: str) -> None:
    whole, short = recipe_of(tier="paper"), recipe_of(tier=tier)
    for name in ("alf", "aff"):
        before, after = whole.protocol(name), short.protocol(name)
        assert [epoch / after.epochs for epoch in after.decay_epochs] == [
            epoch / before.epochs for epoch in before.decay_epochs
        ]


def test_data_that_must_not_be_mirrored_are_not_flipped_by_a_preset() -> None:
    recipe = recipe_of(preset="deacl-2024", facts=make_facts(mirror=False))
    assert {getattr(recipe, protocol).flip_prob for protocol in DEFAULT_PROTOCOLS} == {0.0}


@pytest.mark.parametrize("protocol", ["alf", "aff"])
def test_a_loss_brings_its_attack_along(protocol: str) -> None:
    attack = ("loss", "steps", "step_size", "start")

    def of(*sets: str) -> tuple[Any, ...]:
        settings = getattr(recipe_of(*(f"{protocol}.{item}" for item in sets)), protocol)
        return tuple(getattr(settings, knob) for knob in attack)

    assert of("loss=pgd") == of("loss=pgd", "preset=deacl-2024") == ("pgd", 10, 0.25, "uniform")
    assert of("loss=pgd", "start=clean", "steps=7") == ("pgd", 7, 0.25, "clean")
    assert of("loss=trades", "preset=advcl") == ("trades", 10, 0.25, "gaussian")
    # A loss that is the preset's anyway changes nothing of it.
    expected = ("pgd", 20, 0.25, "uniform") if protocol == "alf" else ("pgd", 10, 0.25, "uniform")
    assert of("loss=pgd", "preset=advcl") == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["alf.loss=pgd"]),
        (["alf.loss=pgd"], ["alf.loss=trades"]),
        (["alf.preset=advcl"], ["alf.preset=deacl-2024"]),
        (["alf.lr=0.3"], ["alf.preset=advcl", "alf.steps=3"]),
    ],
)
def test_on_a_finished_encoder_it_is_as_if_asked_for_from_the_start(before: list[str], after: list[str]) -> None:
    again = reevaluated(recipe_of(*before, tier="tiny"), overrides=parse_overrides(after))
    asked = {**parse_overrides(before), **parse_overrides(after)}
    assert again.protocol("alf") == recipe_of(
        *(f"{key}={value}" for key, value in asked.items()), tier="tiny"
    ).protocol("alf")


def test_other_data_need_no_tier_to_be_mirrored_but_a_preset_does() -> None:
    recipe = recipe_of("aff.flip_prob=0.3", facts=make_facts(mirror=False)).model_copy(update={"tier_sha256": "0" * 64})
    other = recipe.dataset.model_copy(update={"mirror": True, "sha256": "b" * 64})
    moved = reevaluated(recipe, overrides={}, finetune=other)
    assert [getattr(moved, name).flip_prob for name in DEFAULT_PROTOCOLS] == [0.5, 0.5, 0.3]
    with pytest.raises(BenchError, match=r"'paper' that this encoder was trained with has changed.*--set alf.lr=0\.1"):
        reevaluated(recipe, overrides={"alf.preset": "advcl"})


def test_a_name_that_is_no_preset_is_answered_with_the_nearest() -> None:
    message = r"unknown preset 'deacl2024'\. Did you mean 'deacl-2024'.*Allowed: advcl, deacl-2024, robustssl-benchm"
    with pytest.raises(BenchError, match=message):
        preset_overrides("deacl2024")
    with pytest.raises(BenchError, match=r"alf\.preset: " + message):
        recipe_of("alf.preset=deacl2024")


def test_dual_batch_norm_without_clean_images_is_refused() -> None:
    with pytest.raises(BenchError, match=r"aff: bn=dual needs the clean images of loss=trades"):
        recipe_of("aff.bn=dual", "aff.loss=pgd")


# On the command line


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_takes_a_preset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["encoder.width=1", "aff.batch_size=8", "aff.steps=1", "evaluate.autoattack=false"]
    options = [part for item in small for part in ("--set", item)] + ["--device", "cpu", "--dry-run", "--json"]
    data = ["--dataset", toy_data(tmp_path / "toy.npz", images=(128, 16)), "--runs-dir", str(tmp_path / "runs")]
    assert command(monkeypatch, "run", "supervised", *data, "--preset", "robustssl-benchmark", *options) == 0
    recipe = json.loads(capsys.readouterr().out)
    for protocol in DEFAULT_PROTOCOLS:
        expected = {**SHARED, **EXPECTED["robustssl-benchmark", protocol], "preset": "robustssl-benchmark"}
        expected |= {"batch_size": 64, "epochs": 25, "decay_epochs": [15, 20]}  # what the tier mini makes of it
        expected |= {"epochs": 5, "decay_epochs": [3, 4]} if protocol != "slf" else {}
        expected |= {"batch_size": 8, "steps": 1} if protocol == "aff" else {}  # --set
        assert {key: recipe[protocol][key] for key in expected} == expected
    assert recipe["overrides"]["slf.preset"] == "robustssl-benchmark"


def test_the_command_answers_an_unknown_preset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "run", "deacl", "--preset", "deacl") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("bench: unknown preset 'deacl'. Did you mean 'deacl-2024'")
