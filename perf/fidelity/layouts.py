"""Checkpoints of the authors' own classes, imported, beside what those classes compute.

Run from the repository's root: ``python perf/fidelity/layouts.py DEACL SOLO-LEARN ROCL ACL ADVCL AP-DPE DYNACL AIR``,
with the paths of your clones. It prints the section of ``docs/fidelity.md``.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import deacl
import ours
import solo_learn
import torch
from clone import Clone, Upstream, on_cpu
from command import run
from table import Table, relative
from torch import Tensor, nn

from bench import rng
from bench.nn import build_encoder
from bench.zoo import CONSTANTS, ImportChoices, import_checkpoint

UPSTREAMS = (
    Upstream("pantheon5100/DeACL", "3fb81e3fa4a30116fc5c90169040023187e9079a"),
    Upstream("vturrisi/solo-learn", "fca55e3fc41072123ba3f5f69c980435b1a1d356"),
    Upstream("Kim-Minseon/RoCL", "b6d5185e294e8bca5670e9146df81b54d99d0635"),
    Upstream("VITA-Group/Adversarial-Contrastive-Learning", "399eabd36c7b5708752681774d755bf5242d5eda"),
    Upstream("LijieFan/AdvCL", "24cb7a613a4c58410e09cb0f799640475650d26f"),
    Upstream("VITA-Group/Adv-SS-Pretraining", "4ffbebea582f858ec6165f082f52ded1fc9b817d"),
    Upstream("PKU-ML/DYNACL", "7d143db7f63e699a533df8e262bcf6ed02abe805"),
    Upstream("GodXuxilie/Enhancing_ACL_via_AIR", "15cf0a7628048e04c19014e924fb415279b1409a"),
)

BATCH = 2
NOTE = (
    "Compared: a checkpoint of upstream's own class, with random weights and batch-norm statistics, in the container "
    f"that upstream writes, after `bench import`, on {BATCH} images in float64. solo-learn's loader and the normaliser "
    "of AP-DPE, which is of another library, are stood in for. Deliberate: RoCL and AP-DPE pool a window of 4 x 4, "
    "which is the mean on images of 32 x 32 pixels and only there; we always take the mean. A-InfoNCE and RCS have "
    "copies of the classes of RoCL, AdvCL and ACL."
)
State = dict[str, Tensor]


class Subject(NamedTuple):
    """One checkpoint of upstream's."""

    name: str
    model: nn.Module
    contain: Callable[[dict[str, Tensor]], Any]
    """The content of the file, from the model's state dict."""
    features: Callable[[Tensor], Tensor]
    """Of images in [0, 1], by the model itself."""
    entries: int
    """Tensors of the encoder, its normalisation's included."""
    side: int = 32
    choices: ImportChoices = ImportChoices()


def compare(*clones: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("Imported checkpoints", "; ".join(str(clone.upstream) for clone in clones), NOTE)
    subjects = (of_deacl, of_solo_learn, of_rocl, of_acl, of_advcl, of_ap_dpe, of_dynacl, of_air)
    for clone, find in zip(clones, subjects, strict=True):
        with on_cpu(), rng.scoped(0, "layouts", clone.upstream.folder):
            for subject in find(clone):
                compare_subject(table, subject)
    yield table


@torch.no_grad()
def compare_subject(table: Table, subject: Subject) -> None:
    """Add the entries of the encoder, and its features."""
    model = unsettled(subject.model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.pt"
        state = {
            name: value.float() if value.is_floating_point() else value for name, value in model.state_dict().items()
        }
        torch.save(subject.contain(state), path)
        encoder = import_checkpoint(path, subject.choices)
    mine = build_encoder(encoder.settings, image_shape=(3, subject.side, subject.side), mean=(0.5,) * 3, std=(0.5,) * 3)
    mine.load_state_dict(encoder.tensors)
    images = ours.images(BATCH, side=subject.side)
    found, expected = mine.double().eval()(images), subject.features(images)
    table.equal(f"{subject.name}, tensors of the encoder", encoder.report.tensors, subject.entries)
    largest = [f"max {float(features.abs().max()):.4f}" for features in (found, expected)]
    table.add(
        f"{subject.name}, features", largest[0], largest[1], {"relative": relative([found], [expected])}, within=1e-6
    )


def unsettled(model: nn.Module) -> nn.Module:
    """Return ``model`` in eval mode, with batch-norm as after training; its values are those that float32 holds."""
    generator = ours.generator("unsettled")
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0, 0.25, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.uniform_(-0.3, 0.3, generator=generator)
    return model.float().double().eval()


def of_deacl(clone: Clone) -> Iterator[Subject]:
    """Yield DeACL's second stage: the student beside the teacher."""
    with deacl.importing(clone):
        (teacher, *_) = ours.stages(ours.recipe("deacl"))
        model = deacl.upstream_model(deacl.published(clone), teacher.encoder.backbone)
        yield Subject("DeACL", model, lambda state: {"state_dict": state, "epoch": 99}, model.backbone, 122)


def of_solo_learn(clone: Clone) -> Iterator[Subject]:
    """Yield the five frameworks at the commit of 2021, when the network was called ``encoder``."""
    with solo_learn.importing(clone):
        for framework in solo_learn.FRAMEWORKS:
            model = solo_learn.upstream_model(framework, solo_learn.published(clone, framework))
            network = nn.Sequential(_Normaliser("cifar"), model.encoder)
            yield Subject(f"solo-learn, {framework.title}", model, lambda state: {"state_dict": state}, network, 120)


def of_rocl(clone: Clone) -> Iterator[Subject]:
    """Yield RoCL's encoder, as it is saved from several GPUs."""
    with clone.importing("src"):
        model = import_module("models.resnet").ResNet18(10, contrastive_learning=True)
        yield Subject("RoCL", model, rocl_file, model, 120)


def rocl_file(state: State) -> Any:
    """Return the content of RoCL's files."""
    beside = {"epoch": 1000, "acc": 0, "optimizer_state": {}, "rng_state": torch.get_rng_state()}
    return {**beside, "model": prefixed(state, "module.")}


def of_acl(clone: Clone) -> Iterator[Subject]:
    """Yield both branches of the dual-stream model, and the fine-tuned network."""
    with clone.importing(absent={"torchvision.models.utils": {}}):
        yield from dual("ACL", import_module("models.resnet_multi_bn"))
        yield single("ACL, fine-tuned", import_module("models.resnet"))


def dual(name: str, module: Any, depth: int = 18, side: int = 32) -> Iterator[Subject]:
    """Yield the two branches of a network of ``module`` with two batch-norms."""
    names, entries = ["normal", "pgd"], 122 if depth == 18 else 320
    for branch, inside in (("adversarial", "pgd"), ("clean", "normal")):
        model = getattr(module, f"resnet{depth}")(pretrained=False, bn_names=names)
        model.fc = module.proj_head(model.fc.in_features, bn_names=names, twoLayerProj=False)
        features, choices = partial(without_head, model, inside), ImportChoices(branch=branch)
        yield Subject(f"{name}, {branch} branch", model, acl_file, features, entries, side, choices)


def single(name: str, module: Any, side: int = 32) -> Subject:
    """Return a network of ``module`` with one batch-norm and a classifier of 10 classes."""
    model = module.resnet18(pretrained=False, num_classes=10)
    return Subject(name, model, acl_file, partial(without_head, model, None), 122, side)


def acl_file(state: State) -> Any:
    """Return the content of the files of ACL and of what was built on it."""
    return {"epoch": 1, "state_dict": state, "optim": {}}


def without_head(model: Any, branch: str | None, images: Tensor) -> Tensor:
    """Return the features of ``model``, whose head is taken off meanwhile."""
    head, model.fc = model.fc, nn.Identity()
    features: Tensor = model(images) if branch is None else model(images, branch)
    model.fc = head
    return features


def of_advcl(clone: Clone) -> Iterator[Subject]:
    """Yield the three branches of the pre-training model, as it is saved from several GPUs."""
    with clone.importing(absent={"torchvision.models.utils": {}}):
        module, names = import_module("models.resnet_cifar_multibn_ensembleFC"), ["normal", "pgd", "pgd_ce"]
        for branch, inside in zip(("clean", "adversarial", "pseudo-labels"), names, strict=True):
            model = module.resnet18(pretrained=False, bn_names=names)
            features = partial(model, bn_name=inside, return_feat=True)
            choices = ImportChoices(branch=branch)
            yield Subject(f"AdvCL, {branch} branch", model, advcl_file, features, 120, choices=choices)


def advcl_file(state: State) -> Any:
    """Return the content of AdvCL's files."""
    return {"model": prefixed(state, "module."), "epoch": 1, "rng_state": torch.get_rng_state()}


def of_ap_dpe(clone: Clone) -> Iterator[Subject]:
    """Yield the model of one task, in its pair with the normaliser, which is another library's (advertorch)."""
    with clone.importing("pretraining", absent={"matplotlib": {}, "torchvision": {}}):
        network = import_module("resnetv2").ResNet50(31)
        head, network.linear = network.linear, nn.Identity()
        model = nn.Sequential(_Normaliser("imagenet"), network)
        classifier = {f"1.linear.{name}": value for name, value in head.state_dict().items()}
        yield Subject("AP-DPE", model, lambda state: {"state_dict": {**state, **classifier}}, model, 320)


def of_dynacl(clone: Clone) -> Iterator[Subject]:
    """Yield DynACL's pair of networks, its STL-10 form, and DynACL++."""
    with clone.importing():
        pair, names = import_module("models.resnet_multi_bn"), ["normal", "pgd"]
        model = pair.resnet18_momentum(pretrained=False, bn_names=names)
        features = partial(without_head, model.encoder_k, "pgd")
        yield Subject("DynACL, the pair", model, acl_file, features, 122)
        yield from dual("DynACL on STL-10", import_module("models.resnet_multi_bn_stl"), side=96)
        yield single("DynACL++", import_module("models.resnet"))
        yield single("DynACL++ on STL-10", import_module("models.resnet_stl"), side=96)


def of_air(clone: Clone) -> Iterator[Subject]:
    """Yield AIR's ResNet-50."""
    with clone.importing("models"):
        yield from dual("AIR, ResNet-50", import_module("resnet_multi_bn"), depth=50)


class _Normaliser(nn.Module):
    """The normalisation of a loader, or of a library."""

    def __init__(self, name: str) -> None:
        super().__init__()
        for key, values in zip(("mean", "std"), CONSTANTS[name], strict=True):
            self.register_buffer(key, torch.tensor(values))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``images`` less the means, over the deviations."""
        result: Tensor = (images - self.get_buffer("mean")[:, None, None]) / self.get_buffer("std")[:, None, None]
        return result


def prefixed(state: State, prefix: str) -> State:
    """Return ``state`` with ``prefix`` before each name."""
    return {f"{prefix}{name}": value for name, value in state.items()}


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
