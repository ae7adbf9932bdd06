"""Timing: steps in turn, lines through them, and the whole recipes that follow."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.cost import (
    Data,
    Effort,
    StageProbe,
    StageTiming,
    StepTimes,
    Subject,
    data_like,
    random_facts,
    step_digest,
    time_in_turn,
    time_methods,
    time_pretraining,
)
from bench.cost.memory import live_bytes
from bench.cost.step_times import line
from bench.cost.timing import compare
from bench.method import METHODS, Stage, StepLoss
from bench.nn import build_encoder
from bench.recipe import EncoderSettings, MethodConfig, TrainPlan, load_tier
from bench.results import PublishedCosts

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[1] / "results"
DATA = Data(random_facts("random", (3, 8, 8), num_classes=10, train_images=40), images=40)
TINY = {"encoder.width": 1, "stage1.batch_size": 8, "stage1.projector": [4, 4]}


class Toy(Stage):
    """Learns one number, and keeps the order in which all toys take their steps."""

    name = "toy"
    order: list[tuple[str, int]] = []

    def __init__(self, label: str, batch_size: int = 4) -> None:
        super().__init__()
        self.label = label
        self.plan = TrainPlan(epochs=3, batch_size=batch_size, lr=0.1)
        self.weight = nn.Parameter(torch.ones(()))

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        self.order.append((self.label, len(images)))
        return images.float()

    def forward(self, views: Tensor) -> StepLoss:
        return StepLoss(self.weight * views.mean())


# A step


def test_stages_take_their_steps_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "order", [])
    probes = [StageProbe(Toy(label), DATA.random_images(), device=CPU) for label in "abc"]
    times = time_in_turn(probes, Effort(rounds=3, seconds=1))
    assert Toy.order[-12:] == [("a", 4), ("b", 4), ("c", 4)] * 4, "a warm-up, and three rounds"
    assert [{batch: len(seconds) for batch, seconds in each.seconds.items()} for each in times] == [{4: 3}] * 3


def test_batches_that_take_too_long_are_timed_smaller_and_at_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = [StageProbe(Toy(label, batch_size=512), DATA.random_images(), device=CPU) for label in "ab"]
    monkeypatch.setattr(StageProbe, "seconds", lambda self, batch: batch / 100)
    # 0.2 s go into the rough steps; four turns of two stages at a batch and a quarter of it take 0.1 s an image.
    for effort, sizes in (
        (Effort(rounds=3, seconds=2.6), {6, 24}),
        (Effort(rounds=3, seconds=1e9), {512}),
        (Effort(rounds=3, seconds=1e9, batch=16), {4, 16}),
        (Effort(rounds=3, seconds=0), {2, 8}),
        (Effort(rounds=3, seconds=0, patience=0), {2, 4}),
    ):
        assert [set(times.seconds) for times in time_in_turn(probes, effort)] == [sizes] * 2


def test_a_slow_warm_up_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = StageProbe(Toy("a", batch_size=512), DATA.random_images(), device=CPU)
    monkeypatch.setattr(StageProbe, "warm_up", lambda self, batch: time.sleep(0.2))
    monkeypatch.setattr(StageProbe, "seconds", lambda self, batch: batch / 1000)
    (times,) = time_in_turn([probe], Effort(rounds=1, seconds=0, patience=0.1))
    assert times.seconds == {2: [0.002], 8: [0.008]}


def test_batches_that_do_not_fit_the_memory_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(probe: StageProbe, batch: int) -> float:
        if batch > 100:
            raise torch.OutOfMemoryError
        return 0.1

    monkeypatch.setattr(StageProbe, "seconds", seconds)
    probes = [StageProbe(Toy("a", batch_size=size), DATA.random_images(), device=CPU) for size in (64, 512)]
    assert [set(times.seconds) for times in time_in_turn(probes, Effort(rounds=2, seconds=1e9))] == [{64}, {16, 64}]


def test_a_step_of_a_probe_leaves_the_stage_as_it_was() -> None:
    (stage,) = Subject.of("mocov2", DATA, tier=load_tier("paper"), overrides=TINY).stages(CPU)
    before = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    probe = StageProbe(stage, DATA.random_images(), device=CPU)
    weights = [parameter.clone() for parameter in stage.parameters()]
    probe.warm_up(8)
    probe.seconds(8)
    probe.memory(8)
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.state_dict().items())
    probe._step(*probe._batch(8))
    assert not all(torch.equal(a, b) for a, b in zip(weights, stage.parameters(), strict=True)), "steps do learn"


@pytest.mark.parametrize(("padding", "millions"), [(1, 555.4), (2, 703.6)])
def test_operations_are_those_of_the_published_network(padding: int, millions: float) -> None:
    class Forward(Toy):
        def __init__(self) -> None:
            super().__init__("forward")
            with rng.scoped(0, "test"):
                self.encoder = build_encoder(
                    EncoderSettings(stem_padding=padding), image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3
                ).requires_grad_(False)

        def forward(self, views: Tensor) -> StepLoss:
            return StepLoss(self.weight * self.encoder(views).mean())

    images = Data(random_facts("random", (3, 32, 32), 10, 8), images=8).random_images()
    probe = StageProbe(Forward(), images, device=CPU)
    assert round(probe.flops_per_image() / 2e6, 1) == millions
    assert (probe.passes().both, probe.passes().forward) == (0, 1), "what is frozen has no backward pass"


def test_memory_is_of_the_tensors_that_live() -> None:
    kept, module = torch.zeros(1000), nn.Identity()

    def work() -> None:
        module(torch.ones(10**6))  # the list begins where this is called
        first = torch.ones(500)  # 2,000 bytes
        second = first.repeat(4)  # and 8,000
        del first
        second.add_(1)
        kept.view(10, 100).add_(1)  # a view of what was there takes nothing
        torch.ones(250)

    live = live_bytes(work, [kept, kept], since=module)
    assert (live[0], max(live), live[-1]) == (4000 + 2000, 4000 + 2000 + 8000, 4000 + 8000 + 1000)


# From steps to recipes


def test_a_line_is_exact_on_lines_and_never_tilts_below_zero() -> None:
    exact = {8: 1 + 8 * 0.5, 32: 1 + 32 * 0.5}
    assert [line(exact, batch) for batch in (2, 8, 32, 512)] == [2, 5, 17, 257]
    assert line({8: 3.0}, 32) == 12.0, "one point and the origin"
    assert line({8: 9.0, 32: 8.0}, 512) == 8.0, "more images never take less"
    assert line({8: 1.0, 32: 8.0}, 64) == 16.0, "a step without images never takes less than nothing"


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_plan_takes_what_its_batches_take(drop_last: bool) -> None:
    plan = TrainPlan(epochs=3, batch_size=32, lr=0.1, drop_last=drop_last)
    times = StepTimes({8: [3.0, 2.0, 9.0], 32: [9.0, 9.0]})  # 1/4 s an image, and 1 s
    rest = 0 if drop_last else 1 + 4 / 4
    assert times.of(plan, 100) == pytest.approx(3 * (3 * 9 + rest))
    assert plan.images_per_epoch(100) == (96 if drop_last else 100)


def test_a_batch_in_parts_takes_what_its_parts_take() -> None:
    plan = TrainPlan(epochs=1, batch_size=32, lr=0.1, accumulate=4)
    times = StepTimes({8: [3.0], 32: [9.0]})
    assert times.step(plan, 32) == 4 * 3
    assert times.step(plan, 6) == 3 * times.at(2), "two images in each part"
    stage = Toy("a")
    stage.plan = plan
    probe = StageProbe(stage, DATA.random_images(), device=CPU)
    assert (probe.plan, stage.plan.accumulate) == (plan, 1)
    assert probe.memory(32, 4) == probe.memory(8) + stage.weight.nbytes
    (timed,) = time_in_turn([probe], Effort(rounds=1, seconds=1e9))
    assert max(timed.seconds) == 8


def test_all_of_a_method_is_projected() -> None:
    overrides = {"encoder.width": 1, "stage2.steps": 1, **{f"stage{n}.batch_size": 8 for n in (1, 2)}}
    subjects = [Subject.of(name, DATA, tier=load_tier("tiny"), overrides=overrides) for name in ("deacl", "advcl")]
    deacl, advcl = time_pretraining(subjects, Effort(rounds=1, seconds=60), device=CPU).stages.values()
    assert [stage.forward_backward for stage in (*deacl, *advcl)] == [2, 3, 2, 7], "no stage is frozen by the next"
    assert [stage.preparation_seconds is None for stage in (*deacl, *advcl)] == [True, True, True, False]
    for stage in (*deacl, *advcl):
        assert stage.images_per_second == pytest.approx(8 / stage.step_seconds)
        assert stage.training_seconds == pytest.approx(stage.epochs * 5 * stage.step_seconds)
        assert stage.total_flops == pytest.approx(stage.epochs * 40 * stage.flops_per_image)
        assert stage.peak_memory_bytes > 0
    assert advcl[1].total_seconds == advcl[1].training_seconds + (advcl[1].preparation_seconds or 0)


def test_a_stage_that_methods_share_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def seconds(probe: StageProbe, batch: int) -> float:
        measured.append(probe.stage.name)
        return float(len(measured))

    monkeypatch.setattr(StageProbe, "seconds", seconds)
    overrides = {"encoder.width": 1, "stage1.batch_size": 8}
    of_simclr = Subject.of("simclr", DATA, tier=load_tier("tiny"), overrides=overrides | {"stage1.epochs": 7})
    attacked = {"stage2.batch_size": 8, "stage2.steps": 1}
    of_deacl = Subject.of("deacl", DATA, tier=load_tier("tiny"), overrides=overrides | attacked)
    found = time_pretraining([of_simclr, of_deacl], Effort(rounds=3, seconds=60), device=CPU).stages
    (simclr,), (shared, own) = found["simclr"], found["deacl"]
    assert measured[-6:] == ["ssl", "pseudo_at"] * 3, "alternately, once a round for both methods"
    assert (shared.step, shared.seconds) == (simclr.step, simclr.seconds)
    assert own.seconds != shared.seconds
    assert simclr.epochs == 7 != shared.epochs
    assert simclr.training_seconds / 7 == pytest.approx(shared.training_seconds / shared.epochs)


class Chosen(MethodConfig):
    scale: float = 1.0
    stage1: TrainPlan = TrainPlan(epochs=3, batch_size=4, lr=0.1)


def test_steps_under_other_settings_of_a_method_are_other_steps() -> None:
    """ACL's variants take other numbers of operations, with the same plan and the same parameters."""

    def step(subject: Subject) -> str:
        (stage,) = subject.stages(CPU)
        return step_digest(stage, subject.recipe.encoder, (3, 8, 8))

    tier = load_tier("tiny")
    variants = [Subject.of("acl", DATA, tier=tier, overrides={"variant": name}) for name in ("a2a", "s2s")]
    assert step(variants[0]) != step(variants[1])


def step_of_toy(name: str, value: Any) -> str:
    """Return the digest of the step of a stage that keeps ``value``."""
    stage = Toy("a")
    setattr(stage, name, value)
    return step_digest(stage, EncoderSettings(), (3, 8, 8))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("variant", ("a", "b")),
        ("depth", (1, 2)),
        ("loss", (torch.sin, torch.cos)),
        ("config", (Chosen(), Chosen(scale=2.0))),
    ],
)
def test_what_a_stage_keeps_of_its_settings_tells_its_step(name: str, values: tuple[Any, Any]) -> None:
    first, second = values
    assert step_of_toy(name, first) == step_of_toy(name, first) != step_of_toy(name, second)


def test_the_epochs_of_a_kept_configuration_do_not_tell_its_step() -> None:
    longer = Chosen(stage1=TrainPlan(epochs=7, batch_size=4, lr=0.1))
    assert step_of_toy("config", longer) == step_of_toy("config", Chosen())


VIT = {"img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}


def test_networks_of_other_libraries_are_timed_and_what_cannot_train_one_is_left_out() -> None:
    pytest.importorskip("timm")
    overrides: dict[str, Any] = {"encoder.arch": "timm:vit_tiny_patch16_224", "encoder.options": VIT}
    overrides |= {"stage1.batch_size": 4, "stage1.steps": 1}
    subjects = [Subject.of(name, DATA, tier=load_tier("tiny"), overrides=overrides) for name in ("acl", "ap-dpe")]
    found = time_methods(subjects, Effort(rounds=1, seconds=60), device=CPU, papers=PublishedCosts(()).of)
    ((acl,),) = (each.stages for each in found.methods)
    assert acl.forward_backward == 6, "an image of 8 pixels is one pass, resized to 16"
    assert acl.flops_per_image > 6 * 2 * 2 * 16 * 3 * 4 * 4 * 12, "forward and backward through the first layer alone"
    assert found.encoder == "timm:vit_tiny_patch16_224"
    assert "it needs a ResNet of the bench" in found.left_out["ap-dpe"]


def made(name: str, seconds: float, flops: float) -> StageTiming:
    return StageTiming(
        **{"stage": name, "epochs": 2, "images_per_epoch": 10, "published_batch": 8, "precision": "fp32", "batch": 8},
        **{"seconds": {8: (1.0,)}, "step_seconds": 1.0, "images_per_second": 8.0, "forward_backward": 2.0},
        **{"forward": 0.0, "flops_per_image": flops, "peak_memory_bytes": 1, "preparation_seconds": None},
        training_seconds=seconds,
    )


def test_methods_are_compared_with_deacl_and_papers_with_theirs() -> None:
    stages = {"deacl": [made("ssl", 60, 1), made("pseudo_at", 40, 3)], "acl": [made("pretrain", 250, 8)]}
    deacl, acl = compare(stages, PublishedCosts.under(RESULTS).of)
    assert (deacl.total_seconds, deacl.to_reference, deacl.flops_to_reference) == (100, 1, 1)
    assert deacl.paper_to_reference == 1
    assert (acl.to_reference, acl.flops_to_reference, acl.total_flops) == (2.5, 2, 2 * 10 * 8)
    assert (acl.paper_gpu_days, acl.paper_to_reference) == (2.65, 2.65 / 0.45), "DeACL, Table 7"
    deacl, acl = compare(stages, PublishedCosts.under(RESULTS).of, reference="acl")
    assert (deacl.to_reference, acl.to_reference, deacl.paper_to_reference) == (0.4, 1, 0.45 / 2.65)
    (alone,) = compare({"acl": stages["acl"]}, PublishedCosts(()).of)
    assert (alone.to_reference, alone.paper_gpu_days, alone.paper_to_reference) == (None, None, None)


def test_a_method_from_a_file_has_no_cost_of_the_paper_whose_title_it_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Mine+aabbccdd"
    monkeypatch.setitem(METHODS._entries, name, METHODS.get("deacl"))
    (mine,) = compare({name: [made("ssl", 60, 1)]}, PublishedCosts.under(RESULTS).of)
    assert (mine.title, mine.paper_gpu_days, mine.paper_to_reference) == ("DeACL", None, None)


# Data without pixels


def test_random_images_are_many_and_different_in_little_memory() -> None:
    images = Data(random_facts("random", (3, 8, 8), 10, 40), images=10**5).random_images()
    assert (images.shape, images.dtype) == ((10**5, 3, 8, 8), torch.uint8)
    assert images.untyped_storage().nbytes() == 10**5 + 3 * 8 * 8 - 1
    assert len({image.numpy().tobytes() for image in images[:100]}) == 100


def test_named_data_need_not_be_there(tmp_path: Path) -> None:
    stl10 = data_like("stl10", tmp_path / "missing")
    assert (stl10.facts.image_shape, stl10.facts.train_images, stl10.images) == ((3, 96, 96), 5000, 105_000)
    assert data_like("cifar10", tmp_path / "missing").images == 50_000
    assert not (tmp_path / "missing").exists()
