"""Networks of timm, of torchvision and of a user's own file are trained and judged like those of the bench."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import VARYING, Listener, toy_data

from bench import rng
from bench.errors import BenchError, InterruptedRunError
from bench.nn import ENCODERS, Encoder, branches, build_encoder
from bench.recipe import EncoderSettings
from bench.run import RunRequest, execute, prepare
from bench.run.encoder import load_encoder

pytest.importorskip("timm")

VIT = "timm:vit_tiny_patch16_224"
TINY = {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}
OWN = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, features=5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, features, 3, 2), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x):
        return self.body(x).mean((2, 3))

def maps(width):
    return nn.Conv2d(3, width, 3)

def classes():
    return 10

faulty = {"net": Small()}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(OWN)
    return file


def build(arch: str, side: int = 8, **options: Any) -> Encoder:
    with rng.scoped(0, "any encoder"):
        settings = EncoderSettings(arch=ENCODERS.name_of(arch), width=4, options=options)
        return build_encoder(settings, image_shape=(3, side, side), mean=(0.4,) * 3, std=(0.2,) * 3)


def images(count: int = 4, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=rng.generator(0, "images"))


# Form


@pytest.mark.parametrize(
    ("arch", "options", "features"),
    [
        (VIT, TINY, 12),
        ("timm:resnet18", {"input_size": 32}, 512),
        ("torchvision:mobilenet_v2", {"input_size": 32}, 1280),
    ],
)
def test_a_network_of_a_library_has_no_classifier_and_gradients_reach_the_pixels(
    arch: str, options: dict[str, Any], features: int
) -> None:
    encoder, x = build(arch, **options), images().requires_grad_()
    found = encoder.eval()(x)
    assert encoder.feature_dim == features
    assert found.shape == (4, features)
    found.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.ne(0).any(dim=(1, 2, 3)).all())
    assert torch.equal(encoder.prepared()(x), found)


def test_images_are_resized_within_and_only_where_they_differ() -> None:
    small, large = build(VIT, **TINY), build(VIT, side=16, **TINY)
    large.load_state_dict(small.state_dict())
    x = images()
    constant = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(large.eval()(constant), small.eval()(constant[..., :8, :8]), atol=1e-6)
    assert torch.equal(large(x), small(x)), "images of the size of the network are not touched"


def test_branches_without_batch_norm_are_one_network() -> None:
    first, second = branches(build(VIT, **TINY), 2)
    assert all(p is second.get_parameter(name) for name, p in first.named_parameters())


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        (
            "timm:vit_tiny_patch16_225",
            {},
            r"unknown network of timm 'vit_tiny_patch16_225'\. Did you mean 'vit_tiny_pat",
        ),
        ("timm:hf-hub:someone/net", {}, "unknown network of timm 'hf-hub:someone/net'"),
        ("timm:resnet18.mine", {}, "unknown weights of timm's resnet18 'mine'"),
        ("torchvision:resnet19", {}, "unknown network of torchvision 'resnet19'.*'resnet18'"),
        ("torchvision:squeezenet1_1", {}, "has no linear classifier"),
        (VIT, {**TINY, "pretrained": True}, "encoder.options.pretrained: weights come from --weights FILE alone"),
        (VIT, {**TINY, "checkpoint_path": "x.pth"}, "encoder.options.checkpoint_path: weights come from"),
        (VIT, {**TINY, "num_classes": 5}, "encoder.options.num_classes: it follows from"),
        (VIT, {**TINY, "heads": 2}, "cannot be built with encoder.options .*'heads'"),
        (VIT, {**TINY, "input_size": "big"}, "encoder.options.input_size=big: it must be a side"),
        (VIT, {**TINY, "input_size": 12}, r"cannot take images of 3x12x12: .*Resize them with --set"),
        ("resnet19", {}, "unknown encoder 'resnet19'.*Or timm:NAME, torchvision:NAME, or FILE.py:NAME"),
    ],
)
def test_what_is_not_there_is_one_message(arch: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        build(arch, **options)


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.nn.libraries.find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"needs timm\. Type: pip install 'ssl-robustness-bench\[timm\]'"):
        build(VIT)


# A user's own file


def test_an_own_network_gets_its_options_and_is_known_by_its_code(own: Path) -> None:
    encoder = build(f"{own}:Small", features=7)
    assert encoder(images()).shape == (4, 7)
    assert ENCODERS.name_of(f"{own}:Small").startswith("Small+")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maps", r"FILE.py:maps returns a tensor of shape \[2, 4, 6, 6\] for 2 images, and no features: \[2, D\]"),
        ("classes", r"FILE.py:classes makes a int, not a network\. Name a function or a class"),
        ("faulty", r"net.py:faulty is not a encoder: it is no function or class that makes a network"),
        ("smal", "unknown encoder in .*'smal'"),
    ],
)
def test_what_is_no_encoder_is_one_message(own: Path, name: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        build(f"{own}:{name}")


def test_a_recipe_that_names_a_file_does_not_load_it(own: Path) -> None:
    own.write_text("raise SystemExit('it was run')")
    with pytest.raises(BenchError, match="a file is loaded where it is typed alone"):
        EncoderSettings.parse({"arch": f"{own}:Small"}, "recipe")


# Training


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_a_run_with_it_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path, own: Path, kind: str) -> None:
    arch, options = (VIT, TINY) if kind == "timm" else (f"{own}:Small", {"features": 6})
    overrides: dict[str, Any] = {
        "encoder.arch": arch,
        **{f"encoder.options.{key}": each for key, each in options.items()},
    }
    overrides |= {"stage1.epochs": 2, "stage1.batch_size": 8, "stage1.optimizer": "adamw", "stage1.projector": [4, 4]}
    overrides |= {"slf.epochs": 1, "slf.batch_size": 8, "evaluate.pgd_steps": 1, "evaluate.autoattack": False}
    overrides |= {"stage1.lr": 0.01}
    data = toy_data(tmp_path / "toy.npz")

    def run(folder: str, listener: Listener) -> Any:
        request = RunRequest(
            "simclr", data, protocols=["slf"], overrides=overrides, runs_dir=tmp_path / folder, device="cpu"
        )
        prepared = prepare(request)
        ((record, _),) = execute(prepared, tmp_path / "results" / folder, listener)
        return record, load_encoder(prepared.folder.encoder)

    whole, expected = run("whole", Listener())
    with pytest.raises(InterruptedRunError):
        run("stopped", Listener(stop_at=2))
    resumed, found = run("stopped", Listener())
    assert found.sha256 == expected.sha256
    assert resumed.model_dump(exclude=VARYING) == whole.model_dump(exclude=VARYING)
    assert whole.recipe["encoder"]["arch"] == ENCODERS.name_of(arch)
    assert "timm" in whole.environment.packages
