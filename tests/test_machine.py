"""The machine: what a CPU is called, and what is said where other programs leave too few of its cores."""

import subprocess
import sys
import time

import psutil
import pytest
import torch

from bench.device import crowding, device_name, starvation

CPU = torch.device("cpu")


def machine(patch: pytest.MonkeyPatch, *, cores: int, busy: float, threads: int) -> None:
    patch.setattr(psutil, "cpu_count", lambda: cores)
    patch.setattr(psutil, "cpu_percent", lambda interval: 100 * busy / cores)
    patch.setattr(torch, "get_num_threads", lambda: threads)


@pytest.mark.parametrize(("instructions", "named"), [("AVX2", True), ("AVX512", True), ("DEFAULT", False)])
def test_a_cpu_is_called_after_its_instructions(
    monkeypatch: pytest.MonkeyPatch, instructions: str, named: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    name = device_name(CPU)
    assert name.endswith(f"({instructions}), 3 threads" if named else ", 3 threads")
    assert (instructions in name) == named


@pytest.mark.parametrize(
    ("cores", "busy", "threads", "advised"),
    [(2, 0.0, 2, None), (2, 0.3, 2, None), (2, 1.0, 2, 1), (2, 2.0, 2, 1), (2, 2.0, 1, None), (16, 4.2, 16, 12)],
)
def test_as_many_threads_are_advised_as_cores_are_free(
    monkeypatch: pytest.MonkeyPatch, cores: int, busy: float, threads: int, advised: int | None
) -> None:
    machine(monkeypatch, cores=cores, busy=busy, threads=threads)
    said = crowding(CPU)
    if advised is None:
        assert said is None
    else:
        assert said is not None
        assert f"{busy:.1f} of {cores} CPU cores" in said
        assert f"--threads {advised} " in said


def test_a_gpu_does_not_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=2, busy=2.0, threads=2)
    assert crowding(torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("device", "wall", "spent", "expected"),
    [
        (
            CPU,
            100.0,
            4.0,
            "had 0.04 of a CPU core. On an idle one the times would be up to 25 times shorter",
        ),
        (CPU, 100.0, 90.0, None),
        (CPU, 100.0, 150.0, None),
        (torch.device("cuda"), 100.0, 4.0, None),
    ],
)
def test_a_measurement_without_a_core_of_its_own_is_told(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, wall: float, spent: float, expected: str | None
) -> None:
    now = {"wall": 5.0, "spent": 3.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["spent"])
    said = starvation(device)
    now["wall"] += wall
    now["spent"] += spent
    found = said()
    assert found is None if expected is None else expected in str(found)


def test_programs_that_compute_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = psutil.cpu_count()
    monkeypatch.setattr(torch, "get_num_threads", lambda: max(2, cores))
    busy = [
        subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
        for _ in range(cores)
    ]
    try:
        for child in busy:
            assert child.stdout is not None
            child.stdout.readline()
        assert crowding(CPU) is not None
    finally:
        for child in busy:
            child.kill()
            child.communicate()
