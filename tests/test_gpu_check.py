"""The check of a GPU: a dry run of it on the CPU, what it says of faults and of time, and what it projects."""

import importlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cost import StageProbe, StepTimes
from bench.results import PublishedCosts

FOLDER = Path(__file__).parents[1] / "perf" / "gpu_check"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def part(name: str) -> Any:
    return importlib.import_module(name)


def smallest(folder: Path, **changes: Any) -> Any:
    return replace(part("conditions").Conditions.dry(CPU, folder), **changes)


def test_a_dry_run_measures_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one mode, and with one protocol: other tests resume every method."""
    modes = (part("conditions").TF32,)
    shorter = smallest(tmp_path, modes=modes, checked=("slf",))
    monkeypatch.setattr(part("conditions").Conditions, "dry", lambda device, folder: replace(shorter, folder=folder))
    assert part("check").main([str(tmp_path / "out"), "--device", "cpu", "--dry-run"]) == 0
    found = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    rows = {(row["section"], row["part"]): row for row in found["rows"]}
    assert {row["outcome"] for row in rows.values()} == {"done"}
    assert {section for section, _ in rows} == {"every method", "steps", "attacks", "whole recipes", "a run"}
    assert found["environment"]["dry_run"]
    step = rows["steps", "DeACL stage 2, PGD-5, batch 4, fp32 with TF32"]["figures"]
    assert step["flops_per_second"] == pytest.approx(step["flops"] / step["seconds"][0])
    assert rows["attacks", "AutoAttack, fp32 with TF32"]["figures"]["survivors"] == {"ours": 0}
    assert "epoch 1/1" in rows["a run", "DeACL, tier short, digits at 32 x 32, SLF"]["text"]
    table = (tmp_path / "out" / "gpu-check.md").read_text()
    assert "the numbers mean nothing" in table
    assert table.count("\n| ") == 2 + len(rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gpu-check.json", "gpu-check.md"]


def test_a_step_is_timed_in_bf16_and_compiled(tmp_path: Path) -> None:
    steps = part("gpu_steps").Steps(smallest(tmp_path))
    (compiled,) = (p for p in steps.parts() if p.name == "SLF, batch 4, bf16 + torch.compile")
    (row,) = part("sections").rows([part("sections").Section("steps", 1, [compiled])], 60)
    assert (row.outcome, row.figures["mode"]) == ("done", "bf16 + torch.compile")
    assert len(steps.times) == 1


def test_several_steps_in_a_row_are_timed_as_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = part("gpu_steps").Steps(smallest(tmp_path))
    probe = steps._probe(part("gpu_steps").Cell("SLF", 4, part("conditions").TF32))
    taken: list[int] = []

    def step(probe: StageProbe, images: torch.Tensor, index: torch.Tensor) -> None:
        time.sleep(0.01)
        taken.append(len(images))

    monkeypatch.setattr(StageProbe, "_step", step)
    assert 0.01 <= probe.seconds(4, steps=3) < 0.3
    assert taken == [4, 4, 4]


def test_state_that_is_not_saved_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {p.name: p for p in part("smoke").parts(smallest(tmp_path))}
    assert {"deacl", "slf", "alf", "aff"} == set(parts)
    monkeypatch.setattr("bench.train.checkpoint.restore_optimizer", lambda *arguments: None)
    with pytest.raises(AssertionError, match="differs from an uninterrupted one"):
        parts["slf"].work(60)


def test_a_fault_is_a_row_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = part("sections")

    def fails(left: float) -> Any:
        raise RuntimeError("no kernel | for this")

    def unable(left: float) -> Any:
        raise sections.LeftOutError("not installed")

    parts = [
        sections.Part("fails", fails),
        sections.Part("unable", unable),
        sections.Part("works", lambda left: sections.Finding("fast", {"seconds": 1.0})),
    ]
    monkeypatch.setattr(part("check"), "sections", lambda given: [sections.Section("one", 1, parts)])
    assert part("check").main([str(tmp_path), "--device", "cpu", "--dry-run"]) == 3
    rows = json.loads((tmp_path / "gpu-check.json").read_text())["rows"]
    assert [(row["outcome"], row["text"]) for row in rows] == [
        ("failed", "RuntimeError: no kernel | for this"),
        ("left out", "not installed"),
        ("done", "fast"),
    ]
    assert "RuntimeError: no kernel \\| for this |" in (tmp_path / "gpu-check.md").read_text()


def test_a_section_ends_with_its_share_and_leaves_the_rest_to_the_next() -> None:
    sections = part("sections")
    given: dict[str, float] = {}

    def works(name: str, seconds: float) -> Any:
        def work(left: float) -> Any:
            given[name] = left
            time.sleep(seconds)
            return sections.Finding("slept")

        return sections.Part(name, work)

    first = sections.Section("first", 1, [works("quick", 0), works("endless", 60), works("late", 0)])
    second = sections.Section("second", 2, [works("next", 0)])
    rows = list(sections.rows([first, second], 0.6))
    assert [(row.part, row.outcome) for row in rows] == [
        ("quick", "done"),
        ("endless", "left out"),
        ("late", "left out"),
        ("next", "done"),
    ]
    assert given["quick"] == pytest.approx(0.2, abs=0.02)
    assert given["next"] == pytest.approx(0.4, abs=0.1)


def test_hours_are_epochs_times_batches_times_the_step(tmp_path: Path) -> None:
    """1,000, 100 and 25 epochs of 195, 195 and 98 batches: SLF keeps the last batch, of 336 images."""
    names, mode = part("gpu_steps"), part("conditions").BF16
    steps = names.Steps(smallest(tmp_path, batches=(256, 512)))
    steps.parts()
    for stage, batch, seconds in ((names.SSL, 256, 0.01), (names.STUDENT, 256, 0.05), (names.LINEAR, 512, 0.01)):
        steps.times[names.Cell(stage, batch, mode)] = StepTimes({batch: [seconds]})
    parts = {p.name: p for p in part("hours").parts(steps, (mode,), PublishedCosts.under(tmp_path))}
    whole = parts["DeACL, published recipe, bf16"].work(1)
    assert whole.figures["hours"] == pytest.approx(
        {
            names.SSL: 1000 * 195 * 0.01 / 3600,
            names.STUDENT: 100 * 195 * 0.05 / 3600,
            names.LINEAR: 25 * (97 + 336 / 512) * 0.01 / 3600,
        }
    )
    assert "the target is 60 minutes, met" in whole.text
    assert "the paper: 10.8 GPU-hours" in whole.text
    assert "the target is 17 minutes, met" in parts["DeACL stage 2, PGD-5, batch 256, bf16"].work(1).text
    with pytest.raises(part("sections").LeftOutError, match="was not measured"):
        parts["PGD-10 training, batch 512, bf16"].work(1)


def test_without_a_gpu_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert part("check").main([str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert "type --dry-run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
