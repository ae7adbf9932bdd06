"""The plan of a matrix: chains of jobs in closed form, shared stages once, and nothing that was not measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from in_process import say

from bench.cli._progress import rough_time
from bench.cli.plan import _lines, _table, _timed
from bench.cost import (
    AttackSeconds,
    Effort,
    PhaseEstimate,
    Projector,
    StageProbe,
    StepTimes,
    attack_digest,
    step_digest,
)
from bench.cost import projection as projection_module
from bench.data import Split
from bench.errors import BenchError
from bench.matrix import GridPlan, MatrixRequest, plan_costs
from bench.matrix import plan as plan_module
from bench.matrix.schedule import Timed, critical_path, time_on
from bench.nn import Classifier
from bench.protocol import build_protocol
from bench.run import RunRequest, prepare
from bench.run.encoder import plain_encoder

SETTINGS = {"encoder.width": 1, "evaluate.autoattack": False}


def test_a_chain_is_as_long_as_its_jobs_and_no_device_makes_it_shorter() -> None:
    jobs = [Timed("ssl", 5), Timed("other", 1), Timed("deacl", 7, ["ssl"]), Timed("simclr", 2, ["ssl"])]
    assert [job.name for job in critical_path(jobs)] == ["ssl", "deacl"]
    assert time_on(jobs, 1) == 15
    assert time_on(jobs, 2) == time_on(jobs, 8) == 12
    assert critical_path([]) == []
    equal = [Timed(str(n), 3.0) for n in range(10)]
    assert [time_on(equal, devices) for devices in (1, 3, 4, 10)] == [30, 12, 9, 3]


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training takes an hour, and an evaluation nothing."""

    class Hourly(Projector):
        def training(self, stage, images, encoder, phase, place):  # type: ignore[no-untyped-def]
            flops = 1e9 if phase == "stage ssl" else 6e8 if phase == "stage pseudo_at" else None
            return PhaseEstimate(phase, "", 3600.0, 1.0, place, flops, batch=64, timed=8)

        def attacks(self, *_: object) -> AttackSeconds:
            return AttackSeconds(0.0, 0.0)

    monkeypatch.setattr(plan_module, "Projector", Hourly)


def request_for(*methods: str, **changes: object) -> MatrixRequest:
    values = {"datasets": ["digits"], "protocols": ["slf"], "overrides": SETTINGS, "device": "cpu", **changes}
    return MatrixRequest(methods=methods, **values)  # type: ignore[arg-type]


@pytest.mark.usefixtures("hourly")
def test_a_measurement_on_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.matrix.plan.starvation", lambda device: lambda: f"busy: {device}")
    found = plan_costs(request_for("simclr"), 1)
    assert found.busy == "busy: cpu"
    assert _lines(found)[0] == "busy: cpu"
    assert _lines(found.model_copy(update={"busy": None})) == _lines(found)[1:]


@pytest.mark.usefixtures("hourly")
def test_a_shared_stage_counts_once_a_seed() -> None:
    found = plan_costs(request_for("deacl", "simclr", seeds=(0, 1, 2)), 8)
    assert [(row.method, row.jobs, row.hours_each, row.hours) for row in found.rows] == [
        ("(shared stage)", 3, 1, 3),
        ("deacl", 3, 2, 6),
        ("simclr", 3, 1, 3),
    ]
    assert (found.jobs, found.hours, found.known_hours, found.wall_hours, found.critical_hours) == (9, 12, 12, 3, 3)
    assert len(found.critical_path) == 2
    assert found.disk_bytes > 0
    # DeACL's 2 h of training spend 1.6e9 operations a seed, SimCLR's hour 1e9: equal compute gives SimCLR 1.6 h,
    # and a first stage of its own: of other epochs, it cannot be DeACL's.
    assert found.equal_compute is not None
    assert found.equal_compute.saved_hours == pytest.approx(-3 * (0.6 + 1))
    assert found.equal_compute.hours == pytest.approx(3 * (3 + 1.6 + 1))
    assert "energy_kwh" in found.absent or found.energy_kwh
    assert found.includes == ("stage ssl", "stage pseudo_at", "protocol slf", "RA, PGD-20", "the doctor's checks")
    assert (found.steps["stage ssl of simclr"].images, found.steps["stage ssl of simclr"].batch) == (8, 64)
    assert (
        "device time of: training; protocol slf; RA, PGD-20; the doctor's checks. Not included: reading data, "
        in _table(found).caption
    )
    assert "Measured: steps of 8 images, each kind once" in _table(found).caption


@pytest.mark.usefixtures("hourly")
def test_named_data_are_not_downloaded(tmp_path: Path) -> None:
    # In fp16, which a CPU does not train in; the plan is for a machine that does.
    fp16 = {**SETTINGS, "stage1.precision": "fp16"}
    asked = request_for("simclr", datasets=["cifar100"], tier="tiny", data_dir=tmp_path, device=None, overrides=fp16)
    found = plan_costs(asked, 1)
    assert found.hours == 2
    assert list(tmp_path.iterdir()) == []
    assert found.absent["equal_compute"] == "deacl is not among the methods"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_steps_are_not_timed_on_another_device_than_the_one_that_is_named() -> None:
    with pytest.raises(BenchError, match="device 'cuda' cannot be used here"):
        plan_costs(request_for("simclr", device="cuda"), 1)


def test_each_kind_of_step_and_attack_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two methods on data of two numbers of classes share their protocol; images of another size share nothing."""
    timed, attacked, told = [], [], list[str]()

    def steps(probes: Sequence[StageProbe], effort: Effort) -> list[StepTimes]:
        assert effort.seconds == 0
        assert effort.patience == 2
        timed.append((probes[0].stage.name, probes[0].images.shape[-1]))
        probes[0].rough_flops = 1e9
        return [StepTimes({8: [0.5]})]

    def attacks(self: Projector, classifier: Classifier, test: Split, *_: object) -> AttackSeconds:
        attacked.append(test.images.shape[-1])
        return AttackSeconds(0.25, 1.0)

    monkeypatch.setattr(projection_module, "time_in_turn", steps)
    monkeypatch.setattr(Projector, "_time_attacks", attacks)
    asked = {"datasets": ["cifar10", "cifar100", "stl10"], "tier": "tiny", "data_dir": tmp_path}
    found = plan_costs(request_for("simclr", "vicreg", **asked), 1, (), told.append)
    assert timed == [(name, side) for side in (32, 96) for name in ("ssl", "slf", "ssl")]
    assert attacked == [32, 96]
    assert [line for line in told if " of 6: " in line][:2] == [
        "1 of 6: simclr on cifar10",
        "2 of 6: vicreg on cifar10",
    ]
    assert len(told) == 6 + len(timed) + len(attacked)
    assert {step.images for step in found.steps.values()} == {8}


def profile_with(path: Path, rows: list[dict[str, object]], dry: bool = False) -> Path:
    values = {"environment": {"device": "A card", "dry_run": dry}, "rows": [{"figures": row} for row in rows]}
    path.write_text(json.dumps(values))
    return path


def test_a_profile_gives_what_it_measured_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = prepare(RunRequest("simclr", "digits", protocols=("slf",), overrides=SETTINGS, device="cpu"))
    ssl = next(iter(run.method(run.recipe.config).stages(run.context)))
    slf = build_protocol("slf", run.recipe, plain_encoder(run.recipe), run.target.train.labels, 0)
    steps = [
        {
            "step": step_digest(stage, run.recipe.encoder, run.dataset.image_shape),
            "batch": stage.plan.batch_size,
            "seconds": [0.5, 0.5, 0.5],
        }
        for stage in (ssl, slf)
    ]
    batch = ssl.plan.batch_size
    stages = [{"stage": "ssl", "step": steps[0]["step"], "seconds": {str(batch): [0.5]}, "flops_per_image": 1e9}]
    timing = {"device": "A card", "methods": [{"method": "simclr", "stages": stages}]}
    (tmp_path / "timing.json").write_text(json.dumps(timing))
    attacked = attack_digest(slf.classifier(), run.target.test.images.shape[1:], "fp32")
    path = profile_with(
        tmp_path / "gpu-check.json", [steps[1], {"attacked": attacked, "forward": 0.25, "gradient": 1.0}]
    )
    found = plan_costs(request_for("simclr"), 2, [tmp_path / "timing.json", path])
    images, tested = len(run.dataset.train), len(run.target.test)
    seconds = 0.5 * ssl.plan.epochs * ssl.plan.steps_per_epoch(images)
    count = len(slf.positions(images))
    whole, rest = divmod(count, slf.plan.batch_size)
    seconds += slf.plan.epochs * 0.5 * (whole + (rest / slf.plan.batch_size if rest else 0))
    seconds += tested * (run.recipe.evaluate.pgd_steps + 0.5) + 32 * 80  # of the doctor's checks
    assert "and attacks" in _timed(found)
    stages_alone = plan_costs(request_for("simclr"), 2, [tmp_path / "timing.json"])
    assert stages_alone.includes == ("stage ssl",)
    assert "attacks" not in _timed(stages_alone)
    assert "AA" not in _timed(stages_alone)
    assert (found.measured_on, found.source) == ("A card", f"{tmp_path / 'timing.json'}, {path}")
    assert found.hours is not None
    assert found.hours >= seconds / 3600 * 0.999
    assert found.critical_hours == found.wall_hours == found.hours
    words = ["plan", "--methods", "simclr,byol", "--datasets", "digits", "--tier", "tiny", "--protocols", "slf"]
    words += [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    done = say(
        monkeypatch,
        capsys,
        *words,
        "--device",
        "cpu",
        "--profile",
        str(path),
        f"--profile={tmp_path / 'timing.json'}",
        "--json",
    )
    half = GridPlan.parse(json.loads(done.stdout), "plan")
    assert (half.hours, half.wall_hours, half.critical_path) == (None, None, ())
    assert half.known_hours > found.hours
    assert {row.method: row.not_measured for row in half.rows} == {"simclr": (), "byol": ("stage ssl",)}
    assert half.absent["hours"] == "not measured: stage ssl of byol"
    assert _lines(half)[0].startswith("device time: at least")
    assert _lines(found)[0].endswith(f"with 2 devices: {rough_time(seconds)}")


def test_a_file_that_measured_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is of a dry run, whose numbers mean nothing"):
        plan_costs(request_for("simclr"), 1, [profile_with(tmp_path / "dry.json", [], dry=True)])
    (tmp_path / "other.json").write_text('{"device": "another card", "methods": []}')
    with pytest.raises(BenchError, match="were measured on several devices"):
        plan_costs(request_for("simclr"), 1, [tmp_path / "other.json", profile_with(tmp_path / "one.json", [])])
    for content in ("[]", '{"methods": [], "device": "x", "environment": "abc"}'):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(BenchError, match="is not a file of make gpu-check"):
            plan_costs(request_for("simclr"), 1, [tmp_path / "other.json"])
    with pytest.raises(BenchError, match="cannot read"):
        plan_costs(request_for("simclr"), 1, [tmp_path / "none.json"])
