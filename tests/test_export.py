"""Exports: what was written computes the same without the bench, and the card's lines and numbers are true."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from huggingface_hub import ModelCard
from in_process import say
from torch import Tensor, nn
from toy_runs import SMALL, carry_out, toy_data, toy_request

from bench.attack import PGD, margin_objective
from bench.errors import BenchError
from bench.nn import Classifier
from bench.recipe import Threat
from bench.record import Record
from bench.report.model_export import push, write_export
from bench.run import EncoderFile, encoder_path, finished_in, import_encoder, load_encoder
from bench.run.encoder import Origin

CPU = torch.device("cpu")


class Made(NamedTuple):
    root: Path
    runs: Path
    path: Path
    record: Record

    @property
    def classifier(self) -> Classifier:
        return next(finished_in(self.path)).classifier(CPU)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("export")
    wide = {**SMALL, "encoder.width": 2, "encoder.stem_padding": 2, "evaluate.corruption_names": ["fog", "snow"]}
    request = toy_request(toy_data(root / "toy.npz"), root, overrides=wide, corruptions="generate")
    ((record, _),) = carry_out(request, root / "results")
    (path,) = (each.parent for each in (root / "runs").glob("*/run.json"))
    return Made(root, root / "runs", path, record)


@pytest.fixture(scope="module")
def safe(made: Made) -> Path:
    folder = made.root / "safe"
    write_export(made.runs, made.path.name, folder, to="safetensors", results_dir=made.root / "results", protocol="slf")
    return folder


def images(count: int = 5, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def loaded(code: str, folder: Path) -> dict[str, Any]:
    """Run the lines of a card in its folder, with no name of the bench in them."""
    assert "bench" not in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "README.md", "exec"), found)
    return found


def lines(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert found
    return found[1]


def attacked(network: nn.Module, labels: Tensor, eps: float) -> Tensor:
    network.requires_grad_(False)
    attack, generator = PGD(steps=3, step_size=0.25, start="uniform"), torch.Generator().manual_seed(0)
    objective, threat = margin_objective(network, labels), Threat(eps=eps)
    return attack(objective, images(len(labels)), threat=threat, generator=generator)


def right(network: nn.Module, pictures: Tensor, labels: Tensor) -> list[bool]:
    with torch.no_grad():
        found: list[bool] = (network(pictures).argmax(1) == labels).tolist()
    return found


class Attacked(NamedTuple):
    pictures: Tensor
    labels: Tensor
    eps: float
    verdicts: list[bool]
    """Of our network; some images survive."""


def some_fall(network: nn.Module) -> Attacked:
    with torch.no_grad():
        labels = network(images(12)).argmax(1)
    for eps in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64):
        pictures = attacked(network, labels, eps)
        verdicts = right(network, pictures, labels)
        if not all(verdicts):
            break
    assert 0 < sum(verdicts) < 12
    return Attacked(pictures, labels, eps, verdicts)


def check_same_robustness(found: nn.Module, ours: nn.Module) -> None:
    """Both give the same logits, and the same images survive when each is attacked through itself."""
    with torch.no_grad():
        torch.testing.assert_close(found(images(12)), ours(images(12)), rtol=1e-5, atol=1e-5)
    _, labels, eps, verdicts = some_fall(ours)
    assert right(found, attacked(found, labels, eps), labels) == verdicts


def test_the_lines_of_the_card_make_the_same_classifier_without_the_bench(made: Made, safe: Path) -> None:
    check_same_robustness(loaded(lines(safe), safe)["model"], made.classifier)
    assert made.classifier(images()).std() > 1e-3


@pytest.mark.slow
def test_a_process_without_the_bench_loads_it(made: Made, safe: Path) -> None:
    code = lines(safe) + (
        "import sys; assert not any(name.split('.')[0] in ('bench', 'methods') for name in sys.modules)\n"
        "x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)); print(model(x).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=safe, capture_output=True, text=True, check=True)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), made.classifier(images()), rtol=1e-5, atol=1e-5)


def test_the_card_has_the_record_s_numbers_and_a_header_that_the_hub_reads(made: Made, safe: Path) -> None:
    text = (safe / "README.md").read_text()
    data: Any = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name) == ("image-classification", "pytorch")
    record, (ra, sa, corrupted) = made.record, data.eval_results
    assert ra.metric_value == round(100 * record.ra.outcome.accuracy, 2)
    assert sa.metric_value == round(100 * record.sa.accuracy, 2)
    assert record.corruptions is not None
    assert corrupted.metric_value == round(100 * record.corruptions.accuracy, 2)
    assert corrupted.metric_name == "mCA under SLF (2 common corruptions in 5 severities)"
    assert f"| mCA | 2 common corruptions in 5 severities | 16 | {100 * record.corruptions.accuracy:.1f} | " in text
    low, high = record.sa.interval
    assert f"| {record.sa.n} | {100 * record.sa.accuracy:.1f} | {100 * low:.1f} to {100 * high:.1f} |" in text
    assert "bench run simclr" in text
    assert not re.search(r"\n{4,}", text)


def test_an_exported_folder_is_imported_again(made: Made, safe: Path) -> None:
    kept = load_encoder(made.path / "encoder.safetensors").plain()
    for path in (safe, safe / "model.safetensors"):
        back = import_encoder(path)
        assert torch.equal(back.plain()(images()), kept(images()))
    known = back.origin.imported
    assert known is not None
    assert known.report is not None
    assert (known.title, known.trained_on, back.example_data) == (made.record.title, made.record.dataset, "npz:PATH")
    assert known.trained_on_sha256 == made.record.read_recipe().dataset.sha256
    assert known.report.dropped == {"head": "classifier of 2 classes"}
    assert encoder_path(safe, Path("runs")) == safe / "model.safetensors"  # as for `bench evaluate`, and from Python
    for named in ("digits", "cifar100"):
        renamed = known.model_copy(update={"report": known.report.model_copy(update={"trained_on": named})})
        # The command that an import ends with names the data of its own training.
        assert EncoderFile(back.tensors, Origin(imported=renamed)).example_data == named


def test_onnx_takes_any_batch_and_is_refused_by_import(made: Made) -> None:
    folder = made.root / "onnx"
    write_export(made.runs, made.path.name, folder, to="onnx", results_dir=made.root / "results", protocol="slf")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "README.md"}
    session = loaded(lines(folder), folder)["session"]
    for count in (1, 4):
        found = torch.from_numpy(session.run(None, {"images": images(count).numpy()})[0])
        torch.testing.assert_close(found, made.classifier(images(count)), rtol=1e-5, atol=1e-5)
    some = some_fall(made.classifier)  # a graph has no gradients, so it judges what was attacked here
    found = torch.from_numpy(session.run(None, {"images": some.pictures.numpy()})[0])
    assert (found.argmax(1) == some.labels).tolist() == some.verdicts
    for path in (folder, folder / "model.onnx"):
        with pytest.raises(BenchError, match=r"ONNX.*bench export RUN --to safetensors"):
            import_encoder(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "safetensor"], r"unknown format 'safetensor'. Did you mean 'safetensors'"),
        (["--protocol", "linear"], r"unknown protocol 'linear'"),
        (["--protocol", "knn"], r"knn is a vote of the training images, not a network"),
        (["--protocol", "aff"], r"no finished aff. Type bench evaluate "),
        (["--to", "timm"], r"width 2, and the ResNets of timm have 64"),
        (["--push-to-hub", "a/b/c"], r"--push-to-hub 'a/b/c'.*Type OWNER/NAME"),
        (["--push-to-hub", "deacl"], r"--push-to-hub 'deacl': the owner is missing"),
        (["--push-to-hub", "me/deacl"], r"no token of the Hugging Face Hub.*hf auth login"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    arguments: list[str],
    said: str,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.report.model_export.hub.get_token", lambda: None)
    done = say(monkeypatch, capsys, "export", made.path.name, "--runs-dir", str(made.runs), *arguments)
    assert (done.code, done.stdout) == (1, "")
    assert re.search(said, done.stderr)
    assert not list(tmp_path.iterdir())


def test_runs_that_are_unknown_or_unfinished_and_folders_in_use_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=f"unknown run 'toys'.*{made.path.name}"):
        write_export(made.runs, "toys", tmp_path / "out", to="safetensors", results_dir=tmp_path)
    begun = tmp_path / "runs" / made.path.name
    begun.mkdir(parents=True)
    (begun / "run.json").write_bytes((made.path / "run.json").read_bytes())
    with pytest.raises(BenchError, match=r"is not finished: it has no encoder yet\. Type bench run simclr"):
        write_export(tmp_path / "runs", made.path.name, tmp_path / "out", to="safetensors", results_dir=tmp_path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BenchError, match="is not empty, and stays as it is"):
        write_export(made.runs, made.path.name, tmp_path, to="safetensors", results_dir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_of_several_evaluations_the_newest_is_exported_and_the_others_are_counted(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "copy")
    runs, out = tmp_path / "copy" / "runs", tmp_path / "out"
    more = {**SMALL, "encoder.width": 2, "encoder.stem_padding": 2, "evaluate.pgd_steps": 1}
    ((record, _),) = carry_out(
        toy_request(f"npz:{made.root}/toy.npz", tmp_path / "copy", overrides=more), tmp_path / "more"
    )
    written = write_export(runs, made.path.name, out, to="safetensors", results_dir=tmp_path, protocol="slf")
    assert (written.protocols, written.others) == (("slf",), 1)
    assert "PGD-1" in (out / "README.md").read_text()
    assert record.recipe["evaluate"]["pgd_steps"] == 1


class Hub(BaseHTTPRequestHandler):
    """Answers as far as an upload needs, and keeps what it was sent."""

    sent: list[tuple[str, str, bytes]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.sent.append((self.path, self.headers.get("Authorization", ""), body))
        answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/me/toy", "errors": [], "warnings": []}
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": each, "uploadMode": "regular", "shouldIgnore": False} for each in names]}
        elif "/commit/" in self.path:
            url = f"http://{self.headers['Host']}/me/toy/commit/1"
            answer = {"commitUrl": url, "commitOid": "1", "success": True}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    Hub.sent.clear()
    yield endpoint
    server.shutdown()
    server.server_close()


def test_an_export_is_uploaded(safe: Path, hub: str) -> None:
    assert push(safe, "me/toy") == f"{hub}/me/toy"
    (commit,) = [body for path, _, body in Hub.sent if "/commit/" in path]
    uploaded = {each["value"]["path"] for each in map(json.loads, commit.splitlines()) if each["key"] == "file"}
    assert uploaded == {"README.md", "model.safetensors", "network.pt2"} == {path.name for path in safe.iterdir()}
    assert {key for _, key, _ in Hub.sent} == {"Bearer hf_of_a_test"}


def test_a_dry_run_says_what_would_be_uploaded_and_does_nothing(
    made: Made,
    safe: Path,
    hub: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--protocol", "slf", "--push-to-hub", "me/toy", "--dry-run", "--runs-dir", str(made.runs))
    done = say(monkeypatch, capsys, "export", made.path.name[:-2], *options)
    assert done.code == 0, done.stderr
    assert f"would write: exports/{made.path.name}-slf-safetensors" in done.stdout
    used = say(monkeypatch, capsys, "export", made.path.name, *options, "--output", str(safe))
    assert (used.code, "is not empty, and stays as it is" in used.stderr) == (1, True)
    for path in safe.iterdir():
        size = re.search(rf"^{re.escape(path.name)}: ([\d,]+) bytes$", done.stdout, re.M)
        assert size
        assert int(size[1].replace(",", "")) == pytest.approx(path.stat().st_size, rel=0.01)
    assert "would upload to: me/toy" in done.stdout
    assert not list(tmp_path.iterdir())
    assert not Hub.sent


def test_without_a_network_the_export_stays(safe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with pytest.raises(BenchError, match=r"was not uploaded to http://127\.0\.0\.1:9 .*type: hf upload me/toy .*safe"):
        push(safe, "me/toy")
    assert len(list(safe.iterdir())) == 3
