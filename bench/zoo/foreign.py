"""From a checkpoint that somebody else wrote to the weights and the form of an encoder, strictly, with a report."""

from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from bench.errors import BenchError, unknown
from bench.files import file_digest
from bench.recipe import EncoderSettings, Settings
from bench.recipe.fields import Digest, Text
from bench.zoo.checkpoint import read_checkpoint
from bench.zoo.constants import describe_constants, normalisation_settings
from bench.zoo.dropped import describe_dropped
from bench.zoo.exported import ExportedEncoder, exported_file, read_exported
from bench.zoo.facts import Facts, ImportChoices, read_facts
from bench.zoo.form import Form, canonical, fitted, read_form
from bench.zoo.layout import Layout
from bench.zoo.layouts import ORIGINS, PLAIN, TABLE
from bench.zoo.networks import StateDict, find_networks

_ENDINGS = (".pt", ".pth", ".ckpt", ".tar", ".t7", ".bin", ".safetensors")


class ImportReport(Settings):
    """What an import took a checkpoint for, and what it left out."""

    file: Text
    sha256: Digest
    """Of the file."""
    layout: Text
    origin: Text
    """Title of the method, or of all methods whose files look the same."""
    network: Text
    """The beginning of the names of the network that was taken; empty: the names have none."""
    arch: Text
    width: int
    features: int
    stem: Text
    """Kernel, stride, padding and pooling."""
    stem_from: Text
    batch_norm: Text
    """How many there are, and the branch that was taken."""
    normalisation: Text
    normalisation_from: Text
    tensors: int
    """How many of the file's tensors are in the encoder."""
    dropped: dict[Text, Text]
    """By the beginning of the names: what it is."""
    trained_on: Text = ""
    """The name of the data; empty: not known."""
    trained_on_sha256: Digest | None = None
    """The digest of the data; None: not known."""
    caution: Text = ""
    """Other files that look the same and compute something else, and what to type for them."""


NO_ORIGIN = "not known"
"""The origin in the report of a file that does not show it."""


class ForeignEncoder(NamedTuple):
    """An encoder that was trained elsewhere."""

    tensors: dict[str, Tensor]
    """By the names of :class:`bench.nn.Encoder`, float32."""
    settings: EncoderSettings
    """Its form."""
    title: str
    """For tables: the origin and the name of the file."""
    year: int | None
    """Of the origin's paper; None: the origin is not known."""
    report: ImportReport


def import_checkpoint(path: Path, choices: ImportChoices | None = None) -> ForeignEncoder:
    """Return the encoder in the checkpoint ``path``; nothing in the file is run.

    Raises:
        BenchError: it cannot be read (:func:`bench.zoo.checkpoint.read_checkpoint`), is no ResNet of ours, is not
            whole; or the padding of its stem or its normalisation are not known: the message has the options to type.
    """
    path = exported_file(path)
    choices, where = choices or ImportChoices(), str(path)
    if exported := read_exported(path):
        return _taken_back(exported, choices, path)
    state = find_networks(read_checkpoint(path), where, choices.network)
    layout = next(each for each in TABLE if each.fits(state.tensors, state.beside))
    origin = _origin(layout, choices, where)
    network = _network(state, layout, choices, where)
    branch = _branch(layout, choices, where)
    names = canonical(
        (name.removeprefix(network) for name in state.tensors if name.startswith(network)),
        layout.branches.get(branch, ""),
    )
    found = {ours: state.tensors[network + theirs] for ours, theirs in names.items()}
    form = read_form(found, where)
    backbone = fitted(found, form, where)
    facts = read_facts(state.tensors, network, origin, form, choices, path)
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    if facts.constants:
        tensors |= {
            f"normalise.{name}": torch.tensor(each, dtype=torch.float32)
            for name, each in zip(("mean", "std"), facts.constants, strict=True)
        }
    kept = {network + names[name] for name in backbone if name in names}
    kept |= set() if facts.buffers is None else {f"{facts.buffers}mean", f"{facts.buffers}std"}
    title, year = _publication(origin, choices)
    report = ImportReport(
        file=path.name,
        sha256=file_digest(path),
        layout=layout.name,
        origin=title or NO_ORIGIN,
        network=state.enclosed_by + network,
        arch=form.arch,
        width=form.width,
        features=cast(int, form.backbone().feature_dim),
        stem=_stem(form, facts),
        stem_from=facts.stem_from,
        batch_norm=_batch_norm(layout, branch),
        normalisation=describe_constants(facts.constants),
        normalisation_from=facts.normalisation_from,
        tensors=len(kept),
        dropped={
            **{each: f"another network (--network {each or repr('')} takes it)" for each in state.others},
            **describe_dropped(state.tensors, kept, state.beside, layout.parts, network),
        },
        caution="" if choices.origin else layout.caution,
    )
    return ForeignEncoder(
        tensors, _settings(form, facts), f"{title}, {short_name(path)}" if title else short_name(path), year, report
    )


def _taken_back(exported: ExportedEncoder, choices: ImportChoices, path: Path) -> ForeignEncoder:
    """Return the encoder of an export, about which nothing is left to choose."""
    if choices != ImportChoices():
        raise BenchError(f"{path} is an export of the bench and says all about itself. Leave out the options.")
    form, header = exported.form, "the header of the export"
    settings, constants = form.encoder, form.encoder.constants
    report = ImportReport(
        file=path.name,
        sha256=file_digest(path),
        layout="export",
        origin=form.title,
        network="",
        arch=settings.arch,
        width=settings.width,
        features=exported.features,
        stem=f"padding {settings.stem_padding}",
        stem_from=header,
        batch_norm="one in each place",
        normalisation=describe_constants(constants),
        normalisation_from=header,
        tensors=len(exported.tensors),
        dropped=exported.dropped,
        trained_on=form.trained_on,
        trained_on_sha256=form.trained_on_sha256,
    )
    return ForeignEncoder(exported.tensors, settings, form.title, form.year, report)


def short_name(path: Path) -> str:
    """Return the name of a checkpoint without the endings that checkpoints have; ``ckpt.t7rocl`` has none of them."""
    name = path.name
    while name.lower().endswith(_ENDINGS) and not name.startswith("."):
        name = name.rpartition(".")[0]
    return name or path.name


def _origin(layout: Layout, choices: ImportChoices, where: str) -> Layout:
    """Return the layout whose facts hold: that of the file, or that of the origin which the user names."""
    wanted = choices.origin
    if wanted is None or wanted in layout.origins:
        return layout
    if wanted not in ORIGINS:
        raise unknown("origin", wanted, ORIGINS)
    # Weights that were taken out of a checkpoint have lost what showed where they are from.
    if layout.network is not None or layout.branches or layout.beside:
        raise BenchError(
            f"--origin {wanted}: {where} is not from {ORIGINS[wanted][0]}, its names are those of {layout.title}. Type "
            f"--origin {' or '.join(layout.origins)}, or leave it out."
        )
    return next(each for each in TABLE if wanted in each.origins)


def _publication(origin: Layout, choices: ImportChoices) -> tuple[str | None, int | None]:
    """Return title and year of the origin, None where it is not known."""
    if origin is PLAIN:
        return None, None
    if choices.origin is not None:
        return origin.origins[choices.origin]
    return origin.title, min(year for _, year in origin.origins.values())


def _network(state: StateDict, layout: Layout, choices: ImportChoices, where: str) -> str:
    """Return the prefix of the network to take, below what encloses the state dict."""
    allowed = [prefix.removesuffix(".") or "''" for prefix in (*state.networks, *state.others)]
    if choices.network is not None:
        wanted = choices.network.removeprefix(state.enclosed_by)
        for prefix in (wanted, f"{wanted}."):
            if prefix in state.networks:
                return prefix
        if len(allowed) == 1:
            raise BenchError(f"--network {choices.network}: {where} holds one network. Leave the option out.")
        raise unknown("network", choices.network, allowed, "They are the beginnings of the names of each ResNet.")
    if layout.network in state.networks:
        return layout.network
    if len(state.networks) > 1:
        raise BenchError(
            f"{where} holds {len(state.networks)} networks, and its names do not show which is the encoder. Import "
            f"it first, with one of: {', '.join(f'--network {prefix}' for prefix in allowed)}"
        )
    return state.networks[0]


def _branch(layout: Layout, choices: ImportChoices, where: str) -> str:
    """Return the name of the branch to take; empty: there is one batch-norm."""
    if choices.branch is None:
        return next(iter(layout.branches), "")
    if not layout.branches:
        raise BenchError(f"--branch {choices.branch}: {where} has one batch-norm in each place. Leave the option out.")
    if choices.branch not in layout.branches:
        raise unknown("branch", choices.branch, layout.branches)
    return choices.branch


def _batch_norm(layout: Layout, branch: str) -> str:
    if not branch:
        return "one in each place"
    index = layout.branches[branch].split(".")[1]
    return f"{len(layout.branches)} in each place, of which number {index} ({branch}) was taken"


def _stem(form: Form, facts: Facts) -> str:
    if form.stem == "imagenet":
        return "7x7, stride 2, padding 3, then a 3x3 max-pool of stride 2"
    return f"3x3, stride 1, padding {facts.stem_padding}, no pooling"


def _settings(form: Form, facts: Facts) -> EncoderSettings:
    return EncoderSettings(
        arch=form.arch,
        width=form.width,
        stem_padding=facts.stem_padding,
        options={} if form.stem == "cifar" else {"stem": form.stem},
        **normalisation_settings(facts.constants),
    )
