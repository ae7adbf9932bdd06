"""What would stop a run during or after pre-training is found while it is prepared, whoever wrote the method."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_runs import SMALL, carry_out, changed, toy_data, toy_request

from bench.errors import BenchError
from bench.method import METHODS, MethodContext, Stage
from bench.nn import Encoder
from bench.run import EvaluationRequest, execute, prepare, prepare_evaluation
from methods.simclr import SimCLR, SimCLRStage


class Squashed(Encoder):
    """The weights fit a plain encoder, the function does not."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(super().forward(images)) + 1


class Plain:
    """SimCLR as a class of one's own."""

    info, config_type, native_encoder = SimCLR.info, SimCLR.config_type, SimCLR.native_encoder

    def __init__(self, config: Any) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        self._stage = SimCLRStage(self._config.stage1, ctx)
        yield self._stage

    def result(self) -> Encoder:
        return self._stage.encoder


class Stranger(Plain):
    """SimCLR that hands over features which it never says it squashes."""

    def result(self) -> Encoder:
        return self.changed(super().result())

    def changed(self, encoder: Encoder) -> Encoder:
        return Squashed(encoder.backbone, encoder.normalise)


class Cut(Stranger):
    """Hands over the backbone without its last block."""

    def changed(self, encoder: Encoder) -> Encoder:
        backbone: Any = encoder.backbone
        backbone.layer4 = backbone.layer4[:1]
        return encoder


class CutAndSaid(Cut):
    """The same, and says so."""

    def form(self, plain: Encoder) -> Encoder:
        return self.changed(plain)


class Doubled(Plain):
    """Two stages of one name."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        yield from super().stages(ctx)
        yield SimCLRStage(self._config.stage1, ctx)


class Overwriting(Plain):
    """A stage whose file would be the run's encoder."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        for stage in super().stages(ctx):
            stage.name = "encoder"
            yield stage


class Leaving(Plain):
    """A stage whose file would be in another folder."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        for stage in super().stages(ctx):
            stage.name = "my stage/1"
            yield stage


class Nameless(Plain):
    """A stage that says no name."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        for stage in super().stages(ctx):
            stage.name = None  # type: ignore[assignment]  # as if the class had none
            yield stage


class Unprintable(Plain):
    """A stage whose name no record can hold."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        for stage in super().stages(ctx):
            stage.name = "my\astage"
            yield stage


class Forgetful(Plain):
    """Yields no stage, as a function without ``yield``."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        return None  # type: ignore[return-value]


class Layered(Plain):
    """Yields a layer, which cannot be trained by itself."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        list(super().stages(ctx))
        yield nn.Linear(2, 2)  # type: ignore[misc]


class Planless(Plain):
    """A stage without a plan."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        for stage in super().stages(ctx):
            stage.plan = {}  # type: ignore[assignment]
            yield stage


class Listing(Plain):
    """Trains on positions in a list."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        for stage in super().stages(ctx):
            stage.positions = lambda count: list(range(count))  # type: ignore[method-assign, assignment, return-value]
            yield stage


class Silent(Plain):
    """Hands over nothing."""

    def result(self) -> Encoder:
        return None  # type: ignore[return-value]


class Formless(Plain):
    """Says that its encoder has another form, and does not make it."""

    def form(self, plain: Encoder) -> Encoder:
        return plain.backbone  # type: ignore[return-value]


class Doubling(Plain):
    """Makes all that follows float64."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        torch.set_default_dtype(torch.float64)
        yield from super().stages(ctx)


class Exact(Stranger):
    """Hands over an encoder in float64."""

    def changed(self, encoder: Encoder) -> Encoder:
        return encoder.double()


class Inverting(Plain):
    """A method that inverts the images themselves when it makes its stage."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        ctx.images.copy_(255 - ctx.images)
        yield from super().stages(ctx)


class Blackening(Plain):
    """A method that makes some of the images black when its stage is trained."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        yield from super().stages(ctx)
        if next(self._stage.parameters()).grad is not None:
            ctx.images[2:].zero_()


class Wide(Plain):
    """A second stage whose batches are larger than the data."""

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        yield from super().stages(ctx)
        stage = SimCLRStage(self._config.stage1.model_copy(update={"batch_size": 1000}), ctx)
        stage.name = "second"
        yield stage


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Plain]], str]:
    def register(cls: type[Plain]) -> str:
        list(METHODS)  # finds the plug-ins
        monkeypatch.setitem(METHODS._entries, "stranger", cls)
        return "stranger"

    return register


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (Cut, r"method 'stranger' .* has 12 tensors with other names, shapes or types, .* 'backbone\.layer4\.1\.bn1"),
        (Stranger, r"method 'stranger' .* it computes other features with the same weights\. Nothing is trained"),
        (Doubled, r"method 'stranger' has two stages called 'ssl'; rename one"),
        (Overwriting, r"method 'stranger' has a stage called 'encoder', as another file of a run is; rename it"),
        (Leaving, r"method 'stranger' has a stage called 'my stage/1', which cannot be the name of a file; rename it"),
        (Nameless, r"method 'stranger' has a stage without a name; give SimCLRStage one: name = "),
        (Unprintable, r"method 'stranger' has a stage called 'my\\x07stage', which cannot be the name of a file"),
        (Forgetful, r"method 'stranger' returned a NoneType from stages\(\)\. It must yield its stages"),
        (Layered, r"method 'stranger' yields a Linear from stages\(\)\. .* bench\.method\.Stage"),
        (Planless, r"has a stage whose plan is a dict; set the plan of SimCLRStage .* bench\.recipe\.TrainPlan"),
        (Listing, r"stage 'ssl' returned a list from positions\. It must return a tensor"),
        (Silent, r"method 'stranger' returned a NoneType from result\(\)\. .* made by ctx\.new_encoder\(\)"),
        (Formless, r"method 'stranger' returned a ResNet from form\(\)\. It must return an encoder"),
        (
            Doubling,
            r"method 'stranger' makes torch\.float64 the default type of torch, .* Leave torch\.set_default_dtype",
        ),
        (Exact, r"has 102 tensors with other names, shapes or types, the first"),
        (Inverting, r"method 'stranger' changes the training images in place.* Change a copy"),
        (Wide, r"second\.batch_size is 1000, but there are 24 images"),
    ],
)
def test_what_cannot_be_evaluated_is_not_trained(
    method: type[Plain], complaint: str, registered: Callable[[type[Plain]], str], tmp_path: Path
) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, method=registered(method))
    with pytest.raises(BenchError, match=complaint):
        prepare(request)
    assert not (tmp_path / "runs").exists()
    assert torch.get_default_dtype() == torch.float32


def test_another_default_type_is_refused_whoever_set_it(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(
            BenchError, match=r"the default type of torch is torch\.float64, .*torch\.float32\) after it"
        ):
            prepare(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_method_that_changes_the_images_while_it_trains_has_no_encoder(
    registered: Callable[[type[Plain]], str], tmp_path: Path
) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, method=registered(Blackening))
    run = prepare(request)
    with pytest.raises(BenchError, match="changes the training images in place"):
        execute(run, tmp_path / "results")
    assert not run.folder.encoder.exists()


def test_a_method_may_say_that_its_encoder_has_another_form(
    registered: Callable[[type[Plain]], str], tmp_path: Path
) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, method=registered(CutAndSaid))
    ((record, _),) = carry_out(request, tmp_path / "results")
    assert record.method == "stranger"


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("task", "export"), [("selfie", "trunk"), ("rotation", "trunk"), ("joint", "mean")])
def test_ap_dpes_other_ends_are_trained_saved_and_judged_again(task: str, export: str, tmp_path: Path) -> None:
    small = {key: value for key, value in SMALL.items() if key != "stage1.projector"}
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, method="ap-dpe", overrides=small)
    request = changed(request, task=task, export=export, stage1__steps=0, stage1__epochs=1, stage1__h_weight=0.0)
    run = prepare(request)
    ((record, _),) = execute(run, tmp_path / "results")
    again = prepare_evaluation(
        EvaluationRequest(run.folder.encoder, protocols=("slf",), overrides={"slf.lr": 0.5}, device="cpu")
    )
    ((other, _),) = execute(again, tmp_path / "results")
    assert other.encoder_sha256 == record.encoder_sha256
    assert other.classifier_sha256 != record.classifier_sha256
