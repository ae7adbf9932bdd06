"""The command line refuses: one clear message for each mistake, and nothing half-written."""

import errno
import os
import pickle
import shlex
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from empty_folder import Bench, files, save, small
from empty_folder import bench as bench
from empty_folder import toy as toy
from in_process import Said

from bench.errors import BenchError, BusyRunError, Faults, unknown


def complaint(said: Said) -> str:
    """Return the one message of a refused command."""
    assert said.code == 1
    assert said.stdout == ""
    assert "Traceback" not in said.stderr
    assert said.stderr.count("bench: ") == 1
    before, message = said.stderr.split("bench: ")
    assert "rror" not in before
    return message


_OF_A_NAME = (
    *("compare NAME NAME", "evaluate NAME", "doctor NAME", "verify NAME --by me", "export NAME", "sweep-eps NAME"),
    *("report NAME", "correct NAME --reason authors --note x", "leaderboard --results-dir NAME"),
    *("runs --runs-dir NAME", "run simclr --dataset npz:/NAME"),
)
"""Commands that look for a file or a folder; no file system has names of 300 characters."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run decal", "unknown method 'decal'. Did you mean 'deacl'"),
        ("run simcrl", "unknown method 'simcrl'. Did you mean 'simclr'? "),
        ("run deacl --dataset digit", "unknown dataset 'digit'. Did you mean 'digits'?"),
        ("run deacl --tier tinny", "unknown tier 'tinny'. Did you mean 'tiny'?"),
        ("run deacl --tier ''", "--tier is given an empty text"),
        ("run deacl --preset ''", "--preset is given an empty text"),
        ("ablate deacl --table 1 --tier ''", "--tier is given an empty text"),
        ("sweep-eps --steps 0", "0 steps are no attack"),
        ("sweep-eps --step-size 0", "step_size: must be more than 0 (given: 0.0)"),
        ("sweep-steps --step-size nan", "step_size: must be a finite number"),
        ("run deacl --tier nowhere.toml", "cannot read the tier file nowhere.toml"),
        ("run deacl --set stage1.epoch=3", "unknown setting 'stage1.epoch'. Did you mean 'stage1.epochs'"),
        ("run deacl --set evaluate.esp=3", "unknown setting 'evaluate.esp'. Did you mean 'evaluate.eps'"),
        ("run simclr --accumulate 2", "stage1.accumulate=2: the batches of stage 'ssl' cannot be computed in parts."),
        (
            "run simclr --set ssl.epochs=3",
            "'ssl.epochs'. Did you mean 'stage1.epochs'? The sections of simclr's stages",
        ),
        ("run supervised --set stage1.lr=3", "'stage1.lr'. supervised has no stages of pre-training"),
        ("run deacl --set pseudo_at.lr=3", "Did you mean 'stage1.lr' or 'stage2.lr'?"),
        ("run deacl --set stage1=3", "stage1.KEY=VALUE"),
        ("run deacl --shared-only --json", "prints its file alone. Leave out --json"),
        ("compare a b --tier mini --precision fp32", "--tier, --precision: only for methods, which --dataset names"),
        ("compare a b --dataset digits --images", "--images: only for records, without --dataset. Leave it out"),
        ("doctor nosuch.safetensors --dataset digits", "there are no runs in runs"),
        ("run rocl --set stage1.projector=[]", "stage1.projector: must have at least 1 of them (given: [])"),
        ("run deacl --set x", "'x' is not of the form key=value"),
        ("run deacl --set slf.lr=1 --set slf.lr=2", "slf.lr is given twice, as 1 and as 2"),
        (
            "run deacl --set encoder.options.stem=3x3 --set encoder.options=5",
            "--set encoder.options and --set encoder.options.stem: the one",
        ),
        ("run deacl --set x --set slf.lr=1 --set slf.lr=2", "2 faults:\n- --set 'x' is not of the form"),
        ("run deacl --protocols slf,alff", "unknown protocol 'alff'. Did you mean 'alf'"),
        ("run deacl --protocols ,", "unknown protocol ''"),
        (
            "run deacl --protocols released,sfl",
            "\n- unknown protocol 'sfl'. Did you mean 'slf'? Allowed: aff, alf, knn, ",
        ),
        ("run decal --dataset digit --tier tinny --seed -1", "4 faults:\n- unknown method 'decal'"),
        ("run deacl --attacks pdg,apgdt", "2 faults:\n- unknown attack 'pdg'"),
        (
            'run deacl --set evaluate.corruption_names=\'["fogg","snoww"]\'',
            "? There are 15. unknown corruption 'snoww'",
        ),
        ("timing decal aclx", "2 faults:\n- unknown method 'decal'"),
        ("compare a b --measures ass,rar", "2 faults:\n- unknown measure 'ass'"),
        ("sweep-eps --eps 0,one,two", "--eps: 'one', 'two' are no numbers"),
        ("plan --methods decal,aclx --datasets digit --tier tinny", "4 faults:\n- unknown method 'decal'"),
        ("run deacl --set threat.eps=8", "write 8/255"),
        ("run deacl --set threat.eps=nan", "threat.eps"),
        ("run deacl --set threat.eps=8/0", "'8/0' is not a number"),
        ("run deacl --set evaluate.eps=-1", "evaluate.eps: must be at least 0 (given: -1)"),
        ("run deacl --set evaluate.pgd_steps=-1 --set slf.lr=x", "2 faults"),
        (
            "run simclr --set slf.batch_size=9999 --set stage1.batch_size=9999 --set stage1.drop_last=false",
            "2 faults:\n- slf.batch_size is 9999",
        ),
        ("run deacl --set stage1.batch_size=1438", "stage1.batch_size is 1438, but there are 1437 images to train on"),
        ("run deacl --set encoder.arch=resnet19", "unknown encoder 'resnet19'. Did you mean 'resnet18'"),
        ("run deacl --seed -1", "seed -1 is out of range; choose a whole number from 0 to 4294967295"),
        ("run deacl --seed 4294967296", "seed 4294967296 is out of range"),
        ("run deacl --device nonsense", "device 'nonsense' cannot be used here. Allowed: cpu"),
        ("run deacl --device cuda:99", "device 'cuda:99' cannot be used here. Allowed: cpu"),
        ("run deacl --dataset npz:", "npz:PATH"),
        ("run deacl --dataset npz:none.npz", "none.npz: no such file"),
        ("run deacl --dataset folder:nowhere", "cannot read nowhere/train"),
        *((command.replace("NAME", "a" * 300), "a" * 300) for command in _OF_A_NAME),
        ("leaderboard --results-dir nowhere", "there is no results folder nowhere"),
    ],
)
def test_a_mistake_is_one_message(bench: Bench, tmp_path: Path, arguments: str, message: str) -> None:
    assert message in complaint(bench(*shlex.split(arguments)))
    assert list(tmp_path.iterdir()) == []


def test_faults_of_parts_are_one_message_that_processes_can_exchange() -> None:
    inner, outer = Faults(), Faults()
    outer.refuse()
    for message in ("a", "b", "a"):
        with inner:
            raise BenchError(message)
    with outer:
        inner.refuse()
    with outer:
        raise BusyRunError("c")
    with pytest.raises(BenchError, match=r"^3 faults:\n- a\n- b\n- c$") as several:
        outer.refuse()
    assert str(pickle.loads(pickle.dumps(several.value))) == str(several.value)
    with pytest.raises(ZeroDivisionError), outer:
        _ = 1 / 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip file", "not an .npz file, or cut short"),
        ({"x_train": np.zeros((16, 8, 8, 3))}, "images must be uint8, 0..255"),
        ({"y_train": np.zeros(3, dtype=int)}, "x_train holds 16 images but y_train 3 labels"),
        ({}, "AutoAttack's targeted losses need at least 4 classes; bad has 2"),
    ],
)
def test_data_of_ones_own_that_cannot_be_used(
    bench: Bench, tmp_path: Path, content: bytes | dict[str, Any], message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "bad.npz").write_bytes(content)
    else:
        save(tmp_path / "bad.npz", **content)
    assert message in complaint(bench("run", "simclr", "--dataset", "npz:bad.npz"))
    assert files(tmp_path) == {"bad.npz"}


def test_an_npz_cut_short(bench: Bench, tmp_path: Path, toy: str) -> None:
    path = Path(toy.removeprefix("npz:"))
    path.write_bytes(path.read_bytes()[:-100])
    assert "Copy it again" in complaint(bench("run", "simclr", "--dataset", toy))


def test_a_download_without_a_network_says_what_to_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", unreachable)
    message = complaint(bench("run", "simclr", "--dataset", "cifar10", "--data-dir", "data"))
    assert "CIFAR10 is not in data and cannot be downloaded" in message
    assert "put it into data, and run the same command again" in message
    assert files(Path("data")) == {".cifar-10-python.tar.gz.lock"}, "one download at a time"


def test_a_device_that_is_not_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here it is")
    assert "device 'cuda' cannot be used here. Allowed: cpu." in complaint(bench("run", "simclr", "--device", "cuda"))


@pytest.mark.parametrize("option", ["--runs-dir", "--results-dir"])
def test_a_folder_that_cannot_be_made(bench: Bench, tmp_path: Path, toy: str, option: str) -> None:
    (tmp_path / "file").write_text("mine")
    message = complaint(bench("run", "simclr", "--dataset", toy, *small(), option, "file/x"))
    assert "cannot write file/x" in message
    assert f"{tmp_path / 'file'} is not a folder. Move it away, or choose another with {option}; then" in message
    assert files(tmp_path) == {"file", "given/toy.npz"}
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["plot", "curves", "--output", "file"],
            "file is not a folder. Move it away, or choose another with --output;",
        ),
        (["timing", "--output", "file/x"], "file: it is not a folder. Move it away, or choose another with --output;"),
        (["plot", "curves", "--output", ""], "--output is given an empty text. Give it a value, or leave it out."),
        (["run", "simclr", "--corruptions", ""], "--corruptions is given an empty text."),
    ],
)
def test_an_output_that_cannot_be(bench: Bench, tmp_path: Path, command: list[str], message: str) -> None:
    (tmp_path / "file").touch()
    published = Path(__file__).parents[1] / "results"
    more = ["--results-dir", str(published)] if command[0] == "plot" else []
    assert message in complaint(bench(*command, *more))
    assert files(tmp_path) == {"file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
@pytest.mark.parametrize("option", ["--runs-dir", "--results-dir"])
def test_a_folder_that_cannot_be_written(bench: Bench, tmp_path: Path, toy: str, option: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    message = complaint(bench("run", "simclr", "--dataset", toy, *small(), option, "locked"))
    assert "Permission denied" in message


@pytest.mark.parametrize("room", range(11))
def test_a_disk_that_fills_up_loses_nothing_that_was_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: str, room: int
) -> None:
    """``room``: how many files fit; the run writes eleven."""
    flush, left = os.fsync, [room]

    def full(descriptor: int) -> None:
        if not os.path.isdir(f"/dev/fd/{descriptor}"):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    command = ["run", "simclr", "--dataset", toy, "--no-estimate", *small()]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = complaint(bench(*command))
    assert "No space left on device" in message
    assert "run the same command again" in message
    assert not [name for name in files(tmp_path) if "unfinished" in name]
    assert not any(name.startswith("results/") for name in files(tmp_path))
    again = bench(*command)
    assert again.code == 0
    assert ("stage ssl: 0/16" in again.stderr) == (room < 3)  # its one epoch is the third file
    assert ("stage slf: 0/16" in again.stderr) == (room < 6)


def test_weights_of_another_recipe_in_the_stages_folder(bench: Bench, tmp_path: Path, toy: str) -> None:
    assert bench("run", "simclr", "--dataset", toy, *small()).code == 0
    other = ["run", "simclr", "--dataset", toy, *small(), "--seed", "1"]
    assert bench(*other).code == 0
    for file in (tmp_path / "runs").glob("toy-*-s0-*/slf-*/*"):
        file.unlink()
    for file in (tmp_path / "runs").glob("toy-*-s0-*/encoder.safetensors"):
        file.unlink()
    mine, theirs = sorted((tmp_path / "runs" / "stages").iterdir())
    (mine / "ssl.safetensors").write_bytes((theirs / "ssl.safetensors").read_bytes())
    message = complaint(bench("run", "simclr", "--dataset", toy, *small()))
    assert "ssl.safetensors belongs to another run" in message
    assert "Move it away, or choose another --runs-dir" in message


@pytest.mark.parametrize(
    "arguments",
    ["nonsense", "run", "runs --nope", "run deacl --seed x", "run deacl extra", "run deacl --devices 0"],
)
def test_usage_errors_exit_with_2(bench: Bench, arguments: str) -> None:
    said = bench(*arguments.split())
    assert said.code == 2
    assert said.stdout == ""
    assert "Usage: bench" in said.stderr
    assert "Traceback" not in said.stderr


def test_ctrl_c_before_anything_is_kept_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.prepare", pressed)
    assert bench("run", "simclr") == (130, "", "bench: interrupted\n")


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("nope", None),
        ("", None),
        ("moco", "'blobs-moco-tiny-uniform-s0' or 'blobs-moco-tiny-uniform-s1' or 'blobs-moco-tiny-uniform-s2'"),
        ("blob-MoCo-tiny-uniform-s5", "'blobs-moco-tiny-uniform-s5' or "),
    ],
)
def test_of_many_names_only_near_ones_are_proposed(name: str, proposed: str | None) -> None:
    names = [f"blobs-{method}-tiny-uniform-s{seed}" for method in ("simclr", "moco") for seed in range(9)]
    said = str(unknown("run", name, names, "`bench runs` lists them."))
    near = f" Did you mean {proposed}" if proposed else " There are 18."
    assert said.startswith(f"unknown run {name!r}.{near}")
    assert said.endswith(" There are 18. `bench runs` lists them.")
