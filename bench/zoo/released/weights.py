"""The network of an entry with its released weights, from files that are read as data and fit without exception.

For most entries this is the package's own ``load_model``, with its quirks: several files, a key within a file, names
that are cut. Two of its steps are replaced: files are read by :func:`bench.zoo.checkpoint.read_checkpoint`, which runs
nothing in them; and a network is complete or an error, where the package tolerates missing names for some entries.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from bench.downloads import one_at_a_time
from bench.errors import BenchError, short
from bench.robustbench import Entry
from bench.zoo.checkpoint import read_checkpoint
from bench.zoo.released.package import quiet, robustbench_package
from bench.zoo.tensors import taken

_CONSTANTS = re.compile(r"(^|\.)(mu|sigma|mean|std|num_batches_tracked)$")
"""What a constructor sets, or no output depends on: not in all files."""

_UNUSED = re.compile(r"^model_preact_hl1\.|\.scores$")
"""What some files hold besides: a second head, and the scores that pruned the weights."""


def new_network(entry: Entry) -> nn.Module:
    """Return the network of ``entry`` with random weights; raises BenchError if it cannot be made here."""
    if entry.obstacle and not ("GPU" in entry.obstacle and torch.cuda.is_available()):
        raise BenchError(f"{entry.origin} cannot be evaluated here: {entry.obstacle}.")
    models, name = _zoo(entry), _timm_name(entry)

    def make() -> nn.Module:
        made: nn.Module = _timm().create_model(name, num_classes=entry.classes) if name else models["model"]()
        return made

    with quiet():
        try:
            return make()
        except RuntimeError:  # a constructor that computes with its weights cannot do so where they have no memory
            with torch.device("cpu"):
                return make()


def released_network(entry: Entry, folder: Path, weights: Path | None = None) -> nn.Module:
    """Return the network of ``entry`` with its released weights, on the CPU and in eval mode.

    Args:
        entry: an entry of the zoo.
        folder: of the files of all entries; what is missing there is downloaded.
        weights: the file, where it is elsewhere.

    Raises:
        BenchError: the package is not installed, the network cannot be made here, a file cannot be had or read, or it
            does not fit the network.
    """
    network, files = new_network(entry), released_files(entry, folder)
    if weights:
        if len(files) > 1:
            raise BenchError(
                f"{entry.origin} is made of {len(files)} files, so --weights cannot name them. Leave it out, and put "
                f"them at: {', '.join(map(str, files))}"
            )
        if not weights.is_file():
            raise BenchError(f"{weights} is not a file. Leave --weights out to download it, or type its path.")
        files = [weights]
    else:
        for place, file in enumerate(files):
            if not file.exists():
                with one_at_a_time(file):
                    if not file.exists():
                        _download(entry, place, file)
    return _loaded(entry, network, files).eval()


def released_files(entry: Entry, folder: Path) -> list[Path]:
    """Return where the files of ``entry`` are below ``folder``, named as the package names them."""
    file = folder / entry.dataset / entry.threat / f"{entry.name}.pt"
    drive = _zoo(entry).get("gdrive_id")
    return [Path(f"{file}_m{place}.pt") for place in range(len(drive))] if isinstance(drive, list) else [file]


def released_preprocessing(entry: Entry) -> Callable[[Any], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return what turns a PIL image into pixels, uint8 [H, W, 3], as the package prepares it for ``entry``."""
    known, enums = _zoo(entry).get("preprocessing"), robustbench_package().model_zoo.enums
    data, threat = enums.BenchmarkDataset(entry.dataset), enums.ThreatModel(entry.threat)
    with quiet():
        prepare = import_module("robustbench.data").get_preprocessing(data, threat, entry.name, known)
    return lambda image: (255 * prepare(image.convert("RGB"))).round().byte().permute(1, 2, 0).numpy()


def _loaded(entry: Entry, network: nn.Module, files: Sequence[Path]) -> nn.Module:
    if _timm_name(entry):
        content = read_checkpoint(files[0])
        state = next((content[key] for key in ("state_dict", "model") if key in content), content)
        return _load_strictly(network, entry, {name.removeprefix("module."): each for name, each in state.items()})
    utils = robustbench_package().utils
    replaced: Any = {
        "torch": SimpleNamespace(
            load=lambda path, map_location: read_checkpoint(Path(path).resolve()), device=torch.device
        ),
        "_safe_load_state_dict": lambda model, name, state, dataset: _load_strictly(model, entry, state),
    }
    with TemporaryDirectory() as staged, mock.patch.multiple(utils, **replaced), quiet():
        for file, link in zip(files, released_files(entry, Path(staged)), strict=True):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        try:
            loaded: nn.Module = utils.load_model(entry.name, staged, entry.dataset, entry.threat)
        except (KeyError, AttributeError, TypeError) as error:  # what the package expects in it is not there
            raise BenchError(
                f"{files[0]} does not hold the weights of {entry.origin} ({type(error).__name__}: {error}). Give the "
                "file that RobustBench links to."
            ) from None
    return loaded


def _load_strictly(model: nn.Module, entry: Entry, state: Mapping[str, Any]) -> nn.Module:
    expected = model.state_dict()
    found = {name: each for name, each in state.items() if isinstance(each, Tensor) and not _UNUSED.search(name)}
    optional = {name for name in expected if name not in found and _CONSTANTS.search(name)}
    needed = {name: each for name, each in expected.items() if name not in optional}
    checked = taken(
        found,
        needed,
        entry.origin,
        fault=f"the weights do not fit {entry.origin}, a {entry.architecture} for {entry.classes} classes",
        advice="Give the file that RobustBench links to for this entry.",
    )
    model.load_state_dict(checked, strict=False)
    return model


def _download(entry: Entry, place: int, file: Path) -> None:
    """Download one file of ``entry``; what arrives must be a checkpoint, not a page about it."""
    drive = _zoo(entry).get("gdrive_id")
    drive = drive[place] if isinstance(drive, list) else drive
    name = _timm_name(entry)
    link = _timm().get_pretrained_cfg(name).url if name else f"https://drive.google.com/uc?id={drive}"
    arriving = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if name:
            torch.hub.download_url_to_file(link, str(arriving), progress=False)
        else:
            robustbench_package().utils.gdown.download(id=drive, output=str(arriving), quiet=True)
        read_checkpoint(arriving)
        arriving.rename(file)
    except Exception as error:  # of the network, of Google Drive, of the disk, or a page in place of the file
        arriving.unlink(missing_ok=True)
        raise BenchError(
            f"the weights of {entry.origin} could not be downloaded ({short(error)}). Open {link} in "
            f"a browser, and save the file as {file.resolve()}"
            + ("" if place else ", or anywhere and type --weights FILE")
        ) from None


def _zoo(entry: Entry) -> dict[str, Any]:
    zoo = robustbench_package().model_zoo
    for dataset, threats in zoo.model_dicts.items():
        for threat, models in threats.items():
            if (dataset.value, threat.value) == (entry.dataset, entry.threat) and entry.name in models:
                found: dict[str, Any] = models[entry.name]
                return found
    raise BenchError(f"the installed robustbench has no {entry.origin}. Type: pip install robustbench==1.1.1")


def _timm() -> Any:
    return robustbench_package().utils.timm


def _timm_name(entry: Entry) -> str:
    """Return the name under which the package registered the network with timm; empty: it did not."""
    name = f"{entry.name}_{entry.dataset}_{entry.threat}".lower().replace("-", "_")
    return name if _timm().is_model(name) else ""
