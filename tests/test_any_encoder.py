"""Networks of timm, of torchvision and of a user's own file are trained and judged like those of the bench."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from in_process import Said, say
from safetensors.torch import save_file
from toy_runs import VARYING, Listener, toy_data

from bench import evaluate, rng
from bench import load_encoder as load_named
from bench.errors import BenchError, InterruptedRunError
from bench.files import file_digest
from bench.nn import ENCODERS, Encoder, branches, build_encoder
from bench.recipe import EncoderSettings
from bench.record import Record, load_submission
from bench.report.reproduce import reproduction
from bench.run import RunRequest, execute, prepare
from bench.run.encoder import load_encoder
from bench.train import take_step
from bench.zoo import CONSTANTS

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")  # not imported yet

VIT = "timm:vit_tiny_patch16_224"
TINY = {"img_size": 8, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}
OWN = """
import torch
from torch import nn

class Small(nn.Module):
    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:  # as in torchvision's MNASNet
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def __init__(self, features=5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, features, 3, 2), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x):
        return self.body(x).mean((2, 3))

def maps(width):
    return nn.Conv2d(3, width, 3)

def classes():
    return 10

faulty = {"net": Small()}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(OWN)
    return file


def build(arch: str, side: int = 8, **options: Any) -> Encoder:
    with rng.scoped(0, "any encoder"):
        settings = EncoderSettings(arch=ENCODERS.name_of(arch), width=4, options=options)
        return build_encoder(settings, image_shape=(3, side, side), mean=(0.4,) * 3, std=(0.2,) * 3)


def images(count: int = 4, side: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=rng.generator(0, "images"))


# Form


@pytest.mark.parametrize(
    ("arch", "options", "features"),
    [
        (VIT, TINY, 12),
        ("timm:resnet18", {"input_size": 32}, 512),
        ("torchvision:mobilenet_v2", {"input_size": 32}, 1280),
    ],
)
def test_a_network_of_a_library_has_no_classifier_and_gradients_reach_the_pixels(
    arch: str, options: dict[str, Any], features: int
) -> None:
    encoder, x = build(arch, **options), images().requires_grad_()
    found = encoder.eval()(x)
    assert encoder.feature_dim == features
    assert found.shape == (4, features)
    found.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.ne(0).any(dim=(1, 2, 3)).all())
    assert torch.equal(encoder.prepared()(x), found)


def test_images_are_resized_within_and_only_where_they_differ() -> None:
    small, large = build(VIT, **TINY), build(VIT, side=16, **TINY)
    large.load_state_dict(small.state_dict())
    x = images()
    constant = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(large.eval()(constant), small.eval()(constant[..., :8, :8]), atol=1e-6)
    assert torch.equal(large(x), small(x)), "images of the size of the network are not touched"


def test_branches_without_batch_norm_are_one_network() -> None:
    first, second = branches(build(VIT, **TINY), 2)
    assert all(p is second.get_parameter(name) for name, p in first.named_parameters())


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        (
            "timm:vit_tiny_patch16_225",
            {},
            r"unknown network of timm 'vit_tiny_patch16_225'\. Did you mean 'vit_tiny_pat",
        ),
        ("timm:hf-hub:someone/net", {}, "unknown network of timm 'hf-hub:someone/net'"),
        ("timm:resnet18.mine", {}, "unknown weights of timm's resnet18 'mine'"),
        ("torchvision:resnet19", {}, "unknown network of torchvision 'resnet19'.*'resnet18'"),
        ("torchvision:squeezenet1_1", {}, r"has no linear classifier .*type \./net.py:make_encoder instead of torchv"),
        (VIT, {**TINY, "pretrained": True}, "encoder.options.pretrained: weights come from --weights FILE alone"),
        (VIT, {**TINY, "checkpoint_path": "x.pth"}, "encoder.options.checkpoint_path: weights come from"),
        (VIT, {**TINY, "num_classes": 5}, "encoder.options.num_classes: it follows from"),
        (VIT, {**TINY, "heads": 2}, "cannot be built with encoder.options .*'heads'"),
        (VIT, {**TINY, "input_size": "big"}, "encoder.options.input_size=big: it must be a side"),
        (VIT, {**TINY, "input_size": 12}, r"(?s)cannot take images of 3x12x12: .*Resize them with --set"),
        ("resnet19", {}, "unknown encoder 'resnet19'.*Or timm:NAME, torchvision:NAME, or FILE.py:NAME"),
    ],
)
def test_what_is_not_there_is_one_message(arch: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        build(arch, **options)


def test_timm_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.nn.libraries.find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"needs timm\. Type: pip install 'ssl-robustness-bench\[timm\]'"):
        build(VIT)


# A user's own file


def test_an_own_network_gets_its_options_and_is_known_by_its_code(own: Path) -> None:
    encoder = build(f"{own}:Small", features=7)
    assert encoder(images()).shape == (4, 7)
    assert ENCODERS.name_of(f"{own}:Small").startswith("Small+")


def test_the_file_of_the_page_is_an_encoder(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "encoders.md").read_text()
    text = page.split("```python net.py\n")[1].split("```")[0]
    (tmp_path / "page.py").write_text(text)
    assert build(f"{tmp_path / 'page.py'}:make_encoder", features=9)(images()).shape == (4, 9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maps", r"net.py:maps returns a tensor of shape \[2, 4, 6, 6\] for 2 images, and no features: \[2, D\]"),
        ("classes", r"net.py:classes makes no network \(its type: int\)\. Name a function or class"),
        ("faulty", r"net.py:faulty is no encoder: it is no function or class that makes a network"),
        ("netw", "unknown encoder in .*'netw'"),
    ],
)
def test_what_is_no_encoder_is_one_message(own: Path, name: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        build(f"{own}:{name}")


def test_a_recipe_that_names_a_file_does_not_load_it(own: Path) -> None:
    own.write_text("raise SystemExit('it was run')")
    with pytest.raises(BenchError, match="a file is loaded where it is typed alone"):
        EncoderSettings.parse({"arch": f"{own}:Small"}, "recipe")


# Training


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_a_run_with_it_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path, own: Path, kind: str) -> None:
    arch, options = (VIT, TINY) if kind == "timm" else (f"{own}:Small", {"features": 6})
    overrides: dict[str, Any] = {
        "encoder.arch": arch,
        **{f"encoder.options.{key}": each for key, each in options.items()},
    }
    overrides |= {"stage1.epochs": 2, "stage1.batch_size": 8, "stage1.optimizer": "adamw", "stage1.projector": [4, 4]}
    overrides |= {"slf.epochs": 1, "slf.batch_size": 8, "evaluate.pgd_steps": 1, "evaluate.autoattack": False}
    overrides |= {"stage1.lr": 0.01}
    data = toy_data(tmp_path / "toy.npz")

    def run(folder: str, listener: Listener) -> Any:
        request = RunRequest(
            "simclr", data, protocols=["slf"], overrides=overrides, runs_dir=tmp_path / folder, device="cpu"
        )
        prepared = prepare(request)
        ((record, _),) = execute(prepared, tmp_path / "results" / folder, listener)
        return record, load_encoder(prepared.folder.encoder)

    whole, expected = run("whole", Listener())
    with pytest.raises(InterruptedRunError):
        run("stopped", Listener(stop_at=2))
    resumed, found = run("stopped", Listener())
    assert found.sha256 == expected.sha256
    assert resumed.model_dump(exclude=VARYING) == whole.model_dump(exclude=VARYING)
    assert whole.recipe["encoder"]["arch"] == ENCODERS.name_of(arch)
    assert "timm" in whole.environment.packages


@pytest.mark.parametrize(
    ("method", "message"), [("acl", None), ("ap-dpe", "it needs a ResNet of the bench, with conv1")]
)
def test_methods_with_several_batch_norms_train_it_and_those_that_split_a_resnet_say_what_they_need(
    tmp_path: Path, method: str, message: str | None
) -> None:
    overrides: dict[str, Any] = {f"encoder.options.{key}": each for key, each in TINY.items()}
    overrides |= {"encoder.arch": VIT, "stage1.batch_size": 8, "slf.batch_size": 8, "evaluate.autoattack": False}
    request = RunRequest(method, toy_data(tmp_path / "toy.npz"), protocols=["slf"], overrides=overrides, device="cpu")
    if message:
        with pytest.raises(BenchError, match=message):
            prepare(request)
        return
    run = prepare(request)
    (stage,) = run.method(run.recipe.config).stages(run.context)
    index, before = torch.arange(8), stage.encoder.backbone.get_parameter("network.norm.bias").clone()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    take_step(stage.train(), run.context.images[index], index, rng.generator(0, "views"), stage.optimizer(), scaler)
    assert not torch.equal(stage.encoder.backbone.get_parameter("network.norm.bias"), before)


# Evaluation


def settings(options: dict[str, Any]) -> list[str]:
    small: dict[str, Any] = {"slf.epochs": 1, "alf.epochs": 1, "aff.epochs": 1, "alf.steps": 1, "aff.steps": 1}
    small |= {f"{name}.batch_size": 8 for name in ("slf", "alf", "aff")}
    small |= {"evaluate.pgd_steps": 1, "evaluate.autoattack": "false"}
    small |= {f"encoder.options.{key}": each for key, each in options.items()}
    return [word for key, each in small.items() for word in ("--set", f"{key}={each}")]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """``bench evaluate`` on toy data, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    data = toy_data(Path("toy.npz"))
    common = ("--dataset", data, "--device", "cpu", "--runs-dir", "runs", "--results-dir", "results", "--json")
    return lambda *words: say(monkeypatch, capsys, "evaluate", *map(str, words), *common)


def saved(arch: str, **options: Any) -> tuple[dict[str, torch.Tensor], Encoder]:
    encoder = build(arch, **options)
    return encoder.backbone.get_submodule("network").state_dict(), encoder


def test_a_vision_transformer_of_timm_goes_through_all_protocols(bench: Callable[..., Said]) -> None:
    state, encoder = saved(VIT, **TINY)
    head = {"head.weight": torch.zeros(10, 12), "head.bias": torch.zeros(10)}
    torch.save({"state_dict": {f"module.{key}": each for key, each in {**state, **head}.items()}}, "vit.pt")
    code, out, err = bench(VIT, "--weights", "vit.pt", *settings(TINY))
    assert code == 0, err
    for part in ("12 features", "state_dict.module.head: a classifier of 10 classes (2 tensors)", "resized to 8x8"):
        assert part in err
    assert "normalisation mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (timm's data configuration)" in err
    records = [Record(**each) for each in json.loads(out)]
    assert [record.protocol for record in records] == ["slf", "alf", "aff"]
    for record in records:
        assert (record.method, record.fidelity) == ("imported", "native")
        form = EncoderSettings(**record.recipe["encoder"])
        assert (form.arch, form.options) == (VIT, {**TINY, "input_size": [8, 8]})
        assert form.constants == ((0.5,) * 3, (0.5,) * 3)
    command = reproduction(records[0]).command
    assert f"bench evaluate {VIT} --weights FILE --normalisation 0.5,0.5,0.5/0.5,0.5,0.5 --set" in command
    (kept,) = (load_encoder(path).plain() for path in Path("runs").glob("*/encoder.safetensors"))
    x = images()
    expected = encoder.backbone.eval()((x - 0.5) / 0.5)
    assert torch.allclose(kept(x), expected, atol=1e-6)


def test_an_own_network_is_judged_with_its_weights_and_submitted_with_its_file(
    bench: Callable[..., Said], own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = saved(f"{own}:Small", features=6)
    save_file({f"online.{key}": each for key, each in state.items()}, "net.safetensors")
    words = ("--weights", "net.safetensors", "--protocols", "slf", *settings({"features": 6}))
    code, out, err = bench(f"{own}:Small", *words)
    assert code == 0, err
    assert "2 tensors below online., 6 features; left out: nothing" in err
    assert "images as they are; normalisation none (the network takes pixels in [0, 1])" in err
    (record,) = (Record(**each) for each in json.loads(out))
    assert record.recipe["encoder"]["arch"] == ENCODERS.name_of(f"{own}:Small")
    assert "bench evaluate FILE.py:Small --weights FILE --normalisation none" in reproduction(record).command
    (run,) = (path.name for path in Path("runs").iterdir() if path.is_dir())
    submit, submissions = ("submit", run, "--by", "Ada"), Path("results", "submissions")
    monkeypatch.setattr(ENCODERS, "_entries", {key: each for key, each in ENCODERS._entries.items() if "+" not in key})
    with pytest.raises(BenchError, match=r'First call bench\.load_encoder\(SOURCE, encoder="FILE\.py:Small"\) with'):
        load_named(run)
    assert "Type `bench --encoder FILE.py:Small COMMAND ...`" in say(monkeypatch, capsys, *submit).stderr
    assert not submissions.exists()
    assert load_named(run, encoder=f"{own}:Small").feature_dim == 6
    out = say(monkeypatch, capsys, *submit).stdout
    (copy,) = submissions.glob("*/code/*")
    assert (f"code: {copy}" in out, copy.read_text()) == (True, own.read_text())
    command, card = load_submission(copy.parents[1]).commands[-1], (copy.parents[1] / "README.md").read_text()
    assert f"bench --encoder {copy}:Small verify " in command
    parts = (command, f"SHA-256 `{file_digest(copy)}`", f'encoder="code/{copy.name}:Small")')
    assert all(part in card for part in parts)
    assert say(monkeypatch, capsys, *command.replace("npz:PATH", "npz:toy.npz").split()[1:]).code == 0


def test_a_named_network_is_loaded_and_evaluated_from_python(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state, theirs = saved(f"{own}:Small", features=6)
    torch.save(state, "net.pt")
    given: dict[str, Any] = {"weights": "net.pt", "options": {"features": 6}}
    ours = load_named(f"{own}:Small", **given, normalisation="cifar")
    x = images()
    mean, std = (torch.tensor(each)[:, None, None] for each in CONSTANTS["cifar"])
    assert torch.allclose(ours(x), theirs.backbone.eval()((x - mean) / std), atol=1e-6)
    small = {"slf.epochs": 1, "slf.batch_size": 8, "evaluate.pgd_steps": 1, "evaluate.autoattack": False}
    data = toy_data(Path("toy.npz"))
    (record,) = evaluate(ours, data, protocols=["slf"], settings=small)
    form = EncoderSettings(**record.recipe["encoder"])
    assert (form.arch, form.options, form.normalisation) == (ENCODERS.name_of(f"{own}:Small"), {"features": 6}, "cifar")
    with torch.no_grad():
        next(ours.parameters()).add_(1)
    with pytest.raises(BenchError, match=r"no longer those of .*net.py:Small"):
        evaluate(ours, data)
    state, theirs = saved(VIT, **TINY)
    torch.save({"teacher": state, "student": state}, "vit.pt")
    vit = load_named(VIT, weights="vit.pt", network="teacher.", options=TINY)
    assert torch.allclose(vit(x), theirs.backbone.eval()((x - 0.5) / 0.5), atol=1e-6)
    with rng.scoped(0, "published"):
        published = torchvision.models.shufflenet_v2_x0_5().eval()
    torch.save(published.state_dict(), "published.pt")
    shuffle = load_named(
        "torchvision:shufflenet_v2_x0_5", weights="published.pt", normalisation="none", options={"input_size": 32}
    )
    published.fc = torch.nn.Identity()
    x = images(side=32)
    assert torch.allclose(shuffle(x), published(x), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda state: state, (), "is a network without weights, and none are downloaded"),
        (lambda state: {**state, "blocks.1.x": torch.ones(12)}, ("--weights", "w.pt"), "blocks.1.x: 12, not absent"),
        (
            lambda state: {**state, "norm.bias": torch.ones(5)},
            ("--weights", "w.pt"),
            "norm.bias: 5, not 12.*input_size if its images are not of 32 pixels",
        ),
        (lambda state: {**state, "norm.bias": torch.ones(12).to_sparse()}, ("--weights", "w.pt"), "Save it as float32"),
        (
            lambda state: {**state, "norm.bias": torch.ones(12, dtype=torch.complex64)},
            ("--weights", "w.pt"),
            "type complex64",
        ),
        (lambda state: {**state, "norm.bias": torch.full((12,), torch.nan)}, ("--weights", "w.pt"), "not finite"),
        (lambda state: {"x": torch.ones(3)}, ("--weights", "w.pt"), "does not hold the weights of timm:vit_tiny"),
        (
            lambda state: {"student": state, "teacher": state},
            ("--weights", "w.pt"),
            "2 networks like .*--network student, --network teacher",
        ),
        (lambda state: state, ("--weights", "w.pt", "--normalisation", "0.5/0.5"), "is for images of 3 channels"),
        (lambda state: state, ("--weights", "none.pt"), "cannot read none.pt"),
    ],
)
def test_weights_that_do_not_fit_are_one_message(
    bench: Callable[..., Said], change: Callable[[Any], Any], words: tuple[str, ...], message: str
) -> None:
    torch.save(change(saved(VIT, **TINY)[0]), "w.pt")
    code, _, err = bench(VIT, *words, *settings(TINY))
    assert code == 1
    assert re.search(message, err), err
    assert not Path("runs").exists()


def test_one_of_several_networks_is_named_and_options_of_weights_belong_to_networks(bench: Callable[..., Said]) -> None:
    state, _ = saved(VIT, **TINY)
    torch.save({"student": state, "teacher": {key: each + 1 for key, each in state.items()}}, "my w.pt")
    words = ("--weights", "my w.pt", "--network", "teacher.", "--protocols", "slf", "--dry-run")
    code, _, err = bench(VIT, *words, *settings(TINY))
    assert code == 0, err
    assert "below teacher." in err
    own = bench("my w.pt", "--normalisation", "cifar").stderr
    assert "w.pt is a file of weights itself. Type bench import 'my w.pt' --normalisation cifar, and" in own
