"""A run that is killed, interrupted and terminated in every phase ends bit-identical to one that never was."""

import random
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from programs import Ended, Program
from short_autoattack import shorten

from bench.files import read_json
from bench.record import load_record
from bench.zoo import digest, load_tensors

TEST_IMAGES = 64
SETTINGS = {
    "encoder.width": 4,
    "stage1.epochs": 6,
    "stage1.batch_size": 32,
    "stage1.projector": "[8,4]",
    "stage2.epochs": 5,
    "stage2.batch_size": 32,
    "stage2.steps": 2,
    "slf.epochs": 25,
    "slf.batch_size": 32,
    "evaluate.eps": 0.06,
    "evaluate.batch_size": 4,
    "evaluate.pgd_steps": 10,
    "evaluate.pgd_step_size": 0.02,
    "evaluate.autoattack_images": 8,
    "evaluate.autoattack_batch": 8,
}
NOTHING: Mapping[str, object] = {}
TRANSFORMER = {
    "encoder.arch": "timm:vit_tiny_patch16_224",
    "encoder.options": "{img_size=8, patch_size=4, depth=1, embed_dim=12, num_heads=2, drop_path_rate=0.2}",
    "stage1.epochs": 8,
    "stage2.epochs": 8,
    **{f"stage{number}.{key}": value for number in (1, 2) for key, value in (("optimizer", "adamw"), ("lr", 0.01))},
    "evaluate.autoattack": "false",
}


class Interruption(NamedTuple):
    """A signal, and what must have been written since the program started before it is sent."""

    number: signal.Signals
    phase: str


INTERRUPTIONS = [
    Interruption(signal.SIGKILL, "ssl"),
    Interruption(signal.SIGINT, "pseudo_at"),
    Interruption(signal.SIGTERM, "slf"),
    Interruption(signal.SIGKILL, "pgd"),
    Interruption(signal.SIGKILL, "autoattack"),
]


class Finished(NamedTuple):
    """A finished run's folder, its record's file, and how each interruption on the way ended."""

    folder: Path
    record: Path
    endings: dict[Interruption, Ended]


def toy_dataset(path: Path) -> None:
    """Four classes of 8x8 images: noise with more red, green or blue, or with none of them.

    Neither views nor flips take that away, so that on every machine the classifier gets some images right, and some of
    these under attack: AutoAttack has something to do, and can be killed.
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 192), ("test", TEST_IMAGES)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 120, (count, 8, 8, 3))
        for image, label in zip(images, labels, strict=True):
            image[..., label:][..., :1] += 60  # the fourth class has no such channel
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, allow_pickle=False, **arrays)


def start(folder: Path, changes: Mapping[str, object]) -> Program:
    command = ["run", "deacl", "--protocols", "slf", "--device", "cpu", "--tier", "tiny"]
    command += ["--dataset", f"npz:{folder.parent / 'toy.npz'}"]
    command += [part for key, value in {**SETTINGS, **changes}.items() for part in ("--set", f"{key}={value}")]
    folder.mkdir(exist_ok=True)
    return Program(folder, *command)


def progress(folder: Path, phase: str) -> object:
    """Return something that changes whenever ``phase`` writes its state, None while it has not begun."""
    if phase in ("pgd", "autoattack"):
        for path in folder.glob("runs/*/slf-*/evaluation.json"):
            state = read_json(path)["state"]
            if phase == "pgd":
                return len(state["robust"]) if 0 < len(state["robust"]) < TEST_IMAGES else None
            attacks = state["autoattack"]
            return attacks and attacks["done"]
    for path in folder.glob(f"runs/**/{phase}.training.safetensors"):
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:  # the phase has just ended
            return None
    return None


def interrupt(
    folder: Path, interruption: Interruption, changes: Mapping[str, object] = NOTHING, wait: float = 0.0
) -> Ended:
    """Send the signal ``wait`` seconds after the phase has written its state."""
    before = progress(folder, interruption.phase)
    program = start(folder, changes)
    program.wait_for(lambda: progress(folder, interruption.phase) not in (None, before))
    time.sleep(wait)
    return program.end(interruption.number)


def finished(folder: Path, endings: dict[Interruption, Ended], changes: Mapping[str, object] = NOTHING) -> Finished:
    last = start(folder, changes).end()
    assert last.code == 0, last.stderr
    (run,), (record,) = folder.glob("runs/toy-deacl-*"), folder.glob("results/local/*/*")
    return Finished(run, record, endings)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("kill")
    toy_dataset(folder / "toy.npz")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, steps=20, queries=500)  # long enough to be killed in
        yield folder


@pytest.fixture(scope="module")
def unbroken(place: Path) -> Finished:
    return finished(place / "unbroken", {})


@pytest.fixture(scope="module")
def broken(place: Path) -> Finished:
    folder = place / "broken"
    endings = {}
    for interruption in INTERRUPTIONS:
        endings[interruption] = interrupt(folder, interruption)
        # As a process killed in the middle of a write leaves it behind, in the folder that the phase writes to.
        for place in folder.glob("runs/stages/*" if interruption.phase == "ssl" else "runs/toy-deacl-*"):
            (place / ".ssl.safetensors.abc.unfinished").write_bytes(b"half")
    return finished(folder, endings)


@pytest.mark.parametrize("interruption", INTERRUPTIONS, ids=lambda i: f"{i.number.name} in {i.phase}")
def test_each_interruption_ends_as_it_should(broken: Finished, interruption: Interruption) -> None:
    code, stdout, stderr = broken.endings[interruption]
    if interruption.number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert stderr.splitlines()[-1].startswith("bench: interrupted; what is finished is saved")
        assert stderr.count("bench: ") == 1
    assert "Traceback" not in stderr
    assert stdout == ""


def test_the_same_files_are_there_and_no_others(unbroken: Finished, broken: Finished) -> None:
    def names(run: Finished) -> list[str]:
        return sorted(str(path.relative_to(run.folder.parent)) for path in run.folder.parent.rglob("*"))

    assert broken.folder.name == unbroken.folder.name
    assert names(broken) == names(unbroken)
    assert not [name for name in names(broken) if "unfinished" in name or "training" in name]


@pytest.mark.parametrize("name", ["stages/*/ssl", "toy-*/pseudo_at", "toy-*/encoder", "toy-*/slf-*/slf"])
def test_weights_are_bit_identical(unbroken: Finished, broken: Finished, name: str) -> None:
    (one,), (other,) = (run.folder.parent.glob(f"{name}.safetensors") for run in (unbroken, broken))
    expected, found = load_tensors(one).tensors, load_tensors(other).tensors
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_the_records_say_the_same(unbroken: Finished, broken: Finished) -> None:
    one, other = load_record(unbroken.record), load_record(broken.record)
    varying = {"cost", "environment", "environments", "started", "finished", "sha256"}
    assert one.model_dump(exclude=varying) == other.model_dump(exclude=varying)
    assert one.cost.keys() == other.cost.keys()
    assert [phase.images for phase in one.cost.values()] == [phase.images for phase in other.cost.values()]
    assert one.aa is not None
    assert 0 < one.ra.outcome.correct < one.sa.correct  # or the attacks would have had nothing to decide


@pytest.mark.slow
def test_a_vision_transformer_that_is_killed_at_random_moments_ends_bit_identical(place: Path) -> None:
    """DeACL with AdamW and stochastic depth, killed between and within the steps of both stages."""
    pytest.importorskip("timm")
    whole = finished(place / "transformer", {}, TRANSFORMER)
    draw = random.Random(0)
    for phase in ("ssl", "pseudo_at"):
        killed = Interruption(signal.SIGKILL, phase)
        assert interrupt(place / "killed", killed, TRANSFORMER, draw.uniform(0, 0.2)).code == -signal.SIGKILL
    again = finished(place / "killed", {}, TRANSFORMER)
    for name in ("stages/*/ssl", "toy-*/pseudo_at", "toy-*/encoder", "toy-*/slf-*/slf"):
        (one,), (other,) = (run.folder.parent.glob(f"{name}.safetensors") for run in (whole, again))
        assert digest(load_tensors(one).tensors) == digest(load_tensors(other).tensors)
    records = [load_record(run.record) for run in (whole, again)]
    assert records[0].sa == records[1].sa
    assert records[0].ra == records[1].ra


def test_both_results_are_the_runs_own(unbroken: Finished, broken: Finished) -> None:
    for run in (unbroken, broken):
        (own,) = run.folder.glob("slf-*/record.json")
        assert read_json(own) == read_json(run.record)
