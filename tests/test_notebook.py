"""The verbs of a notebook: what they give, that they load nothing too early, and that their examples run."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from toy_runs import SMALL, carry_out, toy_data, toy_request

import bench
from bench.attack import PGD, image_generators, margin_objective
from bench.data import load_dataset, unit_pixels
from bench.errors import BenchError
from bench.nn import Classifier, Normalise, build_encoder
from bench.recipe import EncoderSettings, Threat
from bench.record import Record, correct, load_record
from bench.rng import generator, scoped
from bench.run import EncoderFile, EvaluationRequest, load_encoder
from bench.run.encoder import Origin
from bench.run.imported import Import

ROOT = Path(__file__).parents[1]
untyped: Any = bench


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, its record among the local results, and its data."""
    folder = tmp_path_factory.mktemp("notebook")
    carry_out(toy_request(toy_data(folder / "toy.npz"), folder), folder / "results" / "local")
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the run in the working folder."""
    monkeypatch.chdir(folder)
    (path,) = folder.glob("runs/*/run.json")
    return path.parent.name


def example(name: str, *arguments: str) -> None:
    run_path(str(ROOT / "examples" / name))["main"](*arguments)


# Imports


def test_the_verbs_are_offered_and_load_nothing_before_their_use() -> None:
    code = """
import sys, bench
assert {"attack", "evaluate", "load_encoder", "load_records"} <= set(dir(bench))
assert not bench.load_records(".")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert callable(bench.evaluate)
    with pytest.raises(AttributeError, match="module 'bench' has no attribute 'judge'"):
        _ = bench.judge  # type: ignore[attr-defined]


# Encoders


def test_an_encoder_is_that_of_its_file(run: str, folder: Path) -> None:
    path = folder / "runs" / run / "encoder.safetensors"
    for source in (run, run[:-3], folder / "runs" / run, path):
        encoder = bench.load_encoder(source)
        assert not encoder.training
        assert isinstance(encoder.source, EvaluationRequest)
        assert path.samefile(encoder.source.encoder)
    tensors = load_encoder(path).tensors
    assert all(torch.equal(value, tensors[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(BenchError, match=r"is not a file\. Type the path of an encoder\.safetensors"):
        bench.load_encoder("nothing")
    for call in (bench.load_encoder, bench.evaluate):
        with pytest.raises(BenchError, match=r"^the name of an encoder is empty\. Type the path of an encoder\.safe"):
            call("")


def test_the_name_of_a_run_may_be_begun_and_one_without_encoder_says_what_to_type(run: str, folder: Path) -> None:
    other = folder / "others" / f"{run}-half"
    other.mkdir(parents=True)
    (other / "run.json").write_bytes((folder / "runs" / run / "run.json").read_bytes())
    with pytest.raises(
        BenchError, match=rf"the run {run}-half has no encoder yet\. Type bench run simclr .*--runs-dir"
    ):
        bench.load_encoder(run, runs_dir="others")
    (other.parent / f"{run}-more").mkdir()
    (other.parent / f"{run}-more" / "run.json").write_bytes((other / "run.json").read_bytes())
    with pytest.raises(BenchError, match=rf"2 runs begin with '{run}', among them {run}-half and {run}-more"):
        bench.load_encoder(run, runs_dir="others")


def test_an_encoder_that_was_trained_elsewhere_comes_through_the_same_door(run: str, folder: Path) -> None:
    """It computes what it was saved with, and is evaluated on the data that are named; other weights are refused."""
    form = EncoderSettings(width=1, normalisation="cifar")
    with scoped(0, "elsewhere"):
        theirs = build_encoder(form, image_shape=(3, 8, 8), mean=(), std=()).eval()
    origin = Origin(imported=Import(title="Theirs", year=2020, encoder=form))
    EncoderFile(theirs.state_dict(), origin).save(folder / "theirs.safetensors")
    ours, images = bench.load_encoder("theirs.safetensors"), torch.rand(2, 3, 8, 8, generator=generator(0, "images"))
    assert torch.equal(ours(images), theirs(images))
    small = {key: value for key, value in SMALL.items() if key.split(".")[0] in ("slf", "evaluate")}
    apart: dict[str, Any] = {"runs_dir": "theirs/runs", "results_dir": "theirs/results"}
    (record,) = bench.evaluate(ours, "npz:toy.npz", protocols=["slf"], settings=small, **apart)
    assert (record.title, record.dataset) == ("Theirs", "toy")
    EncoderFile({"conv1.weight": torch.zeros(1, 3, 3, 3)}, origin).save(folder / "cut.safetensors")
    with pytest.raises(
        BenchError, match=r"the weights do not fit .*: backbone\.bn1\.bias: absent, not 1; .* and \d+ more"
    ):
        bench.load_encoder("cut.safetensors")


def test_evaluate_is_bench_evaluate(run: str, folder: Path) -> None:
    settings = {"evaluate.pgd_steps": 3}
    encoder = bench.load_encoder(run)
    (record,) = bench.evaluate(encoder, "npz:toy.npz", protocols=["slf"], settings=settings)
    assert isinstance(record, Record)
    assert (record.method, record.ra.steps, record.pretrained_on) == ("simclr", 3, None)
    assert record.encoder_sha256 == load_encoder(folder / "runs" / run / "encoder.safetensors").sha256
    assert record.overrides["evaluate.pgd_steps"] == 3
    assert bench.evaluate(run, protocols="slf", settings=settings) == [record]  # finished, and on the same data
    with torch.inference_mode():  # in which nothing would have a gradient
        source = folder / "runs" / run
        (again,) = bench.evaluate(
            source, protocols="slf", settings=settings, runs_dir="b/runs", results_dir="b/results"
        )
    assert (again.classifier_sha256, again.ra) == (record.classifier_sha256, record.ra)
    (path,) = (path for path in folder.glob("results/local/toy/*.json") if load_record(path) == record)
    correction = correct(path, record, folder / "results", reason="data", note="leaked")
    with pytest.warns(UserWarning, match=r"^the record of slf was withdrawn: the data were wrong\. leaked$"):
        bench.evaluate(run, protocols="slf, slf", settings=settings)
    correction.unlink()
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    with pytest.raises(BenchError, match=r"the weights of this encoder are no longer those of .* Load it again"):
        bench.evaluate(encoder)
    with pytest.raises(BenchError, match=r"does not come from a file.* Load it with bench\.load_encoder"):
        bench.evaluate(type(encoder)(encoder.backbone, encoder.normalise))


class Halved(Normalise):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / 2


def test_an_encoder_that_computes_something_else_than_its_file_is_refused(run: str) -> None:
    """What is evaluated is the file: a hook, or another module, would be left out of it without a word."""
    encoder = bench.load_encoder(run)
    message = r"^modules, forward hooks or forward\(\) of this encoder are no longer those of .* Load it again"
    for part in (encoder, encoder.backbone):
        for register in (part.register_forward_hook, part.register_forward_pre_hook):
            hook = register(lambda *_: None)
            with pytest.raises(BenchError, match=message):
                bench.evaluate(encoder)
            hook.remove()
    encoder.normalise.__class__ = Halved
    with pytest.raises(BenchError, match=message):
        bench.evaluate(encoder)


def test_what_bench_evaluate_tells_is_a_warning(run: str, folder: Path) -> None:
    for record in folder.glob("runs/*/slf-*/record.json"):
        record.write_text(record.read_text()[:-100])
    with pytest.warns(UserWarning, match="is damaged or belongs to another run") as caught:
        bench.evaluate(run, protocols=["slf"])
    assert {warning.filename for warning in caught} == {__file__}


# Attacks


def test_pgd_is_the_attack_of_the_bench(run: str, folder: Path) -> None:
    encoder = bench.load_encoder(run)
    model = Classifier(encoder, torch.nn.Linear(encoder.feature_dim, 4)).train()
    data = load_dataset("npz:toy.npz", folder).test
    images, labels = unit_pixels(data.images), data.labels
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attacked = bench.attack.pgd(model, images, labels, eps=8 / 255, steps=3, seed=5)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    objective, generators = margin_objective(model.eval(), labels), image_generators(5, range(len(images)))
    expected = PGD(3, 0.25, "uniform")(objective, images, threat=Threat(eps=8 / 255), generator=generators)
    assert torch.equal(attacked, expected)
    assert torch.equal(bench.attack.pgd(model, images, labels, eps=0, steps=1), images)
    with torch.inference_mode():
        made_here = images.clone(), labels.clone()
        assert torch.equal(bench.attack.pgd(model, *made_here, eps=8 / 255, steps=3, seed=5), expected)
        assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: untyped.load_encoder(3), "load_encoder: source: must be text or a path .given: 3."),
        (lambda run: untyped.load_encoder(run, options={"a": 1}), "encoder.options are for a network that is named"),
        (lambda run: untyped.load_encoder(run, weights="no.pt"), r"is a file of the bench, .* Leave them out\.$"),
        (
            lambda run: untyped.load_encoder("torchvision:resnet18"),
            r"in Python bench\.load_encoder\(\.\.\., weights=FILE\)",
        ),
        (lambda run: untyped.load_encoder(run, options=[1]), "options: must be a section of keys"),
        (lambda run: untyped.load_encoder("torchvision:resnet18", weights="no.pt"), "cannot read no.pt"),
        (lambda run: untyped.load_encoder(), "missing a required argument: 'source'"),
        (
            lambda run: untyped.evaluate(torch.nn.Sequential(), "digits"),
            r"bench\.load_encoder\(\.\.\.\): a network of your",
        ),
        (lambda run: untyped.evaluate(3), "encoder: must be a Module or text or a path"),
        (lambda run: untyped.evaluate(run, protocols="slff"), "unknown protocol 'slff'"),
        (lambda run: untyped.evaluate(run, protocols="slf,kn"), "unknown protocol 'kn'. Did you mean 'knn'"),
        (lambda run: untyped.evaluate(run, protocols=[]), "no protocol is named. Type one or several of slf"),
        (lambda run: untyped.evaluate(run, protocols=3), "protocols: must be text or a Sequence"),
        (
            lambda run: untyped.evaluate(run, settings={"evaluate.pgd_steps": torch.tensor(1)}),
            "settings: must be plain",
        ),
        (lambda run: untyped.evaluate(run, seed=-1), "seed -1 is out of range"),
        (lambda run: untyped.evaluate(run, seed=True), r"^evaluate: seed: must be a number \(given: True\)$"),
        (
            lambda run: untyped.evaluate(bench.load_encoder(run).to("meta")),
            "weights of this encoder are no longer those",
        ),
        (lambda run: untyped.evaluate(run, device="gpu"), "device 'gpu' cannot be used"),
        (lambda run: untyped.evaluate(run, "nowhere"), "unknown dataset 'nowhere'"),
        (lambda run: untyped.evaluate(run, seed=5, results_dir="toy.npz"), "cannot write toy.npz"),
        (
            lambda run: untyped.evaluate(run, settings={"evaluate.attacks": "pgd-ce"}),
            r'must be a list, such as \[1, 2\] or \["a", "b"\] \(given: \'pgd-ce\'\)',
        ),
        (
            lambda run: untyped.load_records("nowhere"),
            r"there is no results folder nowhere\. Name one with results_dir, or",
        ),
        (lambda run: untyped.load_records("toy.npz"), "toy.npz is a file, not a results folder"),
        (lambda run: untyped.load_records(3), "results_dir: must be text or a path"),
    ],
)
def test_a_mistake_is_one_message(run: str, call: Callable[[str], object], message: str) -> None:
    before = sorted(Path().rglob("*"))
    with pytest.raises(BenchError, match=message):
        call(run)
    assert sorted(Path().rglob("*")) == before


# Records


def test_records_are_flat_and_every_key_is_documented(run: str, folder: Path) -> None:
    row = bench.load_records()[0]
    page = (ROOT / "docs" / "python.md").read_text().split("| key | is |")[1].split("\n\n")[0]
    assert [name for line in page.splitlines() for name in re.findall(r"`(\w+)`", line.partition(" | ")[0])] == list(
        row
    )
    (record,) = [one for one in bench.evaluate(run, protocols=["slf"])]
    assert row["local"]
    assert (row["title"], row["tier"], row["seed"], row["norm"]) == ("SimCLR", "mini", 0, "linf")
    rows = [one for one in bench.load_records() if one["steps"] == 2]
    assert {(one["sa"], one["sa_low"], one["sa_n"], one["ra"]) for one in rows} == {
        (record.sa.accuracy, record.sa.interval[0], 16, record.ra.outcome.accuracy)
    }
    assert (row["aa"], row["aa_low"], row["corruptions"]) == (None, None, None)
    assert "encoder.width=1" in row["settings"]
    assert bench.load_records(local=False) == []
    published = bench.load_records(ROOT / "results", local=False)
    assert {tuple(one) for one in published} == {tuple(row)}
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(published)
    assert frame.groupby("title")["aa"].max()["DeACL"] == max(
        one["aa"] for one in published if one["title"] == "DeACL" and one["aa"] is not None
    )


def test_a_record_that_cannot_be_trusted_is_left_out(folder: Path, tmp_path: Path) -> None:
    (source,) = list((folder / "results" / "local").glob("*/*.json"))[:1]
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / source.name).write_text(source.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.warns(UserWarning, match=f"left out .*{source.name}") as caught:
        assert bench.load_records(tmp_path) == []
    assert [warning.filename for warning in caught] == [__file__]


# Examples


def test_the_examples_run(run: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("load_an_encoder.py", run, "npz:toy.npz")
    shown = capsys.readouterr().out
    assert f"{bench.load_encoder(run).feature_dim} features of 16 images\ncosine within a class " in shown
    example("evaluate_an_encoder.py", run)
    assert re.fullmatch(r"SimCLR, slf: SA \S+% \[.*\]\nSimCLR, slf: RA \S+% \[.*\]\n", capsys.readouterr().out)
    example("attack_a_classifier.py")
    found = re.findall(r"eps (\d+)/255: (\S+)%", capsys.readouterr().out)
    assert [eps for eps, _ in found] == ["0", "4", "16"]
    clean, small, large = (float(accuracy) for _, accuracy in found)
    assert 80 < clean > small > large
    example("read_records.py", str(ROOT / "results"))
    assert re.search(r"^digits: ACL \S+%$", capsys.readouterr().out, re.M)


def test_a_local_record_that_was_published_counts_once(folder: Path, tmp_path: Path) -> None:
    (source,) = list((folder / "results" / "local").glob("*/*.json"))[:1]
    for place in (tmp_path / "toy", tmp_path / "local" / "toy"):
        place.mkdir(parents=True)
        (place / source.name).write_bytes(source.read_bytes())
    assert [one["local"] for one in bench.load_records(tmp_path)] == [False]
