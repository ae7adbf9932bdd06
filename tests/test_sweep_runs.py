"""Sweeps of finished runs: which runs, what they meet in the records, and that nothing is measured twice."""

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from toy_runs import toy_data
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.data import Dataset
from bench.errors import BenchError, BusyRunError, InterruptedRunError
from bench.monitor import Monitor
from bench.record import Record, Sweep, load_sweep, sweep_files
from bench.run import (
    Finished,
    RunRequest,
    SweepRequest,
    execute,
    one_a_classifier,
    prepare,
    select_finished,
    sweep_runs,
)
from bench.zoo import save_tensors

SMALL: dict[str, Any] = {
    "encoder.width": 1,
    "stage1.epochs": 1,
    "stage1.batch_size": 8,
    "stage1.projector": [4, 4],
    "slf.epochs": 2,
    "slf.batch_size": 8,
    "evaluate.batch_size": 8,
    "evaluate.pgd_steps": 3,
    "evaluate.autoattack": False,
}
CPU = torch.device("cpu")


class Runs(NamedTuple):
    """Three runs: SimCLR twice on one toy, once on another."""

    folder: Path
    data: str
    records: list[Record]

    @property
    def runs_dir(self) -> Path:
        return self.folder / "runs"

    def names(self, dataset: str = "toy") -> list[str]:
        return sorted(path.name for path in self.runs_dir.glob(f"{dataset}-*"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("made")
    toy = toy_data(folder / "toy.npz", images=(16, 20), contrast=55)
    other = toy_data(folder / "other.npz", images=(16, 20), contrast=55, seed=1)
    records = []
    for data, seed in ((toy, 0), (toy, 1), (other, 0)):
        request = RunRequest(
            "simclr", data, protocols=["slf"], seed=seed, overrides=SMALL, runs_dir=folder / "runs", device="cpu"
        )
        ((record, _),) = execute(prepare(request), folder / "records")
        records.append(record)
    return Runs(folder, toy, records)


@pytest.fixture
def runs(made: Runs, tmp_path: Path) -> Runs:
    """Return a copy of the runs for this test alone."""
    shutil.copytree(made.runs_dir, tmp_path / "runs")
    return made._replace(folder=tmp_path)


def carried_out(
    chosen: Sequence[Finished], results: Path, request: SweepRequest, monitor: Monitor | None = None
) -> list[Sweep]:
    found = sweep_runs(chosen, request, results, data_dir=Path("data"), device=CPU, monitor=monitor)
    assert [load_sweep(path) for _, path in found] == [sweep for sweep, _ in found]
    return [sweep for sweep, _ in found]


def facts(sweep: Sweep) -> dict[str, Any]:
    """Return what must be the same whenever it was measured."""
    return sweep.model_dump(exclude={"cost", "environment", "finished", "sha256"})


# What is measured


def test_the_sweeps_meet_the_records(runs: Runs, tmp_path: Path) -> None:
    chosen = select_finished(runs.runs_dir, dataset="toy")
    usual = chosen[0].recipe.dataset.eps
    by_eps = carried_out(chosen, tmp_path / "results", SweepRequest("eps", (0.0, usual), (3,)))
    by_steps = carried_out(chosen, tmp_path / "results", SweepRequest("steps", None, (1, 3)))
    for record, eps, steps in zip(runs.records, by_eps, by_steps, strict=False):
        assert record.ra.outcome.correct < record.sa.correct, "a toy that no attack changes tells nothing"
        assert eps.outcomes == (record.sa, record.ra.outcome)
        assert steps.outcomes[1] == record.ra.outcome
        assert steps.settings.eps == (usual,)
        assert eps.record_sha256 == steps.record_sha256 == record.sha256
        assert (eps.method, eps.seed, eps.protocol_sha256) == (record.method, record.seed, record.protocol_sha256)
        assert eps.overrides.keys() == {key for key in SMALL if not key.startswith("evaluate.")}


def test_the_default_grids_are_the_papers(runs: Runs) -> None:
    (finished,) = select_finished(runs.runs_dir, runs.names()[:1])
    eps = SweepRequest("eps").settings(finished)
    assert [255 * value for value in eps.eps] == pytest.approx([0, 2, 4, 6, 8, 10, 12, 14, 16])
    assert (eps.steps, eps.step_size, eps.start) == ((20,), 0.25, "uniform")
    steps = SweepRequest("steps").settings(finished)
    assert (steps.steps[0], steps.steps[-1], steps.eps, steps.step_size) == (1, 100, (8 / 255,), 0.25)


def test_nothing_is_measured_twice(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = select_finished(runs.runs_dir, dataset="toy")
    request = SweepRequest("eps", (0.0, 0.01), (2,))
    first = carried_out(chosen, tmp_path / "results", request)
    files = {path: path.read_bytes() for path in sweep_files(tmp_path / "results")}
    assert len(files) == 2
    with monkeypatch.context() as patch:
        patch.setattr(Finished, "classifier", lambda *_: pytest.fail("loaded a classifier to measure it again"))
        patch.setattr(Finished, "dataset", lambda *_: pytest.fail("read the data again"))
        assert carried_out(chosen, tmp_path / "results", request) == first
    assert {path: path.read_bytes() for path in sweep_files(tmp_path / "results")} == files
    carried_out(chosen, tmp_path / "results", request._replace(eps=(0.0, 0.02)))
    assert len(list(sweep_files(tmp_path / "results"))) == 4, "another grid is another sweep"


def test_a_second_sweep_of_a_run_is_told_who_sweeps_it(runs: Runs, tmp_path: Path) -> None:
    """It ends as a second `bench run` of one run does."""
    chosen = select_finished(runs.runs_dir, runs.names()[:1])

    class Meanwhile(Monitor):
        def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
            with pytest.raises(BusyRunError, match=rf"another process \({os.getpid()} on .*\) is sweeping this run"):
                carried_out(chosen, tmp_path / "results", SweepRequest("eps", (0.0, 0.01), (1,)))

    carried_out(chosen, tmp_path / "results", SweepRequest("steps", None, (1, 3)), Meanwhile())
    assert len(list(sweep_files(tmp_path / "results"))) == 1


def test_runs_on_the_same_data_read_them_once(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = Finished.dataset

    def counted(finished: Finished, data_dir: Path) -> Dataset:
        read.append(finished.source)
        return load(finished, data_dir)

    monkeypatch.setattr(Finished, "dataset", counted)
    chosen = select_finished(runs.runs_dir, dataset="toy")
    carried_out(chosen, tmp_path / "results", SweepRequest("eps", (0.0,), (1,)))
    assert len(chosen) == 2
    assert len(read) == 1


def test_an_interrupted_sweep_goes_on_where_it_was(runs: Runs, tmp_path: Path) -> None:
    chosen = select_finished(runs.runs_dir, dataset="toy")
    request = SweepRequest("eps", (0.0, 0.01, 0.02), (2,))
    whole = carried_out(chosen, tmp_path / "whole", request)
    for state in runs.runs_dir.rglob("sweep-*.json"):
        state.unlink()

    class Stopping(Monitor):
        def __init__(self) -> None:
            super().__init__()
            self.images = 0

        def advance(self, amount: int, detail: str = "") -> None:
            self.images += amount
            self.stop_requested = self.images % 80 == 0  # a run has 60 test images to attack

    listener = Stopping()
    with pytest.raises(InterruptedRunError):
        carried_out(chosen, tmp_path / "results", request, listener)
    assert len(list(sweep_files(tmp_path / "results"))) == 1, "the first run is finished and kept"
    images = listener.images
    listener.stop_requested = False
    resumed = carried_out(chosen, tmp_path / "results", request, listener)
    assert list(map(facts, resumed)) == list(map(facts, whole))
    assert (images, listener.images) == (80, 120)


def test_other_weights_than_the_records_are_refused(runs: Runs, tmp_path: Path) -> None:
    first, second = select_finished(runs.runs_dir, dataset="toy")
    kept = first.path / "slf.safetensors"
    for replace_it in (
        lambda: shutil.copy(second.path / "slf.safetensors", kept),
        lambda: save_tensors(kept, {"stage.head.weight": torch.zeros(2, 2)}, {}),  # of another network
    ):
        replace_it()
        with pytest.raises(BenchError, match=r"are not those that its record was made with\. Move .* away"):
            carried_out([first], tmp_path / "results", SweepRequest("eps"))
    kept.unlink()
    with pytest.raises(BenchError, match=r"cannot read .*slf\.safetensors"):
        carried_out([first], tmp_path / "results", SweepRequest("eps"))


# Which runs


def test_runs_are_named_as_they_are_listed_or_by_path(runs: Runs) -> None:
    first, second = runs.names()
    assert [each.folder.path.name for each in select_finished(runs.runs_dir, [second])] == [second]
    by_path = select_finished(Path("elsewhere"), [str(runs.runs_dir / first), str(runs.runs_dir / second)])
    assert [each.record for each in by_path] == runs.records[:2]
    assert len(select_finished(runs.runs_dir, [first, first])) == 1


def test_of_one_classifier_the_evaluation_closest_to_the_tiers_is_taken(runs: Runs) -> None:
    first, _ = runs.names()
    request = RunRequest(
        "simclr",
        runs.data,
        protocols=["slf"],
        overrides={**SMALL, "evaluate.eps": 4 / 255},
        runs_dir=runs.runs_dir,
        device="cpu",
    )
    ((other, _),) = execute(prepare(request), runs.folder / "results")
    (taken,) = one_a_classifier(select_finished(runs.runs_dir, [first]))
    assert taken.record == runs.records[0]
    assert other.finished > taken.record.finished
    assert other.classifier_sha256 == taken.record.classifier_sha256


def test_a_classifier_that_was_evaluated_twice_is_swept_once(runs: Runs) -> None:
    overrides = {**SMALL, "evaluate.pgd_steps": 1}
    request = RunRequest("simclr", runs.data, protocols=["slf"], overrides=overrides, device="cpu")
    ((record, _),) = execute(prepare(replace(request, runs_dir=runs.runs_dir)), runs.folder / "records")
    chosen = one_a_classifier(select_finished(runs.runs_dir, runs.names()[:1]))
    assert record.classifier_sha256 == runs.records[0].classifier_sha256
    assert [each.record.sha256 for each in chosen] == [record.sha256]


def test_without_any_run_the_message_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="Type bench run deacl --dataset digits --protocols slf"):
        select_finished(tmp_path)


# The command line


def call(runs: Runs, *arguments: str) -> Result:
    where = ["--runs-dir", str(runs.runs_dir), "--results-dir", str(runs.folder / "results"), "--device", "cpu"]
    return CliRunner().invoke(app, [*arguments, *where])


def refused(runs: Runs, *arguments: str) -> str:
    """Return the one message of a refused command, which leaves nothing behind."""
    done = call(runs, *arguments)
    assert isinstance(done.exception, BenchError), done.output
    assert done.stdout == ""
    assert not list(sweep_files(runs.folder / "results"))
    return str(done.exception)


def test_the_tables_have_every_value_with_its_interval(runs: Runs) -> None:
    done = call(runs, "sweep-steps", "--dataset", "toy", "--steps", "1,3", "--eps", "2/255")
    assert done.exit_code == 0, done.output
    record = runs.records[0]
    said = " ".join(done.stdout.split())
    assert f"tier {record.tier}, fidelity uniform: accuracy under PGD at Linf 2/255, step size 0.25 eps" in said
    assert all(f"stage1.projector=[4, 4]), seed {seed}" in said for seed in (0, 1))
    sweeps = [load_sweep(path) for path in sweep_files(runs.folder / "results")]
    for sweep in sweeps:
        for outcome in (*sweep.outcomes, *(sweep.worst or ())):
            low, high = outcome.interval
            assert f"{100 * outcome.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in said
    assert done.stdout.count("sweep: ") == len(sweeps) == 2


def test_json_is_the_sweeps(runs: Runs) -> None:
    done = call(runs, "sweep-eps", "--dataset", "toy", "--eps", "0,1/255", "--steps", "1", "--json")
    values = json.loads(done.stdout)
    assert [Sweep.parse(value, "stdout") for value in values] == [
        load_sweep(path) for path in sweep_files(runs.folder / "results")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep-eps", "--eps", "0,-2/255"], r"--eps 0,-2/255: the grid has the negative value -0.00784"),
        (["sweep-eps", "--eps", "4/255,2/255"], "is not in ascending order: 0.00784314 comes after 0.0156863"),
        (["sweep-eps", "--eps", "0,2/255,2/255"], "has the value 0.00784314 twice; give each once"),
        (["sweep-eps", "--eps", "0,8"], "eps 8 outside .0, 1.; pixels are in .0, 1., so write 8/255"),
        (["sweep-eps", "--eps", "0,two"], "'two' is not a number. Type, for example, --eps 0,2/255,4/255"),
        (["sweep-eps", "--eps", "0,"], "'' is not a number"),
        (["sweep-eps", "--eps", "0,1e99999999,nan"], "'1e99999999', 'nan' are no numbers"),
        (["sweep-eps", "--eps", "0.0156862745,4/255"], "has the value 0.0156863 twice"),
        (["sweep-eps", "--steps", "0"], "0 steps are no attack; the smallest number of steps is 1"),
        (["sweep-eps", "--step-size", "0"], "step_size: must be more than 0"),
        (["sweep-steps", "--steps", "5,1"], "--steps 5,1: the grid is not in ascending order"),
        (["sweep-steps", "--steps", "1,1"], "the grid has the value 1 twice"),
        (["sweep-steps", "--steps", "0,1"], "0 steps are no attack"),
        (["sweep-steps", "--steps", "1.5"], "1.5 is not a whole number. Type, for example, --steps 1,5,20"),
        (["sweep-steps", "--eps", "0,1/255"], "a sweep of steps has one value of eps, not 2"),
        (["sweep-eps", "--protocol", "sfl"], "unknown protocol 'sfl'. Did you mean 'slf'"),
        (["sweep-eps", "--protocol", "aff"], "no run on toy in .* has a finished aff. Type bench evaluate "),
        (["sweep-eps", "--dataset", "tyo"], "unknown dataset of a finished run 'tyo'. Did you mean 'toy'"),
        (
            ["sweep-eps", "--dataset", "cifar10"],
            "no run on cifar10 in .* Type bench run deacl --dataset cifar10 --prot",
        ),
    ],
)
def test_a_mistake_is_one_message(runs: Runs, arguments: list[str], message: str) -> None:
    dataset = [] if "--dataset" in arguments else ["--dataset", "toy"]
    with pytest.raises(BenchError, match=message):
        raise BenchError(refused(runs, *arguments, *dataset))


def test_runs_on_several_datasets_are_not_mixed(runs: Runs) -> None:
    assert "on several datasets: other (SHA-256 " in (said := refused(runs, "sweep-eps"))
    assert "--dataset other, or name runs" in said
    toy, other = runs.names()[0], runs.names("other")[0]
    assert "or name runs on one of them" in refused(runs, "sweep-eps", toy, other)
    assert f"{other} is on other, not on toy. Leave it out" in refused(
        runs, "sweep-eps", toy, other, "--dataset", "toy"
    )


def test_the_same_data_under_another_name_are_no_others(runs: Runs) -> None:
    toy = Path(runs.data.removeprefix("npz:"))
    copied = shutil.copy(toy, runs.folder / "renamed.npz")
    request = RunRequest("simclr", f"npz:{copied}", protocols=["slf"], overrides=SMALL, device="cpu")
    execute(prepare(replace(request, runs_dir=runs.runs_dir)), runs.folder / "records")
    names = [runs.names()[0], *runs.names("renamed")]
    assert [each.record.dataset for each in select_finished(runs.runs_dir, names)] == ["toy", "renamed"]


def test_own_data_may_be_typed_in_another_way_than_for_the_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(runs.data.removeprefix("npz:"))
    monkeypatch.chdir(place.parent)
    found = select_finished(runs.runs_dir, dataset="toy")
    for typed in (runs.data, "npz:toy.npz", "npz:./toy.npz"):
        assert [each.path for each in select_finished(runs.runs_dir, dataset=typed)] == [each.path for each in found]
    with pytest.raises(BenchError, match=r"unknown dataset of a finished run 'npz:/elsewhere/toy.npz'.*toy"):
        select_finished(runs.runs_dir, dataset="npz:/elsewhere/toy.npz")


def test_data_that_were_moved_are_known_by_their_pixels(runs: Runs, tmp_path: Path) -> None:
    moved = shutil.copy(runs.data.removeprefix("npz:"), tmp_path / "moved.npz")
    found = select_finished(runs.runs_dir, dataset=f"npz:{moved}")
    assert sorted(each.folder.path.name for each in found) == runs.names()
    assert [len(each.dataset(tmp_path).test) for each in found] == [20, 20]
    assert pickle.loads(pickle.dumps(found)) == found, "another process of a sweep reads them there, too"
    lost = replace(found[0], source=f"npz:{tmp_path / 'lost.npz'}")
    typed = f"bench evaluate {lost.folder.path} --protocols slf --dataset npz:PATH"
    with pytest.raises(BenchError, match=rf"no such file.* are elsewhere now, tell it where: {typed}$"):
        lost.dataset(tmp_path)


def test_a_run_that_does_not_exist_is_looked_for_among_those_that_do(runs: Runs) -> None:
    name = runs.names()[0]
    wrong = f"{name[:-1]}-"  # the beginning of a name would be that run
    said = refused(runs, "sweep-eps", wrong)
    assert said.startswith(f"unknown run '{wrong}'. Did you mean '{name}'")
    assert f"`bench runs --runs-dir {runs.runs_dir}` lists them" in said


def test_a_run_without_the_protocol_says_what_to_type(runs: Runs) -> None:
    name = runs.names()[1]
    said = refused(runs, "sweep-eps", name, "--protocol", "alf")
    encoder = runs.runs_dir / name / "encoder.safetensors"
    typed = f"Type bench evaluate {encoder} --protocols alf --runs-dir {runs.runs_dir}"
    assert said.strip() == f"the run {name} has no finished alf. {typed}"
