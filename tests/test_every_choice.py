"""Every value of every setting that has a list of them, from images to a record, alone against the defaults.

What one choice does not change is trained once: stages and encoders are shared through the folder of runs.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from choices import choices
from pydantic_core import to_jsonable_python
from toy_runs import Listener, carry_out, toy_data, toy_request

from bench.errors import BenchError
from bench.method import METHODS
from bench.recipe import (
    DEFAULT_PROTOCOLS,
    AFFSettings,
    ALFSettings,
    EncoderSettings,
    EvaluationSettings,
    Precision,
    Settings,
    SLFSettings,
    Threat,
    TrainPlan,
    flatten,
)
from bench.record import load_record

SECTIONS: dict[str, Settings] = {
    **{"slf": SLFSettings(), "alf": ALFSettings(), "aff": AFFSettings()},
    **{"encoder": EncoderSettings(), "evaluate": EvaluationSettings(), "threat": Threat(eps=8 / 255)},
}
SMALLEST: dict[str, Any] = {
    **{"epochs": 1, "batch_size": 12, "warmup_epochs": 0, "decay_epochs": [], "precision": "fp32"},
    **{
        "steps": 1,
        "selection_steps": 1,
        "selection_fraction": 0.25,
        "h_weight": 0.0,
        "projector": [4, 4],
        "predictor": [4],
        "clusters": [2],
    },
}
"""What makes a run as short as can be, two steps a stage, in every section that has the key."""

BESIDE: dict[str, dict[str, Any]] = {
    "stage1.outer_sign": {"stage1.h_weight": 0.1},
    "stage1.optimizer": {"stage1.nesterov": False, "stage1.lr": 1e-3},
    "alf.start": {"alf.loss": "pgd"},
    "aff.start": {"aff.loss": "pgd"},
}
"""What some choices need beside them: the diversity term whose sign they are, no momentum of SGD's kind for AdamW
and a rate that all optimisers can take, a loss with a gradient at the image."""

IMPOSSIBLE = {
    r".*precision=fp16": "in fp16, which needs a GPU",
    r"(mocov2|byol|barlow_twins|vicreg) stage1\.drop_last=False": "drop_last: must be True",
    r"ap-dpe .*export=mean task=rotation|ap-dpe export=jigsaw task=rotation": "task rotation has no .* end to export",
    r"ap-dpe .*export=mean task=jigsaw|ap-dpe export=rotation task=jigsaw": "task jigsaw has no .* end to export",
    r"ap-dpe export=(rotation|jigsaw|mean) task=selfie": "task selfie has no .* end to export",
    r"simclr evaluate\.corruptions=files": "--corruptions",
    r"simclr encoder\.normalisation=constants": "constants = .* go together",
}
"""Choices that cannot be, by a pattern of the case, and what is said then."""

COMMON = {**dict.fromkeys([*TrainPlan.model_fields, "order", "interpolation", "crop"], "simclr"), "start": "rocl"}
"""Settings of the engine, the views and the attacks, which many stages have, and the method that the quick tests try
them on; on SLF, too, if it has them."""

LONG = ("apgd-ce", "apgd-dlr", "apgd-t", "targeted-screen", "min-norm")
"""Attacks of other packages, of 100 steps."""

Case = tuple[str, dict[str, Any]]


def cases() -> Iterator[Case]:
    """Yield each choice within a method, each pair of its top-level ones, and, for SimCLR, each shared choice."""
    for method in METHODS:
        alone = list(choices(METHODS.get(method).config_type()))
        yield from ((method, {key: value}) for key, value in alone)
        top = [pair for pair in alone if "." not in pair[0]]
        yield from ((method, {a: x, b: y}) for a, x in top for b, y in top if a < b)
    yield from (("simclr", {"precision": value}) for value in get_args(Precision))
    for name, section in SECTIONS.items():
        yield from (("simclr", {key: value}) for key, value in choices(section, f"{name}."))


def named(case: Case) -> str:
    method, chosen = case
    return " ".join([method, *(f"{key}={value}" for key, value in chosen.items())])


def marked() -> Iterator[Any]:
    """Yield the cases as parameters, marked as slow where they repeat on another stage what was tried."""
    for case in cases():
        method, (key, *_) = case[0], case[1]
        tried_on = COMMON.get(key.split(".")[-1])
        repeated = tried_on is not None and (method != tried_on or key.startswith(("alf.", "aff.")))
        long = case[1].get("evaluate.attack") in LONG
        yield pytest.param(case, id=named(case), marks=pytest.mark.slow if repeated or long else ())


def smallest(method: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with ``chosen`` that takes as little as can be."""
    try:
        top = {key: value for key, value in chosen.items() if "." not in key}
        plans = METHODS.get(method).config_type.parse(top, method).plans()
    except BenchError:
        plans = METHODS.get(method).config_type().plans()
    beside = {key: value for choice in chosen for key, value in BESIDE.get(choice, {}).items()}
    small = {
        f"{section}.{key}": value
        for section, settings in {**plans, **{name: SECTIONS[name] for name in DEFAULT_PROTOCOLS}}.items()
        for key, value in SMALLEST.items()
        if type(getattr(settings, key, None)) is not str or key == "precision"  # a stage's projector may be a choice
        if key in type(settings).model_fields and key not in chosen  # one precision of all stages and protocols
    }
    return {"encoder.width": 2, "evaluate.pgd_steps": 1, "evaluate.autoattack": False, **small, **beside, **chosen}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("choices")
    toy_data(path / "toy.npz", classes=4)
    return path


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("case", list(marked()))
def test_every_choice_is_in_its_record_or_refused_with_the_reason(case: Case, folder: Path) -> None:
    method, chosen = case
    section = next(iter(chosen)).split(".")[0]
    protocol = section if section in DEFAULT_PROTOCOLS else METHODS.get(method).info.protocols[0]
    overrides = smallest(method, chosen)
    request = toy_request(
        f"npz:{folder / 'toy.npz'}", folder, method=method, protocols=(protocol,), overrides=overrides
    )
    said = [text for pattern, text in IMPOSSIBLE.items() if re.fullmatch(pattern, named(case))]
    if said:
        with pytest.raises(BenchError, match=said[0]):
            carry_out(request, folder / "results")
        return
    ((record, path),) = carry_out(request, folder / "results", listener := Listener())
    assert not any("no saved state" in note or "a gradient for" in note for note in listener.notes)
    assert load_record(path) == record
    assert (record.protocol, record.sa.n, record.ra.outcome.n) == (protocol, 16, 16)
    assert record.ra.attack == chosen.get("evaluate.attack", "pgd")
    recorded = dict(flatten({**record.recipe["config"], **record.recipe}))
    recorded["precision"] = recorded[f"{protocol}.precision"]  # the recipe's own is None where it is the tier's
    assert {key: recorded.get(key) for key in chosen} == to_jsonable_python(chosen)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name == "ap-dpe" else ()) for name in METHODS]
)
def test_native_fidelity_gives_a_record_of_the_methods_own_encoder(method: str, folder: Path) -> None:
    protocol = METHODS.get(method).info.protocols[0]
    request = toy_request(
        f"npz:{folder / 'toy.npz'}",
        folder,
        method=method,
        fidelity="native",
        protocols=(protocol,),
        overrides=smallest(method, {}),
    )
    ((record, _),) = carry_out(request, folder / "results")
    encoder = record.recipe["encoder"]
    assert record.fidelity == "native"
    assert encoder == {**encoder, **METHODS.get(method).native_encoder}
