"""``bench import``: what it says and writes, and one message for every file that cannot be taken."""

import argparse
import json
import os
import re
import sys
from collections import OrderedDict, defaultdict
from datetime import datetime
from pathlib import Path
from time import process_time
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from empty_folder import Bench
from empty_folder import bench as bench
from foreign_files import SAID, saved
from origin_networks import BASIC, IMAGENET, LISTED, linear, normaliser, random_weights
from safetensors.torch import save_file
from toy_runs import toy_data

from bench.errors import BenchError
from bench.nn import ENCODERS
from bench.record import Record
from bench.run import import_encoder
from bench.run.encoder import load_encoder
from bench.zoo import ORIGINS, ImportChoices, import_checkpoint, save_tensors, short_name

# What it says and writes


def test_it_says_what_it_took_and_writes_a_file_of_ours(bench: Bench) -> None:
    state = {**random_weights(LISTED), **normaliser("normalize.", IMAGENET), **linear("fc.fc1", 16)}
    file = saved({"state_dict": state, "epoch": 1}, "acl.pt")
    code, out, err = bench("import", str(file), "--branch", "clean", "--json")
    assert code == 0, err
    said = json.loads(out)
    written = load_encoder(Path(said["path"]))
    assert said["path"] == "acl-encoder.safetensors"
    assert said["encoder_sha256"] == written.sha256
    assert written.origin.imported is not None
    assert written.origin.imported.model_dump(mode="json") == {
        key: said[key] for key in ("title", "year", "encoder", "report", "weights")
    }
    assert (said["title"], said["year"]) == ("ACL, DynACL, AIR or RCS, acl", 2020)
    assert said["report"]["dropped"] == {
        "bn_list.1": "batch-norm 1 of each layer (100 tensors)",
        "fc": "the projector (2 tensors)",
        "epoch": "beside the weights",
    }
    code, out, err = bench("import", str(file), "--title", " Mine ", "--year", "2025", "--output", "mine.safetensors")
    assert code == 0, err
    assert "--title is empty" in bench("import", str(file), "--title", " ").stderr
    for part in (
        "Mine 2025",
        "resnet18 of width 2, 16 features",
        "number 1 (adversarial)",
        "the projector",
        "imagenet: ",
        "bench evaluate mine.safetensors --dataset cifar10",
    ):
        assert part in out
    assert "year" not in out
    assert "exists already" in bench("import", str(file)).stderr
    said = bench("import", "mine.safetensors").stderr
    assert "mine.safetensors is a file of the bench already, and needs no import: type `bench evaluate mine" in said
    save_tensors(Path("slf.safetensors"), {"head.weight": torch.ones(2, 2)}, {"protocol": "slf"})
    said = bench("import", "slf.safetensors").stderr
    assert "needs no import: it is no encoder, but the state of a stage or the classifier of a protocol. The " in said
    assert "bench evaluate" not in said


def test_safetensors_of_others_are_read(bench: Bench) -> None:
    save_file(random_weights(BASIC), "theirs.safetensors")
    code, out, err = bench("import", "theirs.safetensors", *SAID)
    assert code == 0, err
    assert "year: the present one, because the file does not show its paper; --year changes it\n" in out
    assert "assumed: what leaves no trace in a file, such as strides, pooling and ReLU, is as in resnet18\n" in out
    assert load_encoder(Path("theirs-encoder.safetensors")).tensors["backbone.conv1.weight"].shape == (2, 3, 3, 3)


def test_files_that_look_the_same_are_named(bench: Bench) -> None:
    state = {**random_weights(BASIC), **normaliser("normalize.", IMAGENET), **linear("fc", 10)}
    file = saved({"state_dict": state}, "best.pth.tar")
    assert "--origin advcl" in bench("import", str(file), "--dry-run").stdout
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
        in bench("import", str(saved(random_weights(LISTED))), "--origin", "deacl").stderr
    )
    assert "unknown origin 'decal'. Did you mean 'deacl'" in bench("import", str(file), "--origin", "decal").stderr


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
    code, _, err = bench("compare", *sorted(path.name for path in Path("runs").iterdir()))
    assert code == 0, err


def test_one_of_several_networks_is_taken_by_its_name(bench: Bench) -> None:
    nets = {who: random_weights(BASIC, seed=n) for n, who in enumerate(("student", "teacher"))}
    file = saved(OrderedDict((f"{who}.{name}", value) for who, net in nets.items() for name, value in net.items()))
    choices = ImportChoices(network="teacher", stem_padding=1, normalisation="none")
    taken = import_checkpoint(file, choices)
    torch.testing.assert_close(taken.tensors["backbone.conv1.weight"], nets["teacher"]["conv1.weight"])
    assert taken.report.dropped == {"student": "120 tensors"}


@pytest.mark.parametrize("inside", ["", "module.", "module.backbone."])
@pytest.mark.parametrize(
    ("usual", "other"), [("state_dict", "state_dict_ema"), ("model", "teacher"), ("state_dict", "model")]
)
def test_of_a_network_under_a_usual_name_and_others_each_can_be_taken(
    usual: str, other: str, inside: str, bench: Bench
) -> None:
    nets = {key: random_weights(BASIC, seed=seed) for seed, key in enumerate((usual, other))}
    content = {key: {inside + name: each for name, each in net.items()} for key, net in nets.items()}
    file = saved({**content, "optimizer": {"state": {}}})
    for network, taken in ((None, usual), *((f"{key}.{inside}", key) for key in nets)):
        found = import_checkpoint(file, ImportChoices(network=network, stem_padding=1, normalisation="none"))
        torch.testing.assert_close(found.tensors["backbone.conv1.weight"], nets[taken]["conv1.weight"])
        prefix = f"{other if taken == usual else usual}.{inside}"
        assert found.report.network == f"{taken}.{inside}"
        assert found.report.dropped == {
            prefix: f"another network (--network {prefix} takes it)",
            "optimizer": "the state of the optimiser",
        }


def test_the_tensors_of_a_compiled_network_are_not_listed_as_left_out(bench: Bench) -> None:
    file = saved({f"_orig_mod.{name}": each for name, each in random_weights(BASIC).items()})
    assert import_checkpoint(file, ImportChoices("deacl")).report.dropped == {}


# What is harmless, and what is not


class Innocent:
    """A class that nobody allowed."""


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def absent(module: str, name: str, base: type, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a class as a library that is not installed might have."""
    parent = module.split(".")
    for end in range(1, len(parent) + 1):
        full = ".".join(parent[:end])
        monkeypatch.setitem(sys.modules, full, ModuleType(full))
    made = type(name, (base,), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def test_harmless_objects_are_plain_data(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    extras: dict[str, Any] = {
        "hyper_parameters": argparse.Namespace(lr=0.1, path=Path("x")),
        "acc": np.float64(0.5),
        "best": np.arange(3),
        "log": defaultdict(list, {"a": [1]}),
        "when": datetime(2026, 1, 1),
        "lightning": absent("pytorch_lightning.utilities.parsing", "AttributeDict", dict, monkeypatch)(lr=0.1),
        "callbacks": {
            absent("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object, monkeypatch): 1
        },
        "config": absent("omegaconf.dictconfig", "DictConfig", object, monkeypatch)(),
    }
    extras["config"].key = "value"
    taken = import_checkpoint(saved({"state_dict": random_weights(BASIC), **extras}), ImportChoices("deacl"))
    assert {
        "hyper_parameters",
        "acc",
        "best",
        "log",
        "when",
        "lightning",
        "callbacks",
        "config",
    } <= taken.report.dropped.keys()


@pytest.mark.parametrize(("thing", "name"), [(Evil(), "system"), (Innocent(), "test_import.Innocent")])
@pytest.mark.parametrize("command", [("import",), ("evaluate", "--dataset", "digits")])
def test_a_pickle_that_would_run_code_is_refused(
    bench: Bench, thing: object, name: str, command: tuple[str, ...]
) -> None:
    file = saved({"state_dict": random_weights(BASIC), "extra": thing})
    code, out, err = bench(command[0], str(file), *command[1:])
    assert (code, out) == (1, "")
    assert "theirs.pt is refused" in err
    assert name in err
    assert "Nothing was run. The safe way: ask for the file as safetensors" in err
    assert [path.name for path in Path().iterdir()] == ["theirs.pt"], "nothing was run, and nothing written"


def test_an_export_of_an_own_network_is_imported_with_its_file(bench: Bench) -> None:
    Path("net.py").write_text(
        "from torch import nn\n\ndef make(image_shape):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    save_file({"0.weight": torch.rand(4, 3, 3, 3), "0.bias": torch.rand(4)}, "net.safetensors")
    words = ("--weights", "net.safetensors", "--dataset", toy_data(Path("toy.npz")), "--protocols", "knn", "--device")
    assert bench("evaluate", "./net.py:make", *words, "cpu", "--set", "evaluate.autoattack=false").code == 0
    (run,) = (path.name for path in Path("runs").iterdir() if path.is_dir())
    assert bench("export", run, "--output", "made").code == 0
    code, out, err = bench("--encoder", "./net.py:make", "import", "made", "--output", "back.safetensors")
    assert code == 0, err
    assert re.search(r"^architecture: make\+\w{8}, 4 features$", out, re.M)
    assert not re.search("^(stem|batch-norm|assumed):", out, re.M), "those of the bench's own networks"
    assert "evaluate it with: bench --encoder ./net.py:make evaluate back.safetensors --dataset " in out
