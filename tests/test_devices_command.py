"""bench run --devices 2: one of its processes is killed or asked to stop, and the next call goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from toy_runs import SMALL, toy_data

from bench.recipe import override_text
from bench.zoo import load_tensors

MAIN = "from bench.cli import main; main()"


def start(folder: Path, runs: str, devices: int) -> "subprocess.Popen[str]":
    settings = {**SMALL, "stage1.epochs": 30, "slf.epochs": 1}
    command = [sys.executable, "-c", MAIN, "run", "simclr", "--dataset", toy_data(folder / "toy.npz")]
    command += ["--protocols", "slf", "--device", "cpu", "--no-estimate", "--devices", str(devices)]
    command += ["--runs-dir", str(folder / runs), "--results-dir", str(folder / f"results {runs}")]
    for key, value in settings.items():
        command += ["--set", override_text(key, value)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finish(folder: Path, runs: str, devices: int) -> dict[str, torch.Tensor]:
    process = start(folder, runs, devices)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (path,) = (folder / runs).rglob("encoder.safetensors")
    return load_tensors(path).tensors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("device", [0, 1])
def test_what_ends_one_device_ends_all_and_the_next_call_goes_on(tmp_path: Path, device: int, number: int) -> None:
    straight = finish(tmp_path, "straight", 2)
    process = start(tmp_path, "runs", 2)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").rglob("ssl.training.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)
    os.kill(children[device].pid, number)
    _, said = process.communicate(timeout=120)
    assert not any(child.is_running() for child in children)
    messages = re.findall(r"^bench: .*", said, re.M)
    if number == signal.SIGKILL:
        assert process.returncode == 1
        assert messages == [
            f"bench: the process of device {device} ended with signal SIGKILL, so the others were ended too. The same "
            "command continues from the state that was saved last."
        ]
    else:
        assert process.returncode == 130
        assert messages == ["bench: interrupted; what is finished is saved. The same command continues from there."]
    gone_on = finish(tmp_path, "runs", 2)
    assert all(torch.equal(gone_on[name], value) for name, value in straight.items())
