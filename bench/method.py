"""The interface between the bench and a method: stages to train in order, and one encoder at the end.

A method is a class that an entry point of the group ``bench.methods`` names. It is given its validated
configuration, yields its training stages one after the other, and hands over the encoder to evaluate.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import create_model
from torch import Tensor, nn
from torch.optim import Optimizer

from bench import rng
from bench.data import ImageSource
from bench.nn import Encoder, build_encoder
from bench.optim import build_optimizer
from bench.recipe import PROTOCOLS, MethodConfig, Recipe, Threat, TrainPlan
from bench.registry import Registry


class StepLoss(NamedTuple):
    """The loss of one step."""

    total: Tensor
    """Scalar; what is minimised."""
    scalars: Mapping[str, Tensor] = {}
    """Named detached scalars to log."""


class Stage(nn.Module):
    """One training phase: what it trains, how, on which views, by which loss. The engine does the rest.

    Everything random about a step is drawn in :meth:`views`, or later from the generator it received, so
    that a step depends on (seed, stage, epoch, step) and the weights alone. The module's state (its
    ``state_dict``) is all that has to be kept to continue exactly: queues and momentum networks belong in it.
    """

    name: str
    plan: TrainPlan
    encoder: Encoder
    """What this stage trains and hands on."""
    shared: ClassVar[bool] = False
    """Whether code, plan, encoder settings, data and seed decide all that it learns. Runs that contain such a
    stage train it once. Each class says so for itself, since a subclass may depend on more."""

    def optimizer(self) -> Optimizer:
        """Return the optimiser of all that learns: the plan's, unless the paper has one of its own."""
        return build_optimizer(self.plan, self)

    def before_training(self, images: ImageSource) -> None:
        """Make what is kept from here on as state (pseudo-labels); called once, before the very first step.

        What takes long belongs here and not in the constructor, which every projection and every resume runs.
        """

    def before_epoch(self, epoch: int) -> None:
        """Set what changes from epoch to epoch (a curriculum), before the first step of the 0-based ``epoch``.

        A training that continues within an epoch calls this once more, so what it sets has to follow from ``epoch``.
        """

    def positions(self, count: int) -> Tensor:
        """Return which of the ``count`` training images this stage trains on, int64 and ascending: all of them."""
        return torch.arange(count)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Any:
        """uint8 [B, C, H, W] on the training device -> whatever :meth:`forward` takes.

        ``index`` (int64 [B]) holds the images' positions in the training set, for targets kept per image.
        """
        raise NotImplementedError

    def forward(self, views: Any) -> StepLoss:
        """Return the loss of one step. Attacks happen in here."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Move what follows the weights (momentum encoders, queues); called after each optimiser step."""

    def after_epoch(self, epoch: int, images: ImageSource) -> Mapping[str, float]:
        """Look back on the 0-based ``epoch`` before its state is saved, and return named numbers to log with it.

        ``images`` are all training images, those that :meth:`positions` leaves out included.
        """
        return {}


@dataclass(frozen=True)
class MethodContext:
    """What a method may know about the run: the threat model, the seed, the device, and images without labels."""

    recipe: Recipe
    seed: int
    device: torch.device
    images: Tensor
    """uint8 [N, C, H, W], what the stages train on, on the CPU."""
    index: Tensor | None = None
    """int64 [N], position of each of them in the official split; None where there is no official split."""

    @property
    def threat(self) -> Threat:
        """The threat model to train against."""
        return self.recipe.threat

    def new_encoder(self, *names: str) -> Encoder:
        """Return a freshly initialised encoder as the recipe asks; the same ``names`` give the same weights."""
        with self.scoped("encoder", *names):
            facts = self.recipe.dataset
            return build_encoder(self.recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)

    def scoped(self, *names: str) -> AbstractContextManager[None]:
        """Return a context in which module constructors draw the weights that belong to ``names``."""
        return rng.scoped(self.seed, "init", *names)


@dataclass(frozen=True)
class AblationCell:
    """One row of an ablation: the settings that make it, and where the paper's numbers for it stand."""

    settings: Mapping[str, Any]
    """Dotted keys to values, as behind ``--set``; every cell of a table sets the same keys."""
    label: str = ""
    """Empty: the settings themselves."""
    published: Mapping[str, Any] | None = None
    """The variant under which ``bench/results/published.json`` lists the numbers; None: the paper gives none."""


@dataclass(frozen=True)
class AblationTable:
    """A table of ablations, of a paper or of anybody's."""

    title: str
    cells: tuple[AblationCell, ...]
    source: str | None = None
    """The paper's table, as listed in ``bench/results/published.json``."""
    unplaced: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Labels to variants of the paper's lines of which it is not known to which cell they belong."""
    notes: tuple[str, ...] = ()
    """What a reader has to know."""


@dataclass(frozen=True)
class MethodInfo:
    """How a method is listed and cited."""

    title: str
    """As the paper writes it: "DeACL"."""
    year: int
    paper: str
    bibtex: str
    summary: str
    """One sentence."""
    url: str = ""
    """Where the paper can be read."""
    views: str = ""
    """Views of an image in a step, stage by stage: "2, then 1"."""
    passes: str = ""
    """Network passes an image costs in a step, stage by stage; fb: forward and backward, f: forward only."""
    outside: str = "nothing"
    """Labels, clusters or other encoders that pre-training uses beside the images."""
    protocols: tuple[str, ...] = PROTOCOLS
    """The protocols it can be evaluated under; the first is the default."""
    robust: bool = True
    """Whether pre-training is meant to make the encoder adversarially robust."""
    tables: Mapping[str, AblationTable] = field(default_factory=dict)
    """The ablations of its paper, by what ``bench ablate --table`` calls them."""


class Method(Protocol):
    """What an entry point of the group ``bench.methods`` must name."""

    info: ClassVar[MethodInfo]
    config_type: ClassVar[type[MethodConfig]]
    """The settings, with the paper's defaults, each with its source."""
    native_encoder: ClassVar[Mapping[str, Any]]
    """The encoder settings of the method's own paper, used under ``--fidelity native``."""

    def __init__(self, config: Any) -> None: ...

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield the training stages in order.

        The engine trains each to the end before it asks for the next, so a later stage may read what an
        earlier one learnt (DeACL's teacher).
        """

    def result(self) -> Encoder:
        """Return the encoder to evaluate: one plain branch, [B, C, H, W] in [0, 1] -> [B, D].

        It has the form of ``ctx.new_encoder()``, so that its weights can be loaded without what trained them.
        Before anything is trained, the stages are built once to check it (:func:`bench.run.prepare`).
        """


def single_stage(
    info: MethodInfo,
    settings: type[MethodConfig | TrainPlan],
    stage: Callable[[Any, MethodContext], Stage],
    *,
    native_encoder: Mapping[str, Any] | None = None,
) -> type[Method]:
    """Return the method of one stage, whose encoder is what that stage hands on.

    Args:
        info: how it is listed and cited.
        settings: what ``stage`` takes: the plan, which becomes the section ``stage1`` of the recipe, or a whole
            configuration where there are settings besides.
        stage: makes the stage, of the settings and the context.
        native_encoder: the encoder settings of its paper.
    """
    whole = issubclass(settings, MethodConfig)

    class SingleStage:
        def __init__(self, config: Any) -> None:
            self._settings = config if whole else config.stage1

        def stages(self, ctx: MethodContext) -> Iterator[Stage]:
            self._stage = stage(self._settings, ctx)
            yield self._stage

        def result(self) -> Encoder:
            return self._stage.encoder

    one = (settings, settings.parse({}, info.title))
    config = settings if whole else create_model("OneStage", __base__=MethodConfig, stage1=one)
    facts = {"info": info, "config_type": config, "native_encoder": native_encoder or {}}
    return type(info.title, (SingleStage,), facts)


@runtime_checkable
class OwnForm(Protocol):
    """What a method has besides if the encoder it hands over is of another form than ``ctx.new_encoder()``."""

    def form(self, plain: Encoder) -> Encoder:
        """Return an encoder of the form of :meth:`Method.result`, made of ``plain``; its weights do not matter."""


METHODS: Registry[type[Method]] = Registry("method", group="bench.methods", hint="`bench methods` lists them.")
