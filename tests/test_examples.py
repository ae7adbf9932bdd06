"""The examples run as they stand."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data import Dataset, Split, load_dataset
from bench.record import load_record, record_files

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def test_train_and_evaluate_prints_what_its_records_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(FOLDER / "train_and_evaluate.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runpy.run_path(script, run_name="__main__")
    stdout = capsys.readouterr().out
    records = [load_record(path) for path in record_files(tmp_path / "results")]
    assert {record.title for record in records} == {"DeACL", "SimCLR"}
    for record in records:
        shown = re.search(rf"{record.title}: SA (\S+)% .* RA (\S+)% .* n = 360", stdout)
        assert shown is not None, stdout
        accuracies = record.sa.accuracy, record.ra.outcome.accuracy
        assert [float(value) for value in shown.groups()] == pytest.approx([100 * a for a in accuracies], abs=0.05)
    by_title = {record.title: record.ra.outcome.correct for record in records}
    gained, lost = map(int, re.findall(r"right on (\d+) .* loses (\d+) others", stdout)[0])
    assert gained - lost == by_title["DeACL"] - by_title["SimCLR"]


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: str(path.name))
def test_an_example_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 80


def test_the_exact_subset_is_the_first_images_of_each_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image carries its own position in two pixels."""
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    script = importlib.import_module("make_cifar_exact")

    def split(count: int) -> Split:
        position = torch.arange(count)
        images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
        images[:, 0, 0, 0], images[:, 1, 0, 0], images[:, 2] = position // 256, position % 256, 99
        return Split(images, position % 10)

    cifar = Dataset("cifar10", "cifar10", split(50_000), split(10_000), tuple("abcdefghij"))
    with pytest.raises(SystemExit, match="these are different images"):
        script.make(cifar, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    arrays = script.subset(cifar)
    for name, count in (("train", 5438), ("test", 1017)):
        images, index = arrays[f"x_{name}"].astype(int), arrays[f"index_{name}"]
        assert images.shape == (count, 32, 32, 3)
        assert (images[:, 0, 0, 0] * 256 + images[:, 0, 0, 1] == index).all()
        assert (arrays[f"y_{name}"] == index % 10).all()
    starts = [arrays["index_train"][i] for i in (0, 1101, 1102, 2118, 2119, 3135, 3136, 4420, 4421, 5437)]
    assert starts == [0, 1101, 10_000, 11_016, 20_000, 21_016, 30_000, 31_284, 40_000, 41_016]
    np.savez(tmp_path / "expected.npz", **arrays)
    expected = load_dataset(f"npz:{tmp_path / 'expected.npz'}", tmp_path).sha256
    script.make(cifar, tmp_path / "out.npz", expected)
    assert expected in capsys.readouterr().out
