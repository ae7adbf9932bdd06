"""Energy: what counters say, across their wrap and across interruptions, and nothing where they say nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_runs import Listener, carry_out, toy_data, toy_request

from bench.device import Clock, Counter, EnergyMeter, energy_counters
from bench.errors import InterruptedRunError
from bench.record import PhaseCost

CPU = torch.device("cpu")


def counter(*values: int, joules: float = 0.5, wraps_at: int | None = None) -> Counter:
    readings = iter(values)
    return Counter(lambda: next(readings), joules, wraps_at)


def test_counters_add_up_across_their_wrap() -> None:
    meter = EnergyMeter([counter(90, 95, 5, 6, wraps_at=100), counter(0, 1, 1, 11, joules=2.0)])
    meter.look()
    meter.look()
    assert meter.joules == (5 + 10 + 1) * 0.5 + 11 * 2.0


def test_what_is_not_reported_is_absent() -> None:
    assert EnergyMeter([]).joules is None
    gone = EnergyMeter([counter(1, 2)])
    assert gone.joules == 0.5
    assert gone.joules is None, "a counter that stopped to answer leaves no total"
    assert EnergyMeter([counter()]).joules is None


def package(folder: Path, name: str, microjoules: int, range_: int = 1000) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{range_}\n")
    return folder / name / "energy_uj"


def test_rapl_counts_packages_and_not_their_parts(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 900), package(tmp_path, "intel-rapl:1", 0)
    part = package(tmp_path, "intel-rapl:0:0", 0)
    meter = EnergyMeter(energy_counters(CPU, tmp_path))
    first.write_text("100\n")
    second.write_text("50\n")
    part.write_text("999\n")
    assert meter.joules == pytest.approx(250e-6)


def test_rapl_that_cannot_be_read_counts_nothing(tmp_path: Path) -> None:
    assert energy_counters(CPU, tmp_path / "missing") == []
    package(tmp_path, "intel-rapl:0", 0).unlink()
    assert energy_counters(CPU, tmp_path) == []


def test_energy_adds_up_only_where_all_of_it_was_measured() -> None:
    measured, blind = Clock(), Clock()
    measured._meter = EnergyMeter([counter(0, 4, 4, 4, 4)])
    start = PhaseCost.nothing("toy")
    assert start.plus(measured).plus(measured).energy_joules == 4.0
    assert start.plus(measured).plus(blind).energy_joules is None
    assert start.plus(blind).plus(measured).energy_joules is None


def test_a_run_records_its_energy_over_all_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ticks() -> Iterator[int]:
        total = 0
        while True:
            total += 1
            yield total

    readings = ticks()
    monkeypatch.setattr("bench.device.meter.energy_counters", lambda device: [Counter(lambda: next(readings), 1.0)])
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)
    listener = Listener(stop_at=2)
    with pytest.raises(InterruptedRunError):
        carry_out(request, tmp_path / "results", listener)
    ((record, _),) = carry_out(request, tmp_path / "results")
    # A reading as each clock starts (before training, and an epoch or part of one), one a step, and at its end:
    # 2 epochs of 3 steps in 3 parts make at least 6 + 3 readings of 1 J that do not open a clock.
    energy = record.cost["stage:ssl"].energy_joules
    assert energy is not None
    assert energy >= 9
    assert energy == int(energy)


def test_a_run_records_no_energy_where_none_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.device.meter.energy_counters", lambda device: [])
    ((record, _),) = carry_out(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path), tmp_path / "results")
    assert {cost.energy_joules for cost in record.cost.values()} == {None}
