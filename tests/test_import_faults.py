"""``bench import``: one message for every file that cannot be taken, and nothing written."""

import io
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_folder import Bench
from empty_folder import bench as bench
from foreign_files import SAID, saved
from origin_networks import BASIC, Dialect, random_weights
from torch import Tensor

from bench.errors import BenchError


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
    "arrays": (
        partial(zipped, "conv1.weight.npy"),
        r"is an archive of NumPy arrays\. .*torch\.from_numpy",
    ),
    "TorchScript": (partial(zipped, "net/constants.pkl"), "is a TorchScript archive"),
    "a pickle of another library": (lambda: pickle.dumps({"a": 1}), r"that torch\.save did not write.*could run code"),
    "the same, protocol 2": (lambda: pickle.dumps({"a": 1}, protocol=2), r"that torch\.save did not write"),
}


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_no_checkpoint_is_named(name: str, bench: Bench) -> None:
    make, message = BYTES[name]
    Path("theirs.pth").write_bytes(make())
    refused(bench, "theirs.pth", message)


def refused(bench: Bench, path: Path | str, message: str, *options: str) -> None:
    code, out, err = bench("import", str(path), *options)
    assert (code, out) == (1, ""), err
    assert "Traceback" not in err
    with pytest.raises(BenchError, match=message):
        raise BenchError(err)
    assert [each.name for each in Path().iterdir()] == [Path(path).name], "nothing is written"


def test_an_address_is_not_read(bench: Bench) -> None:
    said = bench("import", "https://example.org/a.pth").stderr
    assert said.endswith("No such file or directory. Addresses are not read: download the file first.\n")


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
    "two names of one tensor": (
        lambda: other(layer2__0__shortcut__0__weight=torch.ones(1)),
        "layer2.0.downsample.0.weight and layer2.0.shortcut.0.weight are two names of one tensor",
    ),
    "two names of one tensor, one of them compiled": (
        lambda: other(_orig_mod__conv1__weight=torch.ones(1)),
        "two tensors of the checkpoint are called conv1.weight, apart from _orig_mod.",
    ),
    "optimiser only": (
        lambda: {"state": {}, "param_groups": [{"lr": 1}]},
        "holds the state of an optimiser and no weights",
    ),
    "optimiser and momentum": (
        lambda: {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}, "epoch": 1},
        "holds the state of an optimiser and no weights",
    ),
    "nothing": (lambda: {"epoch": 1, "args": None}, r"holds no tensors \(keys: args, epoch\)"),
    "a tensor": (lambda: torch.ones(2), "holds a Tensor, not a state dict"),
    "vision transformer": (
        lambda: {"cls_token": torch.ones(1, 1, 8), "patch_embed.proj.weight": torch.ones(8, 3, 4, 4)},
        "holds a vision transformer.*bench evaluate timm:NAME",
    ),
    "another network": (
        lambda: {"features.0.weight": torch.ones(2, 3, 3, 3)},
        "holds 1 tensors and no ResNet.* Name another network",
    ),
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
        "layer3.1.bn2.weight: absent, not 8; layer4.1.conv2.weight: absent, not 16x16x3x3",
    ),
    "another width": (
        lambda: {**random_weights(BASIC), **{k: v for k, v in random_weights(BASIC, 4).items() if "layer2" in k}},
        r"layer2.0.bn1.bias: 8, not 4; .* and 22 more. Nothing is taken from a file that fits in part",
    ),
    "parts of another architecture": (
        lambda: other(layer1__0__se__weight=torch.ones(2)),
        "layer1.0.se.weight: .*, not absent",
    ),
    "biases": (lambda: other(conv1__bias=torch.ones(2)), "conv1.bias: 2, not absent"),
    "another depth": (
        lambda: random_weights(Dialect(blocks=(1, 1, 1, 1))),
        "a ResNet of 1, 1, 1, 1 basic blocks, which is none of .* Name another network: bench evaluate timm:NAME",
    ),
    "another stem": (lambda: random_weights(Dialect(kernel=5)), "has a stem of 5x5.* Name another network"),
    "a deep stem": (
        lambda: {
            name if name != "conv1.weight" else "conv1.0.weight": value for name, value in random_weights(BASIC).items()
        },
        "its stem is not one convolution: conv1.weight is absent. Name another network",
    ),
    "not finite": (lambda: other(bn1__bias=torch.tensor([1.0, float("nan")])), "bn1.bias is not finite"),
    "a negative variance": (
        lambda: other(bn1__running_var=torch.tensor([1.0, -1.0])),
        "bn1.running_var is a variance below 0",
    ),
    "integers": (lambda: other(bn1__bias=torch.ones(2, dtype=torch.int8)), r"bn1.bias is of the type int8"),
    "two networks": (
        lambda: {
            f"{who}.{name}": value for who in ("student", "teacher") for name, value in random_weights(BASIC).items()
        },
        "Import it first, with one of: --network student, --network teacher",
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
        (("--network", "encoder."), "--network encoder.: theirs.pt holds one network. Leave the option out"),
        (("--normalisation", "cifra"), "unknown normalisation 'cifra'. Did you mean 'cifar'"),
        (
            ("--normalisation", "0.5/0.5"),
            "of 3 channels, and .* constants for 1 .--normalisation.*: 0.5,0.5,0.5/0.25",
        ),
        (("--normalisation", "123.675,116.28,103.53/58.4,57.1,57.4"), "is for pixels from 0 to 255, and ours are fr"),
        (("--normalisation", "0.5/0.5,0.5"), "one mean and one deviation a channel, not 1 and 2"),
        (("--normalisation", "0.5,0.5,0.5/0.5,0,0.5"), "constants.1.1: must be at least 1e-06 .given: 0"),
        (("--normalisation", "1e39,0.5,nan/1e-46,0.5,0.5"), "(?s)3 faults.*1e.39.*nan.*1e-46"),
    ],
)
def test_a_choice_that_cannot_be_is_one_message(options: tuple[str, ...], message: str, bench: Bench) -> None:
    said = SAID[:2] if "--normalisation" in options else SAID
    refused(bench, saved(random_weights(BASIC)), message, *said, *options)


def test_the_example_keeps_what_was_typed_and_can_be_pasted(bench: Bench) -> None:
    message = "For example: bench import 'a net.pt' --stem-padding 2 --normalisation cifar"
    refused(bench, saved(random_weights(BASIC), "a net.pt"), message, "--stem-padding", "2")


@pytest.mark.parametrize(
    ("std", "message"),
    [
        (torch.full((3,), 0.25).to_sparse(), r"normalize.std is of the type float32 \(sparse_coo\)"),
        (torch.full((3,), 0.25, dtype=torch.complex64), "normalize.std is of the type complex64"),
        (torch.full((3,), 1e-300, dtype=torch.float64), "constants.1.0: must be at least 1e-06"),
        (torch.tensor([0.25, 0.25, float("inf")]), "normalize.std is not finite"),
        (torch.rand(3, 32, 32), "the buffer normalize.std is 3x32x32, not one number a channel"),
        (torch.empty(0), "one mean and one deviation a channel, not 3 and 0"),
    ],
)
def test_buffers_of_normalisation_that_cannot_be_used_are_named(std: Tensor, message: str, bench: Bench) -> None:
    state = other(normalize__mean=torch.full((1, 3, 1, 1), 0.5), normalize__std=std)
    refused(bench, saved(state), message, "--stem-padding", "1")


def test_a_padding_is_not_for_the_large_stem(bench: Bench) -> None:
    refused(bench, saved(random_weights(Dialect(kernel=7))), "this one is 7x7, which pads by 3", *SAID)
