"""A checkpoint in exactly the layout of its origin computes, once imported, what the origin computes."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from origin_networks import (
    BASIC,
    CIFAR,
    DEACL28,
    IMAGENET,
    LISTED,
    PROFEAT34,
    SHORTCUT,
    TRADES28,
    Dialect,
    Weights,
    WideDialect,
    features,
    linear,
    normalised,
    normaliser,
    random_weights,
    wide_features,
    wide_weights,
)
from torch import Tensor

from bench.nn import build_encoder
from bench.zoo import ForeignEncoder, ImportChoices, import_checkpoint

CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
SOLO_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
PADDED = BASIC._replace(padding=2)
RESNET50 = Dialect(bottleneck=True, blocks=(3, 4, 6, 3))
PREACT50 = Dialect(("shortcut.0", "shortcut.1"), bottleneck=True, preact=True, blocks=(3, 4, 6, 3), window=4)
STATE = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


@dataclass
class Case:
    """A checkpoint, and what there is to say about it."""

    content: Any
    weights: Weights
    """Of the network that is evaluated, as the origin names them."""
    dialect: Dialect
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None
    says: dict[str, str]
    """Parts of the report."""
    dropped: set[str]
    branch: int = 0
    choices: dict[str, Any] = field(default_factory=dict)
    legacy: bool = False
    side: int = 32


def under(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def deacl() -> Case:
    student, teacher = (random_weights(BASIC, seed=n) for n in (0, 1))
    state = {
        **under("backbone.", {**student, **normaliser("normalize.", CIFAR)}),
        **under("momentum_backbone.", {**teacher, **normaliser("normalize.", CIFAR)}),
        **linear("classifier", 10),
        **linear("classifier_adv", 10),
    }
    lightning = {"epoch": 99, "global_step": 1, "pytorch-lightning_version": "1.5.3", "optimizer_states": [STATE]}
    dropped = {"momentum_backbone", "classifier", "classifier_adv", "optimizer_states", "epoch"}
    says = {"origin": "DeACL", "stem": "3x3, stride 1, padding 2", "normalisation": "cifar: "}
    return Case({**lightning, "state_dict": OrderedDict(state)}, student, PADDED, CIFAR, says, dropped)


def profeat() -> Case:
    student = random_weights(BASIC)
    state = {**under("backbone.", {**student, **normaliser("normalize.", CIFAR100)}), **linear("projector.0", 16)}
    content = {"model": under("module.", {**state, **linear("classifier", 10)}), "optim": STATE, "epoch": 1}
    says = {"origin": "ProFeAT", "normalisation": "cifar100: "}
    return Case(content, student, PADDED, CIFAR100, says, {"projector", "classifier", "optim"})


def solo_learn(network: str, method: str, classes: int) -> Case:
    online = random_weights(BASIC)
    state = {**under(f"{network}.", online), **linear("classifier", classes), **linear("projector.0", 8)}
    if method in ("moco", "byol"):
        momentum = network.replace("backbone", "momentum_backbone").replace("encoder", "momentum_encoder")
        state |= {**under(f"{momentum}.", random_weights(BASIC, seed=1)), **linear("momentum_projector.0", 8)}
        state |= linear("predictor.0", 8) if method == "byol" else {"queue": torch.zeros(2, 4, 8)}
    constants = {("encoder", 10): CIFAR, ("encoder", 100): CIFAR, ("backbone", 100): CIFAR100}
    dropped = {"classifier", "projector", *({"queue"} if method == "moco" else set())}
    says = {"origin": "solo-learn", "stem": "3x3, stride 1, padding 2"}
    found = constants.get((network, classes), SOLO_CIFAR10)
    return Case({"state_dict": state, "epoch": 1}, online, PADDED, found, says, dropped)


def rocl() -> Case:
    weights = random_weights(SHORTCUT)
    content = {
        "epoch": 1000,
        "acc": 0,
        "model": OrderedDict(under("module.", weights)),
        "optimizer_state": STATE,
        "rng_state": torch.get_rng_state(),
    }
    says = {"origin": "RoCL or A-InfoNCE", "normalisation": "none", "stem": "3x3, stride 1, padding 1"}
    return Case(content, weights, SHORTCUT, None, says, {"optimizer_state", "rng_state", "acc"}, legacy=True)


def acl(taken: int = 1, says: str = "ACL, DynACL, AIR or RCS", **choices: Any) -> Case:
    weights = random_weights(LISTED)
    head = {**linear("fc.fc1", 16), **linear("fc.fc2", 16, bias=False), "fc.bn1.bn_list.0.weight": torch.ones(16)}
    state = {**weights, **head, **normaliser("normalize.", IMAGENET)}
    report = {"batch_norm": f"2 in each place, of which number {taken}", "origin": says}
    content = {"epoch": 1000, "state_dict": state, "optim": STATE}
    dropped = {"fc", f"bn_list.{1 - taken}", "optim"}
    return Case(content, weights, LISTED, IMAGENET, report, dropped, taken, choices)


def dynacl_pair() -> Case:
    online, momentum = (random_weights(LISTED, seed=n) for n in (0, 1))
    state = {
        **under("encoder_q.", {**online, **normaliser("normalize.", IMAGENET), **linear("fc.fc1", 16)}),
        **under("encoder_k.", {**momentum, **normaliser("normalize.", IMAGENET), **linear("fc.fc1", 16)}),
    }
    says = {"origin": "DynACL", "network": "state_dict.encoder_k."}
    dropped = {"encoder_q", "encoder_k.fc", "encoder_k.bn_list.0"}
    return Case({"epoch": 1, "state_dict": state, "optim": STATE}, momentum, LISTED, IMAGENET, says, dropped, branch=1)


def acl_one_stream() -> Case:
    dialect = LISTED._replace(norms=1)
    weights = random_weights(dialect)
    state = {**weights, **linear("fc.fc1", 16), **normaliser("normalize.", IMAGENET)}
    return Case({"state_dict": state}, weights, dialect, IMAGENET, {"batch_norm": "1 in each place"}, {"fc"})


def tuned() -> Case:
    """DynACL++ and AIR++; and the fine-tuned encoders of the whole family."""
    weights = random_weights(BASIC)
    state = {**weights, **linear("fc", 10), **normaliser("normalize.", IMAGENET)}
    says = {"origin": "ACL, DynACL++, AIR++ or RCS", "batch_norm": "one in each place"}
    return Case({"epoch": 1, "state_dict": state, "optim": STATE}, weights, BASIC, IMAGENET, says, {"fc"})


def stl10() -> Case:
    dialect = LISTED._replace(kernel=7)
    weights = random_weights(dialect)
    state = {**weights, **normaliser("normalize.", IMAGENET)}
    return Case({"state_dict": state}, weights, dialect, IMAGENET, {"stem": "7x7, stride 2"}, set(), branch=1, side=96)


def air_resnet50() -> Case:
    dialect = LISTED._replace(bottleneck=True, blocks=(3, 4, 6, 3))
    weights = random_weights(dialect)
    state = {**weights, **normaliser("normalize.", IMAGENET), **linear("fc.fc1", 16)}
    return Case(
        {"state_dict": under("module.", state)}, weights, dialect, IMAGENET, {"arch": "resnet50"}, {"fc"}, branch=1
    )


def advcl() -> Case:
    dialect = LISTED._replace(norms=3)
    weights = random_weights(dialect)
    heads = {**linear("fc_010", 10), **linear("fc_500", 500), **linear("head_proj.0", 16), **linear("head_ce.0", 16)}
    content = {"model": under("module.", {**weights, **heads}), "epoch": 1000, "rng_state": torch.get_rng_state()}
    says = {"batch_norm": "3 in each place, of which number 1", "normalisation": "none", "origin": "AdvCL or A-InfoNCE"}
    dropped = {"fc_010", "fc_500", "head_proj", "head_ce", "bn_list.0", "bn_list.2"}
    return Case(content, weights, dialect, None, says, dropped, branch=1)


def advcl_tuned() -> Case:
    weights = random_weights(SHORTCUT)
    heads = {**linear("linear", 10), **linear("head_proj.0", 16), **linear("head_pred.0", 16)}
    content = {
        "model": {**weights, **heads},
        "classifier": linear("fc", 10),
        "epoch": 25,
        "rng_state": torch.get_rng_state(),
    }
    dropped = {"linear", "head_proj", "head_pred", "classifier"}
    return Case(content, weights, SHORTCUT, None, {"origin": "AdvCL or A-InfoNCE"}, dropped)


def ap_dpe(wrapped: bool) -> Case:
    weights = random_weights(PREACT50)
    bare = {**weights, **linear("linear", 31, 64)}
    content: Any = OrderedDict(bare)
    if wrapped:
        state = {**normaliser("0.", IMAGENET), **under("1.", bare)}
        content = {"epoch": 100, "state_dict": state, "best_prec1": 50.0}
    says = {"arch": "preact-resnet50", "origin": "AP-DPE"}
    return Case(content, weights, PREACT50, IMAGENET, says, {"1.linear" if wrapped else "linear"})


def torchvision(dialect: Dialect, arch: str) -> Case:
    weights = random_weights(dialect)
    content = OrderedDict({**weights, **linear("fc", 1000, weights["layer4.1.conv1.weight"].shape[0])})
    return Case(content, weights, dialect, IMAGENET, {"arch": arch, "stem": "7x7"}, {"fc"}, side=64)


def plain(wrap: str) -> Case:
    """A user's own checkpoint, in one of the wrappings that training code makes."""
    weights = random_weights(BASIC)
    choices = {"stem_padding": 1, "normalisation": "0.5,0.5,0.5/0.25,0.2,0.3"}
    content: Any = under(wrap.split(":")[1], weights)
    for key in filter(None, wrap.split(":")[0].split(".")):
        content = {key: content, "epoch": 3}
    return Case(
        content, weights, BASIC, ((0.5, 0.5, 0.5), (0.25, 0.2, 0.3)), {"origin": "not known"}, set(), choices=choices
    )


WRAPPINGS = (
    *("state_dict:", "model:", "net:module.", ":_orig_mod.", "state_dict:model.", "model.state_dict:_orig_mod.module."),
    *(":module.encoder.", "state_dict:net.backbone.", ":encoder.module."),
)
CASES: dict[str, Callable[[], Case]] = {
    "deacl": deacl,
    "profeat": profeat,
    **{
        f"solo-learn {network} {method} {classes}": partial(solo_learn, network, method, classes)
        for network, method, classes in (
            *(("backbone", "simclr", 10), ("backbone", "moco", 100), ("backbone", "byol", 10)),
            *(("encoder", "moco", 10), ("encoder", "byol", 100)),
        )
    },
    "rocl": rocl,
    "acl": acl,
    "acl clean": partial(acl, 0, branch="clean"),
    "air": partial(acl, origin="air", says="AIR"),
    "acl one stream": acl_one_stream,
    "dynacl pair": dynacl_pair,
    "dynacl++": tuned,
    "stl10": stl10,
    "air resnet50": air_resnet50,
    "advcl": advcl,
    "advcl tuned": advcl_tuned,
    "ap-dpe": partial(ap_dpe, wrapped=True),
    "ap-dpe bare": partial(ap_dpe, wrapped=False),
    "torchvision resnet18": partial(torchvision, BASIC._replace(kernel=7), "resnet18"),
    "torchvision resnet34": partial(torchvision, BASIC._replace(kernel=7, blocks=(3, 4, 6, 3)), "resnet34"),
    "timm resnet50": partial(torchvision, RESNET50._replace(kernel=7), "resnet50"),
    **{f"plain {wrap}": partial(plain, wrap) for wrap in WRAPPINGS},
}


@torch.no_grad()
def imported_features(encoder: ForeignEncoder, images: Tensor) -> Tensor:
    plain = build_encoder(encoder.settings, image_shape=images.shape[1:], mean=(0.5,) * 3, std=(0.5,) * 3)
    plain.load_state_dict(encoder.tensors)
    found: Tensor = plain.double().eval()(images.double())
    torch.testing.assert_close(plain.prepared()(images.double()), found, rtol=1e-9, atol=1e-9)
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_imported_encoder_computes_what_its_origin_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    path = tmp_path / "theirs.pt"
    torch.save(case.content, path, _use_new_zipfile_serialization=not case.legacy)
    encoder = import_checkpoint(path, ImportChoices(**case.choices))
    images = torch.rand(2, 3, case.side, case.side, generator=torch.Generator().manual_seed(1))
    inputs = images if case.constants is None else normalised(images, case.constants)
    expected = features(case.weights, inputs, case.dialect, branch=case.branch)
    torch.testing.assert_close(imported_features(encoder, images), expected, rtol=1e-6, atol=1e-6)
    report = encoder.report.model_dump()
    assert all(part in report[key] for key, part in case.says.items()), report
    assert case.dropped <= report["dropped"].keys()
    buffers = "buffers" in report["normalisation_from"]
    assert report["tensors"] == len(encoder.tensors) - (0 if case.constants is None or buffers else 2)


def wide_trades() -> tuple[Any, Weights, WideDialect, Any]:
    """TRADES' networks hold a group that they never use."""
    weights = wide_weights(TRADES28)
    unused = {f"sub_{name}": each for name, each in weights.items() if name.startswith("block1.")}
    return under("module.", {**weights, **unused, **linear("fc", 10, 40)}), weights, TRADES28, None


def wide_profeat() -> tuple[Any, Weights, WideDialect, Any]:
    weights = wide_weights(PROFEAT34)
    state = {**weights, **normaliser("normalize.", SOLO_CIFAR10)}
    content = {"model": {**under("module.backbone.", state), **under("module.", linear("projector.0", 8, 40))}}
    return content, weights, PROFEAT34, SOLO_CIFAR10


def wide_deacl() -> tuple[Any, Weights, WideDialect, Any]:
    weights = wide_weights(DEACL28)
    state = {**weights, **normaliser("normalize.", SOLO_CIFAR10)}
    content = {"state_dict": {**under("backbone.", state), **under("momentum_backbone.", state)}}
    return content, weights, DEACL28, SOLO_CIFAR10


@pytest.mark.parametrize("case", [wide_trades, wide_profeat, wide_deacl])
def test_an_imported_wide_network_computes_what_its_origin_does(case: Callable[[], Any], tmp_path: Path) -> None:
    content, weights, dialect, constants = case()
    torch.save(content, tmp_path / "theirs.pt")
    encoder = import_checkpoint(tmp_path / "theirs.pt", ImportChoices(normalisation=None if constants else "none"))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs = images if constants is None else normalised(images, constants)
    expected = wide_features(weights, inputs, dialect)
    torch.testing.assert_close(imported_features(encoder, images), expected, rtol=1e-6, atol=1e-6)
    assert (encoder.settings.stem_padding, encoder.settings.width, encoder.report.features) == (1, 1, 40)
    names = {TRADES28: "wrn28-10", PROFEAT34: "wrn34-10", DEACL28: "wide-resnet28-10"}
    assert encoder.settings.arch == names[dialect]
