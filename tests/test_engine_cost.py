"""What the engine counts: operations, seconds and images over all attempts, and the progress it reports."""

import platform
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_stage import CPU, EPOCHS, IMAGES, StopAfter, ToyStage, make_plan, run, state_file, stop_at

from bench import rng
from bench.data import ImageSource
from bench.device import Clock, PeakMemory
from bench.errors import InterruptedRunError
from bench.job import Job
from bench.method import Stage, StepLoss
from bench.record import PhaseCost
from bench.train import stage_progress, train
from bench.zoo import load_tensors, save_tensors

# Cost


class LinearStage(Stage):
    """Two linear layers, 12 to 5 to 3: multiply-adds that can be counted by hand."""

    name = "linear"

    def __init__(self) -> None:
        super().__init__()
        self.plan = make_plan(epochs=1)
        self.layers = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        return images.float().flatten(1)

    def forward(self, views: Tensor) -> StepLoss:
        return StepLoss(self.layers(views).square().mean())


def test_flops_are_those_counted_by_hand(tmp_path: Path) -> None:
    """Forward 60 + 15 multiply-adds, the same for the weights' gradients, 15 for the hidden layer's; two each."""
    progress = run(LinearStage(), tmp_path)
    assert progress.cost.flops_per_image == 2 * (75 + 75 + 15)


def test_counting_flops_changes_no_number(tmp_path: Path) -> None:
    """The first step runs under the counter; a resumed run takes it without."""
    stop_at(ToyStage(make_plan()), tmp_path / "counted", 1)
    stage = ToyStage(make_plan())
    stage.train()
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.01, weight_decay=1e-3)
    order = torch.randperm(11, generator=rng.generator(7, "toy", "order", 0))[:3]
    stage(stage.views(IMAGES[order], rng.generator(7, "toy", "views", 0, 0), order)).total.backward()
    optimizer.step()
    stage.after_step()
    tensors, metadata = load_tensors(state_file(tmp_path / "counted"))
    assert metadata["cost"]["flops_per_image"] > 0
    for name, value in stage.state_dict().items():
        assert torch.equal(tensors[f"stage.{name}"], value), name


def test_cost_adds_up_over_interruptions(tmp_path: Path) -> None:
    seconds = [0.0]
    for stopped in range(1, 4):
        stop_at(ToyStage(make_plan()), tmp_path, 2)
        progress = stage_progress(tmp_path, "toy")
        assert progress is not None
        seconds.append(progress.cost.seconds)
        assert progress.cost.images == [6, 11, 17][stopped - 1]
        assert progress.epochs(steps=4) == stopped / 2
    progress = run(ToyStage(make_plan()), tmp_path)
    seconds.append(progress.cost.seconds)
    assert all(before < after for before, after in pairwise(seconds))
    assert progress.cost.images == 11 * EPOCHS
    assert progress.cost.images_per_second == progress.cost.images / progress.cost.seconds


def test_earlier_attempts_keep_their_seconds(tmp_path: Path) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, 5)
    tensors, metadata = load_tensors(state_file(tmp_path))
    metadata["cost"]["seconds"] = 1000.0
    save_tensors(state_file(tmp_path), tensors, metadata)
    assert 1000 < run(ToyStage(make_plan()), tmp_path).cost.seconds < 1060


def test_the_time_of_a_review_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Reviewed(ToyStage):
        def after_epoch(self, epoch: int, images: ImageSource) -> dict[str, float]:
            now[0] += 1.0
            return {}

    assert run(Reviewed(make_plan()), tmp_path).cost.seconds == EPOCHS


# Progress


def test_a_resumed_run_reports_what_was_done_before(tmp_path: Path) -> None:
    class Listener(StopAfter):
        def __init__(self, steps: int) -> None:
            super().__init__(steps)
            self.images, self.phases = 0, list[tuple[str, int, int]]()

        def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
            self.phases.append((phase, total, done))
            self.images = done

        def advance(self, amount: int, detail: str = "") -> None:
            super().advance(amount, detail)
            self.images += amount

    def listen(steps: int) -> Listener:
        listener = Listener(steps)
        stage = ToyStage(make_plan())
        with suppress(InterruptedRunError):
            train(stage, IMAGES, Job(tmp_path, "mine", 7, CPU, listener))
        return listener

    first, second = listen(6), listen(10**9)
    assert first.phases == [("stage toy", 33, 0)]
    assert first.images == 17
    assert second.phases == [("stage toy", 33, 17)]
    assert second.images == 33


# Peak memory


def test_the_peak_is_that_of_a_block_and_not_of_the_process_so_far() -> None:
    before = PeakMemory(CPU)
    if before.bytes is None:
        pytest.skip("this kernel does not let a process set its high-water mark back")
    size = 256 * 2**20
    large = torch.ones(size, dtype=torch.uint8)
    high = before.bytes
    del large
    after = PeakMemory(CPU)
    small = torch.ones(2**20)
    assert after.bytes is not None
    assert after.bytes < high - size // 2
    del small


def test_the_peak_of_a_training_is_that_of_its_epochs_and_not_of_the_review_after_them(tmp_path: Path) -> None:
    class Large(ToyStage):
        def before_epoch(self, epoch: int) -> None:
            torch.ones(2**26, dtype=torch.uint8)

    before = PeakMemory(CPU).bytes
    if before is None:
        pytest.skip("this kernel does not let a process set its high-water mark back")
    assert (run(Large(make_plan(epochs=1)), tmp_path).cost.peak_memory_bytes or 0) > before + 2**25


_PAGE_FAULTS = """
import resource

import torch

from bench.device import keep_freed_memory, return_freed_memory


def page_faults_of_a_tensor():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


keep_freed_memory()
kept = [page_faults_of_a_tensor() for _ in range(30)]  # the first few may find no gap that is large enough
return_freed_memory()
print(kept[-1], page_faults_of_a_tensor())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory on request")
def test_freed_memory_is_kept_for_the_next_tensor_and_returned_for_the_next_phase() -> None:
    # In a process of its own: what earlier tests left in the heap decides where the next tensor comes from.
    program = [sys.executable, "-c", _PAGE_FAULTS]
    kept, returned = map(int, subprocess.run(program, capture_output=True, text=True, check=True).stdout.split())
    assert kept < 100
    assert returned > 1000


def test_a_peak_that_cannot_be_measured_is_absent(tmp_path: Path) -> None:
    assert PeakMemory(CPU, tmp_path / "nothing").bytes is None
    assert PeakMemory(torch.device("mps")).bytes is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\n")
    assert PeakMemory(CPU, tmp_path).bytes == 2 * 2**20
    assert (tmp_path / "clear_refs").read_text() == "5"
    cost = PhaseCost.nothing("toy")
    assert cost.plus(Clock(CPU)).peak_memory_bytes == pytest.approx(PeakMemory(CPU).bytes or 0, rel=0.5)
    assert cost.plus(Clock()).peak_memory_bytes is None


def test_a_state_from_before_this_was_kept_has_no_peak_and_no_code(tmp_path: Path) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, 5)
    tensors, metadata = load_tensors(state_file(tmp_path))
    del metadata["environments"]
    save_tensors(state_file(tmp_path), tensors, metadata)
    listener = StopAfter(10**9)
    progress = run(ToyStage(make_plan()), tmp_path, monitor=listener)
    assert progress.cost.peak_memory_bytes is None
    unknown, now = progress.environments
    assert unknown is None
    assert now is not None
    (note,) = listener.notes
    assert "with code that differs from the present code, or is not known" in note
