"""``bench import``: what it says and writes, and one message for every file that cannot be taken."""

import argparse
import io
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
from in_process import Said, say
from origin_networks import BASIC, IMAGENET, LISTED, Dialect, linear, normaliser, random_weights
from safetensors.torch import save_file
from toy_runs import toy_data

from bench.errors import BenchError
from bench.nn import ENCODERS
from bench.record import Record
from bench.run import import_encoder
from bench.run.encoder import load_encoder
from bench.zoo import ORIGINS, ImportChoices, import_checkpoint, short_name

Bench = Callable[..., Said]
SAID = ("--stem-padding", "1", "--normalisation", "cifar")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """The command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: say(monkeypatch, capsys, *map(str, arguments))


def saved(content: Any, name: str = "theirs.pt") -> Path:
    path = Path(name)
    torch.save(content, path)
    return path


# What it says and writes


def test_it_says_what_it_took_and_writes_a_file_of_ours(bench: Bench) -> None:
    state = {**random_weights(LISTED), **normaliser("normalize.", IMAGENET), **linear("fc.fc1", 16)}
    file = saved({"state_dict": state, "epoch": 1}, "acl.pt")
    code, out, err = bench("import", file, "--branch", "clean", "--json")
    assert code == 0, err
    said = json.loads(out)
    written = load_encoder(Path(said["path"]))
    assert said["path"] == "acl-encoder.safetensors"
    assert said["encoder_sha256"] == written.sha256
    assert written.origin.imported is not None
    assert written.origin.imported.model_dump(mode="json") == {
        key: said[key] for key in ("title", "year", "encoder", "report")
    }
    assert (said["title"], said["year"]) == ("ACL, DynACL, AIR or RCS, acl", 2020)
    assert said["report"]["dropped"] == {
        "bn_list.1": "batch-norm 1 of each layer (100 tensors)",
        "fc": "the projector (2 tensors)",
        "epoch": "beside the weights",
    }
    code, out, err = bench("import", file, "--title", "Mine", "--year", "2025", "--output", "mine.safetensors")
    assert code == 0, err
    for part in (
        "Mine 2025",
        "resnet18, width 2, 16 features",
        "number 1 (adversarial)",
        "the projector",
        "imagenet: ",
    ):
        assert part in out
    assert "exists already" in bench("import", file).stderr
    assert "is an encoder file of the bench already" in bench("import", "mine.safetensors").stderr


def test_safetensors_of_others_are_read(bench: Bench) -> None:
    save_file(random_weights(BASIC), "theirs.safetensors")
    code, _, err = bench("import", "theirs.safetensors", *SAID)
    assert code == 0, err
    assert load_encoder(Path("theirs-encoder.safetensors")).tensors["backbone.conv1.weight"].shape == (2, 3, 3, 3)


def test_files_that_look_the_same_are_named(bench: Bench) -> None:
    state = {**random_weights(BASIC), **normaliser("normalize.", IMAGENET), **linear("fc", 10)}
    file = saved({"state_dict": state}, "best.pth.tar")
    assert "--origin advcl" in bench("import", file, "--dry-run").stdout
    taken = import_checkpoint(file, ImportChoices("a-infonce"))
    assert (taken.title, taken.settings.normalisation, taken.report.caution) == ("A-InfoNCE, best", "none", "")
    assert taken.report.dropped == {
        "normalize": "unused constants of normalisation (2 tensors)",
        "fc": "a classifier of 10 classes (2 tensors)",
    }
    assert [short_name(Path(name)) for name in ("ckpt.t7rocl_7", "a.b.pt")] == ["ckpt.t7rocl_7", "a.b"]


def test_a_network_of_full_size_takes_less_than_two_seconds(bench: Bench) -> None:
    file = saved({"state_dict": {f"module.{name}": value for name, value in random_weights(BASIC, 64).items()}})
    before = process_time()
    taken = import_checkpoint(file, ImportChoices("deacl"))
    assert process_time() - before < 2
    assert (
        sum(tensor.numel() for name, tensor in taken.tensors.items() if name.endswith(("weight", "bias"))) == 11_168_832
    )


def test_the_page_lists_every_origin() -> None:
    page = (Path(__file__).parents[1] / "docs" / "import.md").read_text()
    first = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([^`]+)`", first)) == {*ORIGINS, "plain", "--origin"}


def test_the_large_stem_is_an_option_of_the_encoder() -> None:
    with pytest.raises(
        BenchError, match=r"unknown encoder.options.stem 'large'. Did you mean|Allowed: cifar, imagenet"
    ):
        ENCODERS.get("resnet18")(1, (3, 8, 8), 1, "kaiming", stem="large")
    with pytest.raises(BenchError, match=r"encoder.stem_padding=2 is for the 3x3 stem; the 7x7 stem pads by 3"):
        ENCODERS.get("resnet18")(1, (3, 8, 8), 2, "kaiming", stem="imagenet")


def test_half_precision_and_files_without_counters_are_taken(bench: Bench) -> None:
    weights = random_weights(BASIC)
    few = {name: tensor.half() for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    taken = import_checkpoint(saved(few), ImportChoices(stem_padding=1, normalisation="none")).tensors
    assert taken["backbone.bn1.num_batches_tracked"] == 0
    torch.testing.assert_close(taken["backbone.conv1.weight"], weights["conv1.weight"], rtol=1e-3, atol=1e-3)
    assert taken["backbone.conv1.weight"].dtype == torch.float32


def test_an_origin_that_the_user_names_says_the_rest(bench: Bench) -> None:
    file = saved(random_weights(BASIC))
    encoder = import_encoder(file, ImportChoices(origin="deacl"))
    assert encoder.origin.imported is not None
    form = encoder.origin.imported.encoder
    assert (form.stem_padding, form.normalisation, encoder.origin.imported.year) == (2, "cifar", 2022)
    assert (
        "--origin deacl: theirs.pt is not from DeACL"
        in bench("import", saved(random_weights(LISTED)), "--origin", "deacl").stderr
    )
    assert "unknown origin 'decal'. Did you mean 'deacl'" in bench("import", file, "--origin", "decal").stderr


def test_a_foreign_file_is_evaluated_directly_and_its_row_says_so(bench: Bench) -> None:
    state = {**random_weights(LISTED), **normaliser("normalize.", ((0.5,) * 3, (0.2,) * 3))}
    data = toy_data(Path("toy.npz"))
    records = []
    for seed in (0, 1):
        torch.save({"state_dict": {**state, **random_weights(LISTED, seed=seed)}}, f"theirs{seed}.pt")
        command = ["evaluate", f"theirs{seed}.pt", "--dataset", data, "--protocols", "slf", "--device", "cpu", "--json"]
        for setting in ("slf.epochs=1", "slf.batch_size=8", "evaluate.pgd_steps=2", "evaluate.autoattack=false"):
            command += ["--set", setting]
        code, out, err = bench(*command)
        assert code == 0, err
        records.append(Record(**json.loads(out)[0]))
    assert [record.title for record in records] == [f"ACL, DynACL, AIR or RCS, theirs{seed}" for seed in (0, 1)]
    assert records[0].recipe["encoder"]["constants"] == [[0.5] * 3, [0.2] * 3]
    assert records[0].recipe["config"] == {"weights": records[0].encoder_sha256}
    board = bench("leaderboard", "--format", "json").stdout
    for seed in (0, 1):  # two imports are two rows, not two seeds of one
        assert f"ACL, DynACL, AIR or RCS, theirs{seed} 2020 (local, re-evaluated" in board


# What is harmless, and what is not


class Innocent:
    """A class that nobody allowed."""


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_harmless_objects_are_plain_data(bench: Bench) -> None:
    extras = {
        "hyper_parameters": argparse.Namespace(lr=0.1, path=Path("x")),
        "acc": np.float64(0.5),
        "best": np.arange(3),
        "log": defaultdict(list, {"a": [1]}),
        "when": datetime(2026, 1, 1),
    }
    taken = import_checkpoint(saved({"state_dict": random_weights(BASIC), **extras}), ImportChoices("deacl"))
    assert {"hyper_parameters", "acc", "best", "log", "when"} <= taken.report.dropped.keys()


@pytest.mark.parametrize(("thing", "name"), [(Evil(), "system"), (Innocent(), "test_import.Innocent")])
@pytest.mark.parametrize("command", [("import",), ("evaluate", "--dataset", "digits")])
def test_a_pickle_that_would_run_code_is_refused(
    bench: Bench, thing: object, name: str, command: tuple[str, ...]
) -> None:
    file = saved({"state_dict": random_weights(BASIC), "extra": thing})
    code, out, err = bench(command[0], file, *command[1:])
    assert (code, out) == (1, "")
    assert "theirs.pt is refused" in err
    assert name in err
    assert "Nothing was run. The safe way: ask for the file as safetensors" in err
    assert [path.name for path in Path().iterdir()] == ["theirs.pt"], "nothing was run, and nothing written"


# Files that cannot be taken


def whole() -> bytes:
    buffer = io.BytesIO()
    torch.save(random_weights(BASIC), buffer)
    return buffer.getvalue()


def truncated() -> bytes:
    return whole()[:-2000]


def one_bit_changed() -> bytes:
    """A bit of a weight, which PyTorch's own reader would not notice."""
    content = bytearray(whole())
    content[content.index(random_weights(BASIC)["layer2.0.conv1.weight"].numpy().tobytes())] ^= 1
    return bytes(content)


def truncated_legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save(random_weights(BASIC), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()[:-2000]


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "content")
    return buffer.getvalue()


BYTES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "is empty. Download it again"),
    "half-downloaded": (truncated, "is cut short or damaged: its table of contents"),
    "half-downloaded, old form": (truncated_legacy, "is damaged or cut short"),
    "one bit changed": (one_bit_changed, "the checksum of .* does not match"),
    "web page": (
        lambda: b"\n<!DOCTYPE html><html><head><title>Sign in</title></head>",
        r"is a web page \('Sign in'\), not a checkpoint.*download the file itself",
    ),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "Type: git lfs pull"),
    "compressed": (lambda: b"\x1f\x8b\x08\x00", "is compressed"),
    "text": (lambda: b"hello, world, this is text", r"is no checkpoint: it begins with b'hello, w'"),
    "zip": (partial(zipped, "readme.txt"), r"zip file without a checkpoint of PyTorch \(readme.txt\)"),
    "TorchScript": (partial(zipped, "net/constants.pkl"), "is a TorchScript archive"),
    "a pickle of another library": (
        lambda: pickle.dumps({"a": 1}),
        "is damaged",
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_checkpoint_is_named(name: str, bench: Bench) -> None:
    make, message = BYTES[name]
    Path("theirs.pth").write_bytes(make())
    refused(bench, "theirs.pth", message)


def refused(bench: Bench, path: Path | str, message: str, *options: str) -> None:
    code, out, err = bench("import", path, *options)
    assert (code, out) == (1, ""), err
    assert "Traceback" not in err
    with pytest.raises(BenchError, match=message):
        raise BenchError(err)
    assert [each.name for each in Path().iterdir()] == [Path(path).name], "nothing is written"


def without(*endings: str) -> dict[str, Any]:
    return {name: value for name, value in random_weights(BASIC).items() if not name.endswith(endings)}


def other(**changes: Any) -> dict[str, Any]:
    return {**random_weights(BASIC), **{name.replace("__", "."): value for name, value in changes.items()}}


CONTENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown padding and normalisation": (
        lambda: random_weights(BASIC),
        r"(?s)--stem-padding 1 .*--normalisation none.*--origin.*deacl.*"
        r"For example: bench import theirs.pt --stem-padding 1 --normalisation cifar",
    ),
    "unknown normalisation": (
        lambda: random_weights(Dialect(kernel=7)),
        r"For example: bench import theirs.pt --normalisation cifar",
    ),
    "optimiser only": (
        lambda: {"state": {}, "param_groups": [{"lr": 1}]},
        "holds the state of an optimiser and no weights",
    ),
    "optimiser and momentum": (
        lambda: {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}, "epoch": 1},
        "holds the state of an optimiser and no weights",
    ),
    "nothing": (lambda: {"epoch": 1, "args": None}, r"holds no weights \(keys: args, epoch\)"),
    "a tensor": (lambda: torch.ones(2), "holds a Tensor, not a state dict"),
    "vision transformer": (
        lambda: {"cls_token": torch.ones(1, 1, 8), "patch_embed.proj.weight": torch.ones(8, 3, 4, 4)},
        "holds a vision transformer",
    ),
    "another network": (lambda: {"features.0.weight": torch.ones(2, 3, 3, 3)}, "holds 1 tensors and no ResNet"),
    "joint model": (
        lambda: {"blocks.1.0.conv1.weight": torch.ones(1), "layer4_rotation.0.conv1.weight": torch.ones(1)},
        "holds AP-DPE's joint model",
    ),
    "statistics missing": (
        lambda: without("running_mean", "running_var"),
        "lacks the running statistics of batch-norm .bn1.running_mean and 39 more",
    ),
    "in part": (
        lambda: without("layer3.1.bn2.weight", "layer4.1.conv2.weight"),
        "layer3.1.bn2.weight is absent; layer4.1.conv2.weight is absent",
    ),
    "another width": (
        lambda: {**random_weights(BASIC), **{k: v for k, v in random_weights(BASIC, 4).items() if "layer2" in k}},
        r"layer2.0.conv1.weight is 8x4x3x3, not 4x2x3x3; .* Nothing is taken from a file that fits in part",
    ),
    "parts of another architecture": (
        lambda: other(layer1__0__se__weight=torch.ones(2)),
        "layer1.0.se.weight has no place in it",
    ),
    "biases": (lambda: other(conv1__bias=torch.ones(2)), "conv1.bias has no place in it"),
    "another depth": (
        lambda: random_weights(Dialect(blocks=(1, 1, 1, 1))),
        "a ResNet of 1, 1, 1, 1 basic blocks, which is none of",
    ),
    "another stem": (lambda: random_weights(Dialect(kernel=5)), "has a stem of 5x5"),
    "not finite": (lambda: other(bn1__bias=torch.tensor([1.0, float("nan")])), "bn1.bias is not finite"),
    "integers": (lambda: other(bn1__bias=torch.ones(2, dtype=torch.int8)), r"bn1.bias is of the type int8"),
    "two networks": (
        lambda: {
            f"{who}.{name}": value for who in ("student", "teacher") for name, value in random_weights(BASIC).items()
        },
        "Type one of: --network student., --network teacher.",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_checkpoint_that_cannot_be_taken_is_one_message(name: str, bench: Bench) -> None:
    make, message = CONTENTS[name]
    refused(bench, saved(make()), message, *(() if name.startswith("unknown") else SAID))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--branch", "clean"), "--branch clean: theirs.pt has one batch-norm in each place. Leave the option out"),
        (("--network", "encoder."), "unknown network 'encoder.'"),
        (("--normalisation", "cifra"), "unknown normalisation 'cifra'. Did you mean 'cifar'"),
        (("--normalisation", "0.5/0.5"), "takes images of 3 channels, and --normalisation has 1"),
        (("--normalisation", "0.5,0.5,0.5/0.5,0,0.5"), "deviations above 0"),
    ],
)
def test_a_choice_that_cannot_be_is_one_message(options: tuple[str, ...], message: str, bench: Bench) -> None:
    refused(bench, saved(random_weights(BASIC)), message, *SAID, *options)


def test_a_padding_is_not_for_the_large_stem(bench: Bench) -> None:
    refused(bench, saved(random_weights(Dialect(kernel=7))), "this one is 7x7, which pads by 3", *SAID)


def test_one_of_several_networks_is_taken_by_its_name(bench: Bench) -> None:
    nets = {who: random_weights(BASIC, seed=n) for n, who in enumerate(("student", "teacher"))}
    file = saved(OrderedDict((f"{who}.{name}", value) for who, net in nets.items() for name, value in net.items()))
    choices = ImportChoices(network="teacher.", stem_padding=1, normalisation="none")
    taken = import_checkpoint(file, choices)
    torch.testing.assert_close(taken.tensors["backbone.conv1.weight"], nets["teacher"]["conv1.weight"])
    assert taken.report.dropped == {"student": "120 tensors"}
