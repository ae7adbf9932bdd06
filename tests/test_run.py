"""A run: what is asked for, where it is kept, and that nothing finished is done again."""

import fcntl
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import SMALL, Listener, carry_out, changed, facts, toy_data, toy_request

from bench.errors import BenchError, InterruptedRunError
from bench.method import METHODS
from bench.record import Record, load_record
from bench.run import Run, RunRequest, execute, finished_protocols, list_runs, prepare, project


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a dataset of 24 + 16 images in two classes."""
    return toy_data(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture
def request_(data: str, tmp_path: Path) -> RunRequest:
    return toy_request(data, tmp_path)


# What is asked for


@pytest.mark.parametrize(("device", "tier"), [("cpu", "mini"), ("cuda", "short")])
def test_the_default_tier_follows_data_and_device(
    request_: RunRequest, monkeypatch: pytest.MonkeyPatch, device: str, tier: str
) -> None:
    monkeypatch.setattr(import_module("bench.run.preparation"), "pick_device", lambda name: torch.device(device))
    assert prepare(request_).recipe.tier == tier
    assert prepare(replace(request_, dataset="digits")).recipe.tier == "tiny"
    sizes = {"stage1.batch_size": 8, "slf.batch_size": 8, "stage1.precision": "fp32"}
    published = replace(request_, tier="paper", overrides={"evaluate.autoattack": False, **sizes})
    assert prepare(published).recipe.tier == "paper"


def test_preparing_writes_nothing(request_: RunRequest, tmp_path: Path) -> None:
    run = prepare(request_)
    assert not run.finished
    assert list(tmp_path.iterdir()) == []


def test_the_overrides_are_in_the_recipe(request_: RunRequest) -> None:
    recipe = prepare(request_).recipe
    assert recipe.overrides == SMALL
    assert (recipe.encoder.width, recipe.protocol("slf").epochs, recipe.evaluate.pgd_steps) == (1, 2, 2)
    assert recipe.config.plans()["stage1"].batch_size == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "simclrr"}, "unknown method 'simclrr'. Did you mean 'simclr'"),
        ({"dataset": "digit"}, "unknown dataset 'digit'. Did you mean 'digits'"),
        ({"tier": "tinny"}, "unknown tier 'tinny'. Did you mean 'tiny'"),
        ({"protocols": ("slf", "alff")}, "unknown protocol 'alff'. Did you mean 'alf'"),
        (
            {"method": "supervised", "protocols": "slf"},
            "supervised cannot be evaluated under slf: it is evaluated under aff alone. Type --protocols aff",
        ),
        ({"protocols": "released"}, "simclr cannot be evaluated under released: it is no whole classifier"),
        ({"seed": -1}, "seed -1 is out of range; choose a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed 4294967296 is out of range"),
        ({"overrides": {"evaluate.autoattack": True}}, "--set evaluate.autoattack=false"),
    ],
)
def test_what_cannot_be_is_refused(request_: RunRequest, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError) as raised:
        prepare(replace(request_, **change))
    assert message in str(raised.value)


# Where it is kept


def test_the_folder_is_named_after_all_that_decides_the_encoder(request_: RunRequest, tmp_path: Path) -> None:
    def folder(request: RunRequest) -> Path:
        return prepare(request).folder.path

    run = prepare(request_)
    name = f"toy-simclr-mini-uniform-s0-{run.recipe.pretraining_digest()[:8]}"
    assert run.folder.path == tmp_path / "runs" / name

    same = [changed(request_, slf__lr=0.5), changed(request_, evaluate__pgd_steps=3), replace(request_, device=None)]
    assert {folder(request) for request in same} == {run.folder.path}
    others = [
        request_,
        replace(request_, seed=1),
        replace(request_, fidelity="native"),
        replace(request_, tier="tiny"),
        changed(request_, stage1__lr=0.5),
        changed(request_, encoder__width=2),
        changed(request_, threat__eps=0.5),
    ]
    assert len({folder(request) for request in others}) == len(others)


def test_protocol_folders_tell_protocols_and_their_settings_apart(request_: RunRequest) -> None:
    runs = [prepare(request_), prepare(changed(request_, slf__lr=0.5)), prepare(changed(request_, evaluate__eps=0.5))]
    places = [run.folder.protocol("slf") for run in runs]
    assert len({place.path for place in places}) == len({place.fingerprint for place in places}) == 3
    assert places[0] == prepare(changed(request_, alf__lr=0.5)).folder.protocol("slf")


# Nothing is done again


def test_a_second_identical_call_does_nothing_anew(request_: RunRequest, tmp_path: Path) -> None:
    ((first, path),) = carry_out(request_, tmp_path / "results")
    run = prepare(request_)
    assert run.finished

    def written() -> dict[Path, int]:
        files = (file for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock")
        return {file: file.stat().st_mtime_ns for file in files}

    before = written()
    listener = Listener()
    assert carry_out(request_, tmp_path / "results", listener) == [(first, path)]
    assert listener.phases == []
    assert written() == before
    assert load_record(path) == first


def test_another_protocol_reuses_the_encoder_and_leaves_the_first_record(request_: RunRequest, tmp_path: Path) -> None:
    ((slf, slf_path),) = carry_out(request_, tmp_path / "results")
    listener = Listener()
    both = carry_out(replace(request_, protocols=("slf", "alf")), tmp_path / "results", listener)
    assert both[0] == (slf, slf_path)
    assert both[1][0].protocol == "alf"
    assert both[1][0].encoder_sha256 == slf.encoder_sha256
    assert [phase for phase in listener.phases if phase.startswith("stage")] == ["stage alf"]


def test_no_protocol_sees_what_another_did_to_the_encoder(request_: RunRequest, tmp_path: Path, whole: Record) -> None:
    (aff, _), (slf, _) = carry_out(replace(request_, protocols=("aff", "slf")), tmp_path / "results")
    assert aff.classifier_sha256 != slf.classifier_sha256
    assert facts(slf) == facts(whole)


def test_a_protocol_named_twice_is_one_record(request_: RunRequest, tmp_path: Path) -> None:
    records = carry_out(replace(request_, protocols=("slf", "slf")), tmp_path / "results")
    assert {path for _, path in records} == set((tmp_path / "results").glob("*/*"))
    assert len({path for _, path in records}) == 1


def test_a_change_of_the_protocol_reuses_the_encoder(request_: RunRequest, tmp_path: Path) -> None:
    ((first, first_path),) = carry_out(request_, tmp_path / "results")
    listener = Listener()
    ((second, second_path),) = carry_out(changed(request_, slf__lr=0.5), tmp_path / "results", listener)
    assert "stage ssl" not in listener.phases
    assert "stage slf" in listener.phases
    assert first_path != second_path
    assert first.encoder_sha256 == second.encoder_sha256
    assert first.classifier_sha256 != second.classifier_sha256
    assert first.cost["stage:ssl"] == second.cost["stage:ssl"]


@pytest.mark.parametrize("protocol", ["slf", "aff", "knn"])
def test_another_evaluation_reuses_the_classifier(request_: RunRequest, tmp_path: Path, protocol: str) -> None:
    """Its record is that of a run which trains the classifier by itself."""
    request = replace(request_, protocols=(protocol,))
    carry_out(request, tmp_path / "results")
    listener, farther = Listener(), changed(request, evaluate__eps=0.5)
    left = {each.phase: each.left for each in project(prepare(farther))}
    assert (left["stage ssl"], left[f"protocol {protocol}"], sum(left.values()) > 0) == (0, 0, True)
    ((reused, _),) = carry_out(farther, tmp_path / "results", listener)
    assert f"stage {protocol}" not in listener.phases
    assert any("only its evaluation differs" in note for note in listener.notes)
    ((alone, _),) = carry_out(replace(farther, runs_dir=tmp_path / "elsewhere"), tmp_path / "others")
    assert facts(reused) == facts(alone)
    found, expected = (record.cost[f"protocol:{protocol}"] for record in (reused, alone))
    assert (found.images, found.flops_per_image) == (expected.images, expected.flops_per_image)


def test_a_lost_or_damaged_classifier_or_one_of_other_code_is_trained_again(
    request_: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(request_, tmp_path / "results")

    def trained(eps: float) -> bool:
        listener = Listener()
        carry_out(changed(request_, evaluate__eps=eps), tmp_path / "results", listener)
        return "stage slf" in listener.phases

    (kept,) = tmp_path.rglob("slf.safetensors")
    assert not trained(0.1)
    ((other, _),) = carry_out(changed(request_, slf__lr=5.0), tmp_path / "results")
    moved = next(path for path in tmp_path.rglob("slf-*") if load_record(path / "record.json").sha256 == other.sha256)
    for path in tmp_path.rglob("slf.safetensors"):
        if path.parent != moved:
            shutil.copy(moved / "slf.safetensors", path)
    assert trained(0.15), "the weights of another training, moved in by hand, are not taken"
    for path in tmp_path.rglob("slf.safetensors"):
        path.write_bytes(kept.read_bytes()[:100])
    assert trained(0.2)
    assert not trained(0.3)
    for path in tmp_path.rglob("slf.safetensors"):
        path.unlink()
    assert trained(0.4)
    monkeypatch.setattr("bench.train.checkpoint.code_digest", lambda *modules: "of tomorrow")
    assert trained(0.5)


def test_a_deleted_result_is_written_again(request_: RunRequest, tmp_path: Path) -> None:
    ((first, path),) = carry_out(request_, tmp_path / "results")
    content = path.read_bytes()
    path.unlink()
    listener = Listener()
    assert carry_out(request_, tmp_path / "results", listener) == [(first, path)]
    assert listener.phases == []
    assert path.read_bytes() == content


def test_a_record_counts_whatever_becomes_of_the_next_protocol(request_: RunRequest, tmp_path: Path) -> None:
    asked = replace(request_, protocols=("slf", "alf"), overrides={**request_.overrides, "alf.lr": 1e30})
    for _ in range(2):
        with pytest.raises(BenchError, match="stage 'alf' has weights or statistics that are not finite"):
            carry_out(asked, tmp_path / "results")
        (path,) = (tmp_path / "results").rglob("*.json")
        assert load_record(path).protocol == "slf"


@pytest.mark.parametrize("stop_at", [1, 2, 4, 7, 9, 12, 13, 14, 15])
def test_a_run_stopped_at_any_step_continues_to_the_same_end(
    request_: RunRequest, tmp_path: Path, whole: Record, stop_at: int
) -> None:
    with pytest.raises(InterruptedRunError, match="The same command continues from there"):
        carry_out(request_, tmp_path / "results", Listener(stop_at))
    assert not list((tmp_path / "results").glob("*/*"))
    ((record, _),) = carry_out(request_, tmp_path / "results")
    assert facts(record) == facts(whole)


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Return the record of the run that nobody stopped."""
    place = tmp_path_factory.mktemp("whole")
    ((record, _),) = carry_out(toy_request(data, place), place / "results")
    return record


def test_another_seed_is_another_run(request_: RunRequest, tmp_path: Path, whole: Record) -> None:
    ((other, _),) = carry_out(replace(request_, seed=1), tmp_path / "results")
    assert other.encoder_sha256 != whole.encoder_sha256
    assert other.history != whole.history


# Whose folder it is


def test_a_folder_of_another_run_is_refused(request_: RunRequest, tmp_path: Path) -> None:
    run = prepare(request_)
    run.folder.path.mkdir(parents=True)
    for content in ({"owner": "someone else"}, {}, ["no", "run"]):
        (run.folder.path / "run.json").write_text(json.dumps(content))
        with pytest.raises(BenchError, match=r"holds another run. Move it away, or choose another --runs-dir"):
            execute(run, tmp_path / "results")
        assert json.loads((run.folder.path / "run.json").read_text()) == content
    (run.folder.path / "run.json").write_text("{")
    listener = Listener()
    execute(run, tmp_path / "results", listener)
    assert any("cannot read" in note and "run.json.damaged" in note for note in listener.notes)


def test_a_run_at_work_elsewhere_is_refused(request_: RunRequest, tmp_path: Path) -> None:
    run = prepare(request_)
    run.folder.path.mkdir(parents=True)
    half = run.folder.path / ".ssl.safetensors.abc.unfinished"
    half.touch()
    with (run.folder.path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BenchError, match=r"another process is working on this run .*Wait for it, or stop it"):
            execute(run, tmp_path / "results")
        assert half.exists()  # it may be the other's
    execute(run, tmp_path / "results")
    assert not half.exists()


def test_an_error_inside_a_claimed_folder_is_not_taken_for_a_lock(request_: RunRequest) -> None:
    folder = prepare(request_).folder
    with pytest.raises(BlockingIOError), folder.claimed():
        raise BlockingIOError
    with folder.claimed():
        pass


def test_results_that_cannot_be_kept_are_refused_before_any_training(request_: RunRequest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    listener = Listener()
    with pytest.raises(BenchError, match=r"file is not a folder\. Move it away"):
        carry_out(request_, tmp_path / "file" / "results", listener)
    assert listener.phases == []


def test_runs_are_listed_with_how_far_they_came(request_: RunRequest, tmp_path: Path) -> None:
    short = {key: value for key, value in SMALL.items() if not key.startswith("stage1")}
    begun = replace(request_, method="supervised", protocols=("aff",), seed=1, overrides=short)
    with pytest.raises(InterruptedRunError):
        carry_out(begun, tmp_path / "results", Listener(1))
    carry_out(request_, tmp_path / "results")
    (tmp_path / "runs" / "stray").mkdir()
    (tmp_path / "runs" / "stray" / "run.json").write_text("[]")
    rows = list_runs(tmp_path / "runs")
    assert [(row.method, row.seed) for row in rows] == [("simclr", 0), ("supervised", 1)]
    assert [(row.encoder, row.records[:4], row.now) for row in rows] == [
        (True, "slf-", ""),
        (True, "", "stopped, aff: 0 epochs and 1 step"),
    ]
    assert {(row.dataset, row.tier) for row in rows} == {("toy", "mini")}
    assert list_runs(tmp_path / "nowhere") == []
    with prepare(begun).folder.reserved():
        assert [row.now for row in list_runs(tmp_path / "runs")] == ["", "running, aff: 0 epochs and 1 step"]


# What it will cost


def estimated(run: Run) -> dict[str, tuple[float, float]]:
    return {estimate.phase: (estimate.seconds, estimate.left) for estimate in project(run)}


def test_the_projection_names_every_phase_and_disturbs_nothing(request_: RunRequest, tmp_path: Path) -> None:
    run = prepare(replace(request_, method="deacl", overrides={**SMALL, "evaluate.autoattack": True}, dataset="digits"))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    phases = estimated(run)
    assert torch.equal(torch.rand(3), expected)
    assert list(phases) == [
        "stage ssl",
        "stage pseudo_at",
        "protocol slf",
        "RA, PGD-2",
        "AA, AutoAttack",
        "the doctor's checks",
    ]
    assert all(seconds > 0 and left == 1 for seconds, left in phases.values())
    assert list(tmp_path.iterdir()) == []


def test_the_projection_knows_what_is_finished(request_: RunRequest, tmp_path: Path) -> None:
    steps = 24 // 8
    with pytest.raises(InterruptedRunError):
        carry_out(request_, tmp_path / "results", Listener(steps - 1))  # two steps of the first of two epochs
    assert estimated(prepare(request_))["stage ssl"][1] == pytest.approx(4 / 6)
    with pytest.raises(InterruptedRunError):
        carry_out(request_, tmp_path / "results", Listener(1))  # the rest of that epoch
    assert estimated(prepare(request_))["stage ssl"][1] == 0.5
    with pytest.raises(InterruptedRunError):
        carry_out(request_, tmp_path / "results", Listener(2 * steps))  # the other, and one of the protocol's two
    phases = estimated(prepare(request_))
    assert (phases["stage ssl"][1], phases["protocol slf"][1], phases["RA, PGD-2"][1]) == (0, 0.5, 1)
    with pytest.raises(InterruptedRunError):
        carry_out(request_, tmp_path / "results", Listener(steps + 2 + 1))  # all of SA, and one of RA's two batches
    phases = estimated(prepare(request_))
    assert (phases["protocol slf"][1], phases["RA, PGD-2"][1], phases["the doctor's checks"][1]) == (0, 0.5, 1)
    carry_out(request_, tmp_path / "results")
    assert {left for _, left in estimated(prepare(request_)).values()} == {0}


def test_a_batch_larger_than_the_data_is_found_out_before_anything_is_measured(request_: RunRequest) -> None:
    with pytest.raises(BenchError, match=r"stage1\.batch_size is 25, but there are 24 images"):
        prepare(changed(request_, stage1__batch_size=25))


# Finished protocols, opened again


@pytest.mark.parametrize("method", ["simclr", "supervised"])
def test_a_finished_protocol_gives_back_the_classifier_that_was_judged(
    request_: RunRequest, tmp_path: Path, method: str
) -> None:
    protocols = METHODS.get(method).info.protocols[:1]
    small = {key: value for key, value in SMALL.items() if method == "simclr" or not key.startswith("stage1")}
    request = replace(request_, method=method, protocols=protocols, overrides={**small, f"{protocols[0]}.epochs": 1})
    ((record, _),) = carry_out(request, tmp_path / "results")
    (finished,) = finished_protocols(request.runs_dir)
    assert finished.record == record
    dataset = finished.dataset(request.data_dir)
    images = dataset.test.images.float().div(255)
    correct = finished.classifier(torch.device("cpu"))(images).argmax(1) == dataset.test.labels
    assert correct.tolist() == record.sa.unpack()


def test_data_that_changed_since_are_refused(request_: RunRequest, tmp_path: Path) -> None:
    carry_out(request_, tmp_path / "results")
    (finished,) = finished_protocols(request_.runs_dir)
    with pytest.raises(BenchError, match="digits has changed since"):
        replace(finished, source="digits").dataset(request_.data_dir)
