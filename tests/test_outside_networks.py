"""Networks that were written elsewhere: versions of their parts, the classifier left out, and what a user is told."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_runs import SMALL, carry_out, toy_data, toy_request

from bench import evaluate, load_encoder, rng
from bench.cost import StageProbe
from bench.errors import BenchError
from bench.method import Stage, StepLoss
from bench.nn import ENCODERS, LeftOut, Normalise, build_encoder
from bench.recipe import EncoderSettings, TrainPlan
from bench.run import prepare
from bench.run.named import WeightChoices, open_encoder
from bench.zoo.weights import Weights, fit_weights

OWN = """
from torch import nn

class Boom(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 3)

    def forward(self, x):
        raise RuntimeError("boom")

class Large(Boom):
    def forward(self, x):
        return nn.functional.max_pool2d(x, 50).flatten(1)

class Plain(Boom):
    def forward(self, x):
        return super(Boom, self).forward(x).mean((2, 3))

class Grey(nn.Module):
    def __init__(self, image_shape=(1, 8, 8)):
        super().__init__()
        self.body = nn.Conv2d(image_shape[0], 4, 3)

    def forward(self, x):
        return self.body(x).mean((2, 3))

class Separable(nn.Module):
    def __init__(self, image_shape):
        super().__init__()
        self.stem = nn.Conv2d(image_shape[0], 4, 3)
        self.blocks = nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x):
        return self.blocks(self.stem(x)).mean((2, 3))

class Broken(Grey):
    def forward(self, x):
        return super().forward(x) * float("nan")

class Flat(Grey):
    def forward(self, x):
        return super().forward(x) * 0

def absent():
    return nn.Sequential(nn.Nothing())

class Pair(Grey):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)

class Wider(Grey):
    def forward(self, x):
        return super().forward(x).repeat(1, 2 if self.training else 1)

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return nn.functional.dropout(self.norm(x), training=self.training).mean((2, 3))

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))

    def forward(self, x):
        return self.body(x).mean((2, 3))
"""
CPU = torch.device("cpu")


def images(count: int = 4, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=rng.generator(0, "images"))


def published(name: str) -> nn.Module:
    with rng.scoped(0, "published"):
        network: nn.Module = torchvision.models.get_model(name).eval()
    return network


def test_a_probe_keeps_the_versions_of_the_parts_of_a_network() -> None:
    class Mean(Stage):
        name, plan = "mean", TrainPlan(epochs=1, batch_size=2, lr=0.1)

        def __init__(self) -> None:
            super().__init__()
            self.network = published("mnasnet0_5")

        def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
            return images

        def forward(self, views: Tensor) -> StepLoss:
            return StepLoss(self.network(views).mean())

    stage = Mean()
    before = {key: each.clone() for key, each in stage.state_dict().items()}
    StageProbe(stage, images(), device=CPU).seconds(2)
    assert all(torch.equal(before[key], each) for key, each in stage.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("torchvision:mobilenet_v3_small", {}, "classifier.3"),
        ("timm:convnext_atto", {"depths": [1, 1, 1, 1], "dims": [4, 4, 4, 8]}, "head.fc"),
    ],
)
def test_the_classifier_of_a_file_is_left_out_by_its_whole_name(name: str, options: dict[str, Any], head: str) -> None:
    if name.startswith("timm:") and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    settings = EncoderSettings(arch=name, options={**options, "input_size": 32}, normalisation="none")
    with rng.scoped(0, "outside"):
        encoder = build_encoder(settings, image_shape=(3, 32, 32), mean=(), std=()).eval()
    network = encoder.backbone.get_submodule("network")
    (place,) = (each for each, part in network.named_modules() if isinstance(part, LeftOut))
    assert place == head
    state = network.state_dict()
    file = {**state, f"{head}.weight": torch.zeros(10, encoder.feature_dim), f"{head}.bias": torch.zeros(10)}
    fitted = fit_weights(
        Weights(Path("w.pt"), "", {f"module.{key}": each for key, each in file.items()}), network, name
    )
    assert fitted.tensors.keys() == state.keys()
    assert fitted.dropped == {f"module.{head}": "a classifier of 10 classes (2 tensors)"}
    beside = f"{head.rpartition('.')[0]}.9.weight"
    with pytest.raises(BenchError, match=f"{beside}: 2, not absent"):
        fit_weights(Weights(Path("w.pt"), "", {**file, beside: torch.ones(2)}), network, name)


# What a user is told


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(OWN)


def refusal(name: str, channels: int = 3) -> str:
    settings = EncoderSettings(arch=ENCODERS.name_of(f"./net.py:{name}"))
    with pytest.raises(BenchError) as caught:
        build_encoder(settings, image_shape=(channels, 8, 8), mean=(), std=())
    return str(caught.value)


@pytest.mark.usefixtures("own")
def test_where_the_size_of_images_is_assumed_the_message_says_so() -> None:
    torch.save({"weight": torch.ones(4, 3, 3, 3), "bias": torch.ones(4)}, "w.pt")
    with pytest.raises(BenchError, match=r"images of 3x32x32") as caught:
        load_encoder("./net.py:Large", weights="w.pt", normalisation="none")
    assert "images of 32x32 are assumed here, whatever yours are: for images of 8x8, input_size=8" in str(caught.value)
    with pytest.raises(BenchError, match=r"images of 3x16x16") as caught:
        load_encoder("./net.py:Large", weights="w.pt", normalisation="none", options={"input_size": 16})
    assert "assumed" not in str(caught.value) + refusal("Large")


@pytest.mark.usefixtures("own")
def test_an_error_in_an_own_network_has_its_line_and_only_one_about_shapes_advises_to_resize() -> None:
    text = refusal("Boom")
    assert "./net.py:Boom cannot take images of 3x8x8" in text
    assert "raised RuntimeError in net.py, line 9: boom" in text
    assert "Resize" not in text
    assert "Resize them with --set encoder.options.input_size" in refusal("Large")
    text = refusal("Plain", channels=1)
    assert "It needs 3 channels. The data have 1 channels" in text
    assert "Resize" not in text
    text = refusal("absent")
    assert "./net.py:absent cannot be built" in text
    assert "net.py, line 45" in text


@pytest.mark.usefixtures("own")
def test_what_a_network_returns_in_training_is_refused_before_it_is_trained() -> None:
    assert "./net.py:Pair returns a tuple for 2 images in train mode, and no features" in refusal("Pair")
    assert "./net.py:Wider returns 4 features in eval mode and 8 in train mode" in refusal("Wider")


@pytest.mark.usefixtures("own")
def test_the_probe_in_train_mode_leaves_no_trace() -> None:
    settings, before = EncoderSettings(arch=ENCODERS.name_of("./net.py:Noisy")), torch.get_rng_state()
    norm = build_encoder(settings, image_shape=(3, 8, 8), mean=(), std=()).backbone.get_submodule("network.norm")
    assert torch.equal(torch.get_rng_state(), before)
    assert norm.training
    assert norm.num_batches_tracked == 0


def test_a_network_of_torchvision_has_no_auxiliary_classifiers() -> None:
    settings = EncoderSettings(
        arch="torchvision:googlenet", options={"input_size": 32, "init_weights": False}, normalisation="none"
    )
    with rng.scoped(0, "outside"):
        encoder = build_encoder(settings, image_shape=(3, 32, 32), mean=(), std=())
    assert encoder.feature_dim == 1024
    assert not [key for key in encoder.state_dict() if "aux" in key]


@pytest.mark.usefixtures("own")
def test_weights_for_other_channels_than_those_of_the_data_are_one_message() -> None:
    torch.save({"body.weight": torch.ones(4, 1, 3, 3), "body.bias": torch.ones(4)}, "grey.pt")
    encoder = load_encoder("./net.py:Grey", weights="grey.pt")
    with pytest.raises(BenchError, match="are for images of 1 channels, and the data have 3 channels") as caught:
        evaluate(encoder, toy_data(Path("toy.npz")), protocols="slf")
    assert ": body.weight: 4x1x3x3, not 4x3x3x3" in str(caught.value)


@pytest.mark.parametrize(("channels", "normalisation"), [(1, None), (3, None), (1, "cifar"), (3, "cifar")])
@pytest.mark.usefixtures("own")
def test_the_channels_of_a_sorted_file_are_those_of_the_first_convolution(
    channels: int, normalisation: str | None
) -> None:
    shapes = {"blocks.weight": (4, 1, 3, 3), "blocks.bias": (4,), "stem.weight": (4, channels, 3, 3), "stem.bias": (4,)}
    save_file({f"net.{key}": torch.ones(shape) for key, shape in shapes.items()}, "net.safetensors")
    choices = WeightChoices(Path("net.safetensors"), normalisation)
    if channels == 1 and normalisation:
        with pytest.raises(BenchError, match="is for images of 1 channels, and the normalisation has constants for 3"):
            open_encoder("./net.py:Separable", choices, {}, dataset=None, data_dir=Path("data"))
        return
    open_encoder("./net.py:Separable", choices, {}, dataset=None, data_dir=Path("data")).save(Path("own.safetensors"))
    assert load_encoder("own.safetensors")(images(2, channels)).shape == (2, 4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what follows from such features
@pytest.mark.usefixtures("own")
def test_useless_features_are_not_blamed_on_a_training_that_did_not_happen() -> None:
    torch.save({"body.weight": torch.ones(4, 3, 3, 3), "body.bias": torch.ones(4)}, "net.pt")
    data, settings = toy_data(Path("toy.npz")), {"slf.epochs": 1, "slf.batch_size": 8, "evaluate.autoattack": False}
    broken, flat = (load_encoder(f"./net.py:{name}", weights="net.pt") for name in ("Broken", "Flat"))
    with pytest.raises(BenchError, match="the network gives features that are not finite") as caught:
        evaluate(broken, data, protocols="slf", settings=settings)
    assert "rate" not in str(caught.value)
    with pytest.warns(UserWarning, match="the same features") as noted:
        evaluate(flat, data, protocols="slf", settings={**settings, "evaluate.pgd_steps": 1})
    (text,) = (str(each.message) for each in noted if "the same features" in str(each.message))
    assert "Look in its code" in text
    assert "pre-training" not in text


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.usefixtures("own")
def test_weights_that_each_step_computes_are_copied_for_attacks_and_students(tmp_path: Path) -> None:
    arch, short = {"encoder.arch": "./net.py:Normed"}, {"stage2.epochs": 1, "stage2.batch_size": 8}
    small = {key: value for key, value in SMALL.items() if key != "encoder.width"}
    request = toy_request(toy_data(Path("toy.npz")), tmp_path, method="deacl", overrides={**small, **short, **arch})
    ((record, _),) = carry_out(request, tmp_path / "results")
    assert record.method == "deacl"
    with pytest.raises(BenchError, match="AP-DPE splits its encoder after layer3, so it needs a ResNet of the bench"):
        prepare(replace(request, method="ap-dpe", overrides=arch))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 4, 8, 8)])
def test_images_of_other_channels_are_refused_and_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(BenchError, match=rf"with C = 3; these have the shape \[{shape[0]}, "):
        Normalise([0.5] * 3, [0.2] * 3)(torch.rand(shape))
