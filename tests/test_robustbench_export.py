"""A classifier of ours as an entry of RobustBench: its own loader and its own benchmark() take it."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from board_records import make_record
from short_autoattack import shorten
from torch import Tensor, nn

from bench import rng
from bench.attack import auto_attack
from bench.errors import BenchError
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings, Threat
from bench.zoo import FORMATS, Model, robustbench_package

FORM = EncoderSettings(width=2, normalisation="cifar", stem_padding=2)
EPS = 1e-5
PAPER = {"paper": "Decoupled Adversarial Contrastive Learning", "link": "https://arxiv.org/abs/2207.10899"}
NAME = "DeACL2022_SLF"
_RECIPE = make_record().recipe
RESIZED = {
    **_RECIPE,
    "finetune": {"dataset": _RECIPE["dataset"], "threat": _RECIPE["threat"], "resized_from": [32, 32]},
}
"""Of a classifier of images that were resized to those of its encoder's pre-training."""


def classifier(form: EncoderSettings = FORM) -> Classifier:
    """A network with random weights, and statistics of random images, so that it does not answer always the same."""
    with rng.scoped(3, "to export"):
        encoder = build_encoder(form, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
        head = nn.Linear(encoder.feature_dim, 10)
        with torch.no_grad():
            for _ in range(3):
                encoder(torch.rand(16, 3, 32, 32))
            head.bias.sub_(head(encoder.eval()(torch.rand(16, 3, 32, 32))).mean(0))
    return Classifier(encoder, head).eval()


def model(network: Classifier, form: EncoderSettings = FORM, **changes: Any) -> Model:
    record = make_record(**{"protocol": "slf", "eps": 8 / 255, **changes})
    return Model(network, form, (3, 32, 32), "DeACL", 2022, **PAPER, record=record)


class Exported(NamedTuple):
    folder: Path
    network: Classifier
    loaded: nn.Module


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The files of an entry, and what the package's loader makes of them."""
    folder, network = tmp_path_factory.mktemp("entry"), classifier()
    FORMATS["robustbench"](model(network), folder)
    package = robustbench_package()
    spec = importlib.util.spec_from_file_location(NAME, folder / f"{NAME}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()
    loaded = package.utils.load_model(NAME, folder / "models", "cifar10", "Linf")
    return Exported(folder, network, loaded)


def near_the_boundary(network: nn.Module, images: Tensor) -> Tensor:
    """Return a copy of ``images`` whose first is moved towards another until its class almost changes."""
    answers = network(images).argmax(1)
    other = images[(answers != answers[0]).nonzero()[0, 0]]
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        mixed = torch.lerp(images[0], other, middle)[None]
        low, high = (middle, high) if network(mixed).argmax() == answers[0] else (low, middle)
    return torch.cat([torch.lerp(images[0], other, low)[None], images[1:]])


def test_its_own_loader_makes_the_same_network(exported: Exported) -> None:
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported.loaded(images), exported.network(images), rtol=1e-5, atol=1e-5)
    text = (exported.folder / f"{NAME}.py").read_text()
    assert "bench." not in text.replace("robustbench.", ""), "it needs torch, and the package to be registered"


def test_its_own_benchmark_gets_our_verdicts(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = robustbench_package().eval
    shorten(monkeypatch)
    with torch.no_grad():
        drawn = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        images = near_the_boundary(exported.network, drawn)
        labels = exported.network(images).argmax(1)
    labels[5] = (labels[5] + 1) % 10
    verdicts: list[list[bool]] = []

    def noting(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> float:
        with torch.no_grad():
            right = model(x).argmax(1) == y
        verdicts.append(right.tolist())
        return float(right.float().mean())

    monkeypatch.setattr(evaluation, "load_clean_dataset", lambda *_: (images, labels))
    monkeypatch.setattr(evaluation, "clean_accuracy", noting)
    found = evaluation.benchmark(exported.loaded, n_examples=6, dataset="cifar10", threat_model="Linf", eps=EPS)
    ours = auto_attack(
        exported.network, images, labels, threat=Threat(norm="linf", eps=EPS), num_classes=10, seed=0, batch_size=6
    )
    assert verdicts == [ours.clean.tolist(), ours.robust.tolist()]
    assert found == pytest.approx((5 / 6, 4 / 6)), "one is wrong, and one so near the boundary that it falls"


def test_the_numbers_are_those_of_the_record_in_the_schema_of_model_info(exported: Exported) -> None:
    info = json.loads((exported.folder / "model_info" / "cifar10" / "Linf" / f"{NAME}.json").read_text())
    expected = {"clean_acc": "80.00", "autoattack_acc": "40.00", "eps": "8/255", "dataset": "cifar10", "reported": ""}
    assert {key: info[key] for key in expected} == expected
    assert (info["name"], info["link"], info["architecture"]) == (*PAPER.values(), "ResNet-18, width 2")
    assert info["footnote"] == "AutoAttack on 100 of 200 test images"


@pytest.mark.parametrize("form", [{"arch": "resnet50"}, {"options": {"stem": "imagenet"}, "normalisation": "none"}])
def test_the_lines_of_the_card_load_other_forms(
    form: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EncoderSettings(**{"width": 1, "normalisation": "imagenet", **form})
    network = classifier(settings)
    loading = FORMATS["robustbench"](model(network, settings, protocol="aff"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "DeACL2022_AFF", raising=False)
    found: dict[str, Any] = {}
    exec(loading.code, found)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found["model"](images), network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "record", "message"),
    [
        (
            {},
            {"dataset": "digits"},
            "RobustBench has cifar10 and cifar100, and .* on digits",
        ),
        ({}, {"recipe": RESIZED}, "of images of cifar10 that were resized to those of its pre-training, and RobustB"),
        ({"arch": "wide-resnet28-10"}, {}, "its encoder is a wide-resnet28-10"),
    ],
)
def test_what_cannot_be_an_entry_is_one_message(
    form: dict[str, Any], record: dict[str, Any], message: str, exported: Exported, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=message):
        FORMATS["robustbench"](model(exported.network, EncoderSettings(**form), **record), tmp_path)
    assert not list(tmp_path.iterdir())
