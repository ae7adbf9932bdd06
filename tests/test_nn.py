"""Networks: the published ResNet to the last parameter, and prepared copies that compute the same function."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bench import rng
from bench.device import count_flops
from bench.errors import BenchError
from bench.method import MethodContext
from bench.nn import ENCODERS, Classifier, Encoder, build_encoder, mlp
from bench.nn.resnet import resnet18, resnet34, resnet50
from bench.recipe import DatasetFacts, EncoderSettings, MethodConfig, TrainPlan, build_recipe, load_tier

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
FACTORIES = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}


def make_encoder(seed: int = 0, **settings: Any) -> Encoder:
    values = EncoderSettings(**{"width": 4, **settings})
    with rng.scoped(seed, "test"):
        return build_encoder(values, image_shape=(3, 16, 16), mean=MEAN, std=STD)


def make_images(count: int = 6, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=rng.generator(seed, "images"), dtype=dtype)


@torch.no_grad()
def unsettled(encoder: Encoder, seed: int = 1) -> Encoder:
    """Return ``encoder`` with batch-norm as after long training: every statistic and weight somewhere else."""
    generator = rng.generator(seed, "unsettled")
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.3, 3.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return encoder


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# The architecture


def test_resnet18_is_the_published_one() -> None:
    backbone = resnet18(width=64, image_shape=(3, 32, 32), stem_padding=1, stem_init="kaiming")
    assert sum(p.numel() for p in backbone.parameters()) == 11_168_832
    assert len(backbone.state_dict()) == 120
    assert backbone.feature_dim == 512


@pytest.mark.parametrize(("padding", "sizes"), [(1, (32, 32, 16, 8, 4)), (2, (34, 34, 17, 9, 5))])
def test_feature_maps_have_the_published_sizes(padding: int, sizes: tuple[int, ...]) -> None:
    backbone = resnet18(width=2, image_shape=(3, 32, 32), stem_padding=padding, stem_init="kaiming")
    seen = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        hook = lambda module, inputs, output, name=name: seen.update({name: tuple(output.shape)})  # noqa: E731
        backbone.get_submodule(name).register_forward_hook(hook)
    features = backbone(make_images(2, size=32))
    channels = (2, 2, 4, 8, 16)
    assert list(seen.values()) == [(2, c, size, size) for c, size in zip(channels, sizes, strict=True)]
    assert features.shape == (2, 16)


def torchvision_twin(arch: str, padding: int) -> nn.Module:
    """Torchvision's network with the stem, pooling and head of the CIFAR papers."""
    twin: nn.Module = getattr(torchvision.models, arch)()
    twin.conv1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False)
    twin.maxpool = nn.Identity()
    twin.fc = nn.Identity()
    return twin


@pytest.mark.parametrize(("arch", "padding"), [("resnet18", 1), ("resnet18", 2), ("resnet34", 1), ("resnet50", 2)])
def test_parity_with_torchvision_in_eval_and_train_mode(arch: str, padding: int) -> None:
    with rng.scoped(0, "parity"):
        ours = FACTORIES[arch](width=64, image_shape=(3, 32, 32), stem_padding=padding, stem_init="kaiming")
        twin = torchvision_twin(arch, padding)
    twin.load_state_dict(ours.state_dict())  # strict: every name and shape
    # float64: in train mode batch-norm over four images magnifies what float32 kernels round differently.
    ours, twin, images = ours.double(), twin.double(), make_images(4, size=9).double()
    for train in (True, False):  # training first, so that eval mode meets moved statistics
        expected, found = twin.train(train)(images), ours.train(train)(images)
        scale = float(expected.detach().abs().max())
        assert scale > 0.01
        assert float((found - expected).detach().abs().max()) < 1e-11 * max(1.0, scale)
    moved, reference = ours.state_dict(), twin.state_dict()
    assert all(torch.allclose(moved[name], reference[name], rtol=1e-11, atol=1e-12) for name in reference)
    assert int(moved["bn1.num_batches_tracked"]) == 1


def convolution_multiply_adds(padding: int) -> int:
    """Of ResNet-18 on one 32x32 image, layer by layer from the sizes of its maps."""
    stem, *maps = (32, 32, 16, 8, 4) if padding == 1 else (34, 34, 17, 9, 5)
    total = 9 * 3 * 64 * stem**2
    for stage, size in enumerate(maps):
        channels, before = 64 * 2**stage, 64 * 2 ** max(0, stage - 1)
        total += (9 * before * channels + 3 * 9 * channels**2) * size**2  # four 3x3 convolutions
        total += before * channels * size**2 if stage else 0  # and the shortcut
    return total


@pytest.mark.parametrize(("padding", "millions"), [(1, 555.4), (2, 703.6)])
def test_the_cost_of_one_image_is_the_published_one(padding: int, millions: float) -> None:
    backbone = resnet18(width=64, image_shape=(3, 32, 32), stem_padding=padding, stem_init="kaiming").eval()
    image = make_images(1, size=32)
    with torch.no_grad():
        _, flops = count_flops(lambda: backbone(image))
    assert flops == 2 * convolution_multiply_adds(padding)
    assert round(flops / 2e6, 1) == millions


def test_the_stem_is_initialised_as_asked() -> None:
    """Kaiming fan-out: std sqrt(2 / (9 * 64)); the framework's default: uniform within 1 / sqrt(9 * 3)."""
    stems = {}
    for init in ("kaiming", "default"):
        with rng.scoped(0, init):
            backbone = resnet18(width=64, image_shape=(3, 32, 32), stem_padding=1, stem_init=init)
            stems[init] = backbone.conv1.weight.detach()

    assert float(stems["kaiming"].std()) == pytest.approx((2 / 576) ** 0.5, rel=0.05)
    bound = 27**-0.5
    assert 0.99 * bound < float(stems["default"].abs().max()) <= bound
    assert float(stems["kaiming"].abs().max()) > bound * 0.9
    assert float(stems["default"].std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_other_convolutions_are_kaiming_fan_out() -> None:
    with rng.scoped(0, "init"):
        backbone = resnet18(width=32, image_shape=(3, 32, 32), stem_padding=1, stem_init="default")
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and name != "conv1":
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert not bool(module.bias.any())


@pytest.mark.parametrize("arch", list(FACTORIES))
def test_width_scales_the_features(arch: str) -> None:
    encoder = make_encoder(arch=arch, width=2)
    assert encoder.feature_dim == {"resnet18": 16, "resnet34": 16, "resnet50": 64}[arch]
    assert encoder(make_images(2)).shape == (2, encoder.feature_dim)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(BenchError, match=r"unknown encoder 'resnet19'\. Did you mean 'resnet18'"):
        make_encoder(arch="resnet19")


# Normalisation


@pytest.mark.parametrize(
    ("normalisation", "mean", "std"),
    [
        ("dataset", MEAN, STD),
        # DeACL repository, backbone: CIFAR-10's constants for every dataset.
        ("cifar", (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("none", (0.0,) * 3, (1.0,) * 3),
    ],
)
def test_normalisation_is_the_first_layer(normalisation: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    encoder, images = unsettled(make_encoder(normalisation=normalisation)).eval(), make_images()
    channels = [(images[:, c] - mean[c]) / std[c] for c in range(3)]
    expected = encoder.backbone(torch.stack(channels, dim=1))
    assert torch.allclose(encoder(images), expected, atol=1e-5)
    if normalisation != "none":
        assert not torch.allclose(encoder(images), encoder.backbone(images), atol=1e-2)


def test_the_constants_travel_with_the_weights() -> None:
    state = make_encoder().state_dict()
    assert len(state) == 122
    assert state["normalise.mean"].tolist() == pytest.approx(MEAN)
    other = make_encoder(seed=1, normalisation="cifar")
    other.load_state_dict(state)
    assert torch.equal(other.eval()(make_images()), make_encoder().eval()(make_images()))
    assert len(make_encoder(normalisation="none").state_dict()) == 120


# Prepared copies


@pytest.mark.parametrize("arch", list(ENCODERS))
@pytest.mark.parametrize("padding", [1, 2])
def test_a_prepared_copy_is_the_same_function(arch: str, padding: int) -> None:
    encoder, images = unsettled(make_encoder(arch=arch, width=2, stem_padding=padding)), make_images()
    before = tensors_of(encoder)
    prepared = encoder.train().prepared()
    with torch.no_grad():
        expected, found = encoder.eval()(images), prepared(images)
    scale = float(expected.abs().max())
    assert scale > 0.01
    assert float((found - expected).abs().max()) < 1e-5 * max(1.0, scale)
    if arch in FACTORIES:  # in the others, batch-norm comes before the convolution, and some of it stays
        assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    assert_same(tensors_of(encoder), before)


def test_a_prepared_copy_is_frozen_and_the_original_is_not() -> None:
    encoder = unsettled(make_encoder()).train()
    prepared = encoder.prepared()
    assert not any(p.requires_grad for p in prepared.parameters())
    assert not any(module.training for module in prepared.modules())
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(module.training for module in encoder.modules())
    shared = {p.data_ptr() for p in encoder.parameters()} & {p.data_ptr() for p in prepared.parameters()}
    assert not shared
    images = make_images().requires_grad_()
    prepared(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0
    assert all(p.grad is None for p in encoder.parameters())


def test_pixel_gradients_of_a_prepared_copy_agree() -> None:
    encoder = unsettled(make_encoder()).double()
    images = make_images(dtype=torch.float64)
    weights = torch.randn(len(images), encoder.feature_dim, generator=rng.generator(0, "w"), dtype=torch.float64)

    def gradient(model: nn.Module) -> Tensor:
        x = images.clone().requires_grad_()
        (found,) = torch.autograd.grad((model(x) * weights).sum(), x)
        return found

    expected = gradient(deepcopy(encoder).eval())
    error = torch.linalg.vector_norm(gradient(encoder.prepared()) - expected) / torch.linalg.vector_norm(expected)
    assert float(error) < 1e-10


def test_a_prepared_classifier_is_the_same_function() -> None:
    with rng.scoped(0, "head"):
        classifier = Classifier(unsettled(make_encoder()), nn.Linear(32, 5)).train()
    images = make_images()
    before = tensors_of(classifier)
    prepared = classifier.prepared()
    assert_same(tensors_of(classifier), before)
    expected = classifier.eval()(images)
    assert torch.allclose(prepared(images), expected, atol=1e-5)
    assert not any(p.requires_grad for p in prepared.parameters())
    assert all(p.requires_grad for p in classifier.parameters())


class Strange(nn.Module):
    """A backbone that the bench knows nothing about, where batch-norm comes first."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.bn1(x)).mean(dim=(2, 3))  # type: ignore[no-any-return]


def strange() -> Encoder:
    with rng.scoped(0, "strange"):
        return Encoder(Strange(), nn.Identity())


def test_a_backbone_that_cannot_be_folded_is_copied_as_it_is() -> None:
    encoder, images = unsettled(strange()), make_images()
    prepared = encoder.train().prepared()
    assert torch.equal(prepared(images), encoder.eval()(images))
    assert not any(p.requires_grad for p in prepared.parameters())


# Memory format


def formats(model: nn.Module, images: Tensor) -> list[bool]:
    """Whether each convolution's output lies in memory channels last."""
    seen: list[bool] = []

    def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output.is_contiguous(memory_format=torch.channels_last))

    handles = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


def test_everything_is_computed_channels_last() -> None:
    encoder, images = make_encoder(), make_images()
    assert images.is_contiguous()
    kernels = [m.weight for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(kernels) == 17
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    for model in (encoder, encoder.prepared()):
        seen = formats(model, images)
        assert len(seen) == 20
        assert all(seen)


# Named weights


@pytest.fixture
def context() -> MethodContext:
    class Config(MethodConfig):
        stage1: TrainPlan = TrainPlan(epochs=1, batch_size=2, lr=1)

    facts = DatasetFacts(
        **{"name": "toy", "sha256": "0" * 64, "image_shape": (1, 8, 8), "num_classes": 4, "train_images": 8},
        **{"test_images": 8, "eps": 0.1, "mean": (0.5,), "std": (0.25,)},
    )
    recipe = build_recipe(method="toy", config_type=Config, native_encoder={}, dataset=facts, tier=load_tier("tiny"))
    return MethodContext(recipe, seed=3, device=torch.device("cpu"), images=torch.zeros(8, 1, 8, 8, dtype=torch.uint8))


def test_the_same_names_give_the_same_weights(context: MethodContext) -> None:
    torch.manual_seed(0)
    first = tensors_of(context.new_encoder("ssl"))
    torch.manual_seed(1)
    assert_same(tensors_of(context.new_encoder("ssl")), first)
    weights = [
        context.new_encoder("student"),
        context.new_encoder("ssl", "student"),
        replace(context, seed=4).new_encoder("ssl"),
    ]
    assert all(
        not torch.equal(other.state_dict()["backbone.conv1.weight"], first["backbone.conv1.weight"])
        for other in weights
    )
    assert first["backbone.conv1.weight"].shape == (8, 1, 3, 3)  # the tier's width, the data's channels
    assert first["normalise.mean"].tolist() == [0.5]


def test_new_encoders_leave_the_global_generator_alone(context: MethodContext) -> None:
    before = torch.get_rng_state()
    context.new_encoder("ssl")
    with context.scoped("ssl", "head"):
        nn.Linear(3, 3)
    assert torch.equal(torch.get_rng_state(), before)


# Heads


# solo-learn's projectors: SimCLR and MoCo; BYOL's projector and predictor; Barlow Twins and VICReg.
@pytest.mark.parametrize(
    ("sizes", "batch_norm", "keys"),
    [
        ((512, 2048, 256), False, {"0": (2048, 512), "2": (256, 2048)}),
        ((512, 4096, 256), True, {"0": (4096, 512), "1": (4096,), "3": (256, 4096)}),
        ((16, 8, 8, 4), True, {"0": (8, 16), "1": (8,), "3": (8, 8), "4": (8,), "6": (4, 8)}),
        ((16, 4), True, {"0": (4, 16)}),
    ],
)
def test_heads_have_the_published_layers(
    sizes: tuple[int, ...], batch_norm: bool, keys: dict[str, tuple[int, ...]]
) -> None:
    head = mlp(sizes, batch_norm=batch_norm)
    weights = {name.removesuffix(".weight"): tuple(p.shape) for name, p in head.named_parameters() if "weight" in name}
    assert weights == keys
    assert all(f"{name}.bias" in head.state_dict() for name in keys)
    assert head(torch.zeros(3, sizes[0])).shape == (3, sizes[-1])


def test_a_head_is_affine_relu_affine() -> None:
    with rng.scoped(0, "head"):
        head = mlp([5, 7, 3])
    x = torch.randn(4, 5, generator=rng.generator(0, "x"))
    first, last = head[0], head[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    assert torch.allclose(head(x), hidden @ last.weight.T + last.bias, atol=1e-6)
    assert bool((head(x) < 0).any())  # nothing behind the last layer
