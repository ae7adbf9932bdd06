"""Several devices compute what one does: loss, gradients and weights of every method, in float64."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import measure, outcomes
from processes import run_together
from short_autoattack import shorten
from test_methods import make_context
from torch import Tensor
from torch import distributed as dist
from torch.utils._pytree import tree_map_only
from toy_stage import CPU, IMAGES, StopAfter, ToyStage, make_plan, run

from bench import rng
from bench.data import on_device
from bench.data.views import StrongView
from bench.errors import BenchError, InterruptedRunError
from bench.method import METHODS, Stage, StepLoss
from bench.nn import build_encoder
from bench.parallel import check_devices, on_first, over_devices, refuse_uneven, sharing, synchronise
from bench.protocol import build_protocol
from bench.train import check_plan, take_step

PROTOCOLS = ("slf", "alf", "aff")
BATCH = 6
"""A multiple of 2 and of 3 devices; the second batch of an epoch may hold one image less."""
SMALL: dict[str, dict[str, Any]] = {
    "advcl": {"stage2__clusters": [2, 3], "stage1__projector": [8, 4]},
    **{name: {"stage1__projector": [8, 4]} for name in ("barlow_twins", "byol", "deacl", "mocov2", "simclr", "vicreg")},
}
Found = dict[str, Any]


def in_float64(stage: Stage) -> Stage:
    """Make ``stage`` compute in float64, its views included."""
    views = stage.views

    def wide(*arguments: Any) -> Any:
        return tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, views(*arguments))

    vars(stage)["views"] = wide
    return stage.double()


def stages(name: str) -> Iterator[tuple[Stage, Tensor]]:
    """Yield the stages of the method ``name``, or the protocol of that name, each with its images."""
    sizes = {section: {f"{section}.batch_size": BATCH} for section in ("stage1", "stage2", *PROTOCOLS)}
    if name in PROTOCOLS:
        context = make_context("simclr", **sizes[name])
        data = context.recipe.dataset
        with rng.scoped(0, "encoder"):
            encoder = build_encoder(context.recipe.encoder, image_shape=data.image_shape, mean=data.mean, std=data.std)
        labels = torch.arange(len(context.images)) % data.num_classes
        yield build_protocol(name, context.recipe, encoder, labels, seed=0), context.images
        return
    changes: dict[str, Any] = {}
    for section, plan in METHODS.get(name).config_type().plans().items():
        changes |= sizes[section]
        if "steps" in type(plan).model_fields:
            changes[f"{section}.steps"] = 1 if name in ("advcl", "ap-dpe") else 2
    context = make_context(name, **changes, **SMALL.get(name, {}))
    for stage in METHODS.get(name)(context.recipe.config).stages(context):
        yield stage, context.images


def trained(name: str) -> Found:
    """Return losses, gradients, weights and buffers after two steps of each stage of ``name``."""
    found: Found = {}
    for stage, images in stages(name):
        stage.before_training(on_device(images, CPU))
        stage = in_float64(stage).train()
        optimizer = stage.optimizer()
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        second = BATCH - (not stage.plan.drop_last)
        for step, index in enumerate((torch.arange(BATCH), torch.arange(BATCH, BATCH + second))):
            scaler = torch.amp.GradScaler("cpu", enabled=False)
            loss = take_step(stage, images[index], index, rng.generator(0, "views", step), optimizer, scaler)
            found |= {f"{stage.name} loss {step}": loss.total.detach()}
            found |= {f"{stage.name} {key} {step}": value for key, value in loss.scalars.items()}
            found |= {
                f"{stage.name} gradient {step} {key}": p.grad.clone()
                for key, p in stage.named_parameters()
                if p.grad is not None
            }
        found |= {f"{stage.name} state {key}": value.clone() for key, value in stage.state_dict().items()}
    return found


NAMES = [*(name for name in METHODS if METHODS.get(name).config_type().plans()), *PROTOCOLS]


class Distributed(ToyStage):
    """A stage with everything that has to be kept, which several devices may train."""

    distributed = True


def toy() -> Stage:
    return in_float64(Distributed(make_plan()))


def stopped_on_one(folder: Path) -> None:
    """Train, and ask the last of the devices to stop after five steps."""
    last = dist.is_initialized() and dist.get_rank() == dist.get_world_size() - 1
    with pytest.raises(InterruptedRunError, match="what is finished is saved"):
        run(toy(), folder, monitor=StopAfter(5) if last or not dist.is_initialized() else None)


def of_toy(folder: Path) -> Found:
    """Train to the end, from wherever the run was, and return the weights."""
    stage = toy()
    run(stage, folder)
    return {name: value.numpy() for name, value in stage.state_dict().items()}


def one_norm_a_device(folder: Path | None = None, shares: int = 1) -> Found:
    """Take two steps with batch-norm of each device alone, and return losses, gradients and state.

    ``folder``: where a training is stopped after its first epoch. ``shares``: compute those of so many devices here.
    """
    plan = make_plan(batch_norm="device", batch_size=BATCH, drop_last=True)
    if folder:
        with pytest.raises(InterruptedRunError):
            run(Distributed(plan), folder, monitor=StopAfter(1))
    stage = in_float64(Distributed(plan)).train()
    optimizer, found = stage.optimizer(), Found()
    if shares > 1:
        vars(stage.encoder)["_features"] = partial(_of_each, stage.encoder, stage.encoder._features, shares)
    for step in range(2):
        scaler, index = torch.amp.GradScaler("cpu", enabled=False), torch.arange(BATCH)
        loss = take_step(stage, IMAGES[index], index, rng.generator(0, "views", step), optimizer, scaler)
        found |= {f"loss {step}": loss.total.detach().numpy()}
        found |= {f"gradient {step} {key}": p.grad.numpy() for key, p in stage.named_parameters() if p.grad is not None}
    return found | {key: value.numpy() for key, value in stage.state_dict().items()}


def _of_each(encoder: Any, network: Any, shares: int, images: Tensor) -> Tensor:
    """Pass each share through ``network`` by itself; the running statistics are those of the first one."""
    first, *others = images.tensor_split(shares)
    norm, features = encoder.backbone.norm, [network(first)]
    norm.momentum, momentum = 0.0, norm.momentum
    features += map(network, others)
    norm.momentum = momentum
    norm.num_batches_tracked -= len(others)
    return torch.cat(features)


KINDS = [(dtype, affine) for dtype in (torch.float64, torch.float32, torch.bfloat16) for affine in (True, False)]


def normalised(dtype: torch.dtype, affine: bool) -> Found:
    """Return what batch-norm makes of seven images, its gradients and its running statistics."""
    norm = torch.nn.BatchNorm2d(5, affine=affine)
    draw = rng.generator(0, "norm")
    for parameter in norm.parameters():
        parameter.data = torch.rand(5, generator=draw) + 0.5
    images = (torch.randn(7, 5, 4, 3, generator=draw) + 3).to(dtype, memory_format=torch.channels_last).requires_grad_()
    norm = norm.to(torch.promote_types(dtype, torch.float32))
    with sharing():
        y = over_devices(norm, images)
    (y * torch.randn(y.shape, generator=draw).to(y)).sum().backward()
    synchronise(norm)
    found = {"y": y.detach(), "images": images.grad, **{name: p.grad for name, p in norm.named_parameters()}}
    return {name: value.double().numpy() for name, value in {**found, **norm.state_dict()}.items()}


def strong_views() -> tuple[Any, set[int]]:
    """Return the views of the toy images, and how many a device made at once."""
    made = set[int]()

    class Counting(StrongView):
        def apply_(self, images: Tensor, draws: Any) -> Tensor:
            made.add(len(images))
            return super().apply_(images, draws)

    images = torch.randint(256, (13, 3, 16, 12), generator=rng.generator(0, "images")).to(torch.uint8)
    with sharing():
        views = Counting()(images, rng.generator(0, "views"))
    return views.numpy(), made


def measured(folder: Path) -> tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return outcomes(measure(folder / "7", batch_size=7)), outcomes(measure(folder / "64", batch_size=64))


def arrays(name: str) -> dict[str, Any]:
    return {key: value.numpy() for key, value in trained(name).items()}


def all_of_it(folder: Path) -> dict[str, Any]:
    """Do everything that the tests below look at; as arrays, since torch sends tensors by files."""
    methods = {name: arrays(name) for name in NAMES}
    methods["by the first"] = on_first(partial(arrays, "simclr"))
    stopped_on_one(folder / "goes on alone")
    stopped_on_one(folder / "goes on")
    weights = {
        "straight": of_toy(folder / "straight"),
        "gone on": of_toy(folder / "goes on"),
        "begun alone": of_toy(folder / "begun alone"),
    }
    norm = one_norm_a_device(folder / "norm")
    norms = {kind: normalised(*kind) for kind in KINDS}
    return {
        "views": strong_views(),
        "norms": norms,
        "methods": methods,
        "weights": weights,
        "outcomes": measured(folder / "evaluation"),
        "norm": norm,
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, Found]:
    return {name: trained(name) for name in NAMES}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return of_toy(tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, alone: dict[str, Found]
) -> tuple[list[Any], Path]:
    """Return what each device found, and the folder. After ``alone``, so that each finds all imports done."""
    folder = tmp_path_factory.mktemp("together")
    stopped_on_one(folder / "begun alone")
    return run_together(request.param, partial(all_of_it, folder)), folder


def assert_close(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(torch.as_tensor(found[key]), torch.as_tensor(value), rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_learns_what_it_learns_on_one_device(name: str, together: Any, alone: Any) -> None:
    for device in together[0]:
        assert_close(device["methods"][name], alone[name])


@pytest.mark.parametrize(("dtype", "affine"), KINDS)
def test_batch_norm_over_devices_is_that_of_the_whole_batch(dtype: torch.dtype, affine: bool, together: Any) -> None:
    exact, expected = normalised(torch.float64, affine), normalised(dtype, affine)
    for device in together[0]:
        found = device["norms"][dtype, affine]
        assert found.keys() == expected.keys()
        for key, value in exact.items():
            error, usual = (abs(each[key] - value).max() for each in (found, expected))
            assert (
                error <= 4 * usual + 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * abs(value).max()
            )


def test_each_device_makes_its_share_of_the_strong_views(together: Any) -> None:
    expected, _ = strong_views()
    shares = [len(part) for part in torch.arange(13).tensor_split(len(together[0]))]
    for device, share in zip(together[0], shares, strict=True):
        views, made = device["views"]
        assert made == {share}
        assert (views == expected).all()


def test_the_first_device_takes_steps_by_itself_while_the_others_wait(together: Any, alone: Any) -> None:
    """So a run on several devices measures how long it will take."""
    for device in together[0]:
        assert_close(device["methods"]["by the first"], alone["simclr"])


def test_a_run_goes_on_with_any_number_of_devices(together: Any, straight: Found) -> None:
    devices, folder = together
    for device in devices:
        for found in device["weights"].values():
            assert_close(found, straight)
    assert_close(of_toy(folder / "goes on alone"), straight)


def test_batch_norm_of_each_device_sees_its_share_alone(together: Any) -> None:
    """Losses, gradients, weights and the first device's running statistics are those of shares, not of the batch."""
    devices, folder = together
    expected = one_norm_a_device(shares=len(devices))
    for device in devices:
        assert_close(device["norm"], expected)
    assert abs(expected["loss 1"] - one_norm_a_device()["loss 1"]) > 1e-3
    with pytest.raises(
        BenchError, match=rf"^toy\.batch_norm=device: .* began on {len(devices)}, .*Type --devices {len(devices)}"
    ):
        run(Distributed(make_plan(batch_norm="device", batch_size=BATCH, drop_last=True)), folder / "norm")


def test_a_run_that_was_stopped_on_one_device_ends_bit_for_bit_the_same(together: Any) -> None:
    for device in together[0]:
        weights = device["weights"]
        assert all((value == weights["gone on"][name]).all() for name, value in weights["straight"].items())


def test_outcomes_depend_neither_on_devices_nor_on_the_batch(together: Any, tmp_path: Path) -> None:
    sevens, whole = measured(tmp_path)
    sa, ra, aa = sevens
    assert (sa, ra) == whole[:2]
    for device in together[0]:
        assert device["outcomes"] == (sevens, whole)
    assert 0 < ra.outcome.correct < sa.correct
    assert aa.outcome.correct < aa.outcome.n


# One message for each mistake


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim that this run has three devices."""
    for module in ("processes", "shares"):
        monkeypatch.setattr(f"bench.parallel.{module}.devices", lambda: 3)
    monkeypatch.setattr("bench.train.engine.devices", lambda: 3)


@pytest.mark.usefixtures("three")
def test_a_stage_that_does_not_say_so_is_refused_and_told_the_attribute() -> None:
    with pytest.raises(BenchError, match=r"stage .toy. \(ToyStage\) does not say .*set distributed = True"):
        check_plan(ToyStage(make_plan()), 11, CPU)


@pytest.mark.usefixtures("three")
def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(BenchError, match=r"stage1\.batch_size is 8, .* by 3 devices.*--set stage1\.batch_size=9"):
        refuse_uneven("stage1", 8)


@pytest.mark.parametrize("count", [0, 10**6])
def test_devices_that_are_not_there_are_refused(count: int) -> None:
    with pytest.raises(BenchError, match=rf"--devices {count}: this machine has \d+ CPU cores. Type --devices 1 to"):
        check_devices(count, "cpu")


# Parts of a batch


class Plain(Stage):
    """A loss that is a mean over images, without batch-norm and without random numbers."""

    name = "plain"
    per_image = True

    def __init__(self, accumulate: int) -> None:
        super().__init__()
        self.plan = make_plan(accumulate=accumulate)
        with rng.scoped(0, "plain"):
            self.layer = torch.nn.Linear(12, 3)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        return images.flatten(1).double() / 255

    def forward(self, views: Tensor) -> StepLoss:
        loss = self.layer(views).square().sum(1).mean()
        return StepLoss(loss, {"twice": 2 * loss.detach()})


@pytest.mark.parametrize("parts", [2, 3, 100])
def test_the_gradient_of_a_batch_is_that_of_its_parts(parts: int) -> None:
    def step(accumulate: int) -> tuple[StepLoss, Found]:
        stage = Plain(accumulate).double()
        scaler, index = torch.amp.GradScaler("cpu", enabled=False), torch.arange(7)
        loss = take_step(stage, IMAGES[index], index, rng.generator(0, "views"), stage.optimizer(), scaler)
        return loss, {name: value.clone() for name, value in stage.state_dict().items()}

    (whole, expected), (found, weights) = step(1), step(parts)
    torch.testing.assert_close(found.total, whole.total, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.scalars["twice"], 2 * whole.total, rtol=1e-14, atol=0)
    torch.testing.assert_close(weights, expected, rtol=1e-13, atol=0)


def test_parts_are_refused_where_the_loss_compares_images() -> None:
    with pytest.raises(BenchError, match=r"^stage1\.accumulate=2: .*Type --set stage1\.accumulate=1, .*per_image"):
        check_plan(ToyStage(make_plan(accumulate=2)), 11, CPU, "stage1")


@pytest.mark.parametrize(
    ("changes", "possible"),
    [({}, True), ({"stage2__loss": "ae2gt_infonce"}, False), ({"stage2__contrastive": 0.5}, False)],
)
def test_deacls_second_stage_is_computed_in_parts_where_no_term_compares(changes: Any, possible: bool) -> None:
    context = make_context("deacl", stage1__projector=[8, 4], **changes)
    *_, stage = METHODS.get("deacl")(context.recipe.config).stages(context)
    assert stage.per_image == possible
