"""From what the user asked for to a run that is checked and ready to start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.data import Dataset, load_dataset
from bench.device import pick_device
from bench.errors import BenchError, unknown
from bench.method import METHODS, Method, MethodContext
from bench.recipe import PROTOCOLS, DatasetFacts, Fidelity, Recipe, build_recipe, load_tier
from bench.run.folder import RunFolder


@dataclass(frozen=True)
class RunRequest:
    """What ``bench run`` was asked to do."""

    method: str
    dataset: str
    tier: str | None = None
    """None: ``tiny`` for digits, otherwise ``mini`` on a CPU and ``short`` on a GPU."""
    fidelity: Fidelity = "uniform"
    protocols: Sequence[str] | None = None
    """None: SLF, or, for a method without pre-training, the first protocol that it can be evaluated under."""
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    device: str | None = None


@dataclass(frozen=True)
class Run:
    """A run that is ready to start, or to go on."""

    method: type[Method]
    dataset: Dataset
    recipe: Recipe
    seed: int
    protocols: Sequence[str]
    device: torch.device
    folder: RunFolder

    @property
    def finished(self) -> bool:
        """Whether every protocol asked for has its record."""
        return all(self.folder.protocol(name).record.exists() for name in self.protocols)

    @property
    def context(self) -> MethodContext:
        """What the method is told."""
        data = self.dataset
        index = data.index_train if data.pretrain is None else None
        return MethodContext(self.recipe, self.seed, self.device, data.pretraining_images, index)


def prepare(request: RunRequest, dataset: Dataset | None = None) -> Run:
    """Return the run that ``request`` describes; nothing is trained or written yet.

    Args:
        request: what was asked for.
        dataset: its data, if they are loaded already.

    Raises:
        BenchError: an unknown method, dataset, tier, protocol or setting, a value out of range, bad data.
    """
    method = METHODS.get(request.method)
    protocols = _protocols(request, method)
    if not 0 <= request.seed < 2**32:
        raise BenchError(f"seed {request.seed} is out of range; choose one from 0 to {2**32 - 1}.")
    device = pick_device(request.device)
    tier = load_tier(request.tier or _default_tier(request.dataset, device))
    dataset = dataset or load_dataset(request.dataset, request.data_dir)
    recipe = build_recipe(
        method=request.method,
        config_type=method.config_type,
        native_encoder=method.native_encoder,
        dataset=dataset_facts(dataset),
        tier=tier,
        fidelity=request.fidelity,
        overrides=request.overrides,
    )
    if recipe.evaluate.autoattack and dataset.num_classes < 4:
        raise BenchError(
            f"AutoAttack's targeted losses need at least 4 classes; {dataset.name} has {dataset.num_classes}. "
            "Leave it out with --set evaluate.autoattack=false"
        )
    folder = RunFolder.of(request.runs_dir, recipe, request.seed, dataset.spec)
    return Run(method, dataset, recipe, request.seed, protocols, device, folder)


def _protocols(request: RunRequest, method: type[Method]) -> tuple[str, ...]:
    possible = method.info.protocols
    if request.protocols is None:
        return possible[:1]
    for protocol in request.protocols:
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        if protocol not in possible:
            raise BenchError(
                f"{request.method} cannot be evaluated under {protocol}: it has no pre-trained features. "
                f"Type --protocols {','.join(possible)}"
            )
    return tuple(dict.fromkeys(request.protocols))


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    """Return what recipes and records say about ``dataset``."""
    return DatasetFacts(
        name=dataset.name,
        published_as=dataset.published_as,
        sha256=dataset.sha256,
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        train_images=len(dataset.train),
        test_images=len(dataset.test),
        eps=dataset.eps,
        mirror=dataset.mirror,
        mean=dataset.mean,
        std=dataset.std,
    )


def _default_tier(dataset: str, device: torch.device) -> str:
    if dataset == "digits":
        return "tiny"
    return "mini" if device.type == "cpu" else "short"
