"""The interface between the bench and a method: stages to train in order, and one encoder at the end.

A method is a class that an entry point of the group ``bench.methods`` names. It is given its validated
configuration, yields its training stages one after the other, and hands over the encoder to evaluate.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import AfterValidator, Field, create_model
from torch import Tensor, nn
from torch.optim import Optimizer

from bench import rng
from bench.data import ImageSource
from bench.nn import Encoder, build_encoder
from bench.optim import build_optimizer
from bench.recipe import ALL_PROTOCOLS, PROTOCOLS, MethodConfig, Recipe, Settings, Threat, TrainPlan
from bench.recipe.fields import Title, Year
from bench.registry import Registry


class StepLoss(NamedTuple):
    """The loss of one step."""

    total: Tensor
    """What is minimised: one number, with a gradient."""
    scalars: Mapping[str, Tensor] = {}
    """Numbers to log by name, detached tensors of one element; the bench itself logs ``loss`` and ``lr``."""


class Stage(nn.Module):
    """One training phase: its network, plan, views and loss. The engine does the rest.

    All random numbers of a step are drawn in :meth:`views`, or later from the generator passed to it, so that a
    step depends only on (seed, stage, epoch, step) and the weights. The module's ``state_dict`` must hold all
    that is needed to continue exactly, including queues and momentum networks.
    """

    name: str
    plan: TrainPlan
    encoder: Encoder
    """The encoder that this stage trains and hands on."""
    shared: ClassVar[bool] = False
    """Whether code, plan, encoder settings, data and seed alone determine what it learns. Runs with such a stage
    train it once. Each class sets it itself; it is not inherited, since a subclass may depend on more."""
    distributed: ClassVar[bool] = False
    """Whether several devices may train it. They all run the same code on the same batches, and only what an
    :class:`Encoder` computes is divided among them. So a stage may be if it draws from its generator alone, keeps its
    state in ``state_dict``, and its networks that treat an image by itself are encoders."""
    per_image: bool = False
    """Whether the loss is a mean over the images of a batch, so that the parts of a batch may be computed one after the
    other (``accumulate``)."""

    def optimizer(self) -> Optimizer:
        """Return one optimiser of all trained parameters: by default the plan's.

        All that its steps depend on is in the form of torch's ``state_dict``: tensors and numbers of each parameter,
        and numbers of the groups. Two optimisers in one are refused.

        The plan's schedule moves its rates: a group whose rate is half of ``plan.effective_lr`` has half of the
        schedule's in every step.
        """
        return build_optimizer(self.plan, self)

    def before_training(self, images: ImageSource) -> None:
        """Compute state that the steps need (pseudo-labels); called once, before the very first step.

        Slow work belongs here and not in the constructor, which every projection and every resume runs.
        """

    def before_epoch(self, epoch: int) -> None:
        """Set what changes between epochs (a curriculum), before the first step of the 0-based ``epoch``.

        A training that resumes within an epoch calls this again, so what it sets must depend only on ``epoch``.
        """

    def positions(self, count: int) -> Tensor:
        """Return the positions of the training images to use, among ``count``: int64, ascending; by default all."""
        return torch.arange(count)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Any:
        """uint8 [B, C, H, W] on the training device -> whatever :meth:`forward` takes.

        ``index`` (int64 [B]) holds the images' positions in the training set, for targets kept per image.
        """
        raise NotImplementedError

    def forward(self, views: Any) -> StepLoss:
        """Return the loss of one step. Attacks are computed here."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Update what follows the weights (momentum encoders, queues); called after each optimiser step."""

    def after_epoch(self, epoch: int, images: ImageSource) -> Mapping[str, float]:
        """Review the 0-based ``epoch`` before its state is saved, and return numbers to log by name.

        ``images`` are all training images, including those that :meth:`positions` leaves out.
        """
        return {}


@dataclass(frozen=True)
class MethodContext:
    """What a method receives: the recipe with its threat model, the seed, the device, and images without labels."""

    recipe: Recipe
    seed: int
    device: torch.device
    images: Tensor
    """uint8 [N, C, H, W] on the CPU: the images that the stages train on; of data that do not fit into memory, a tensor
    that only an index decodes (:class:`bench.data.StoredImages`)."""
    index: Tensor | None = None
    """int64 [N]: the position of each image in the official split; None if there is no official split."""

    @property
    def threat(self) -> Threat:
        """The threat model to train against."""
        return self.recipe.threat

    def new_encoder(self, *names: str) -> Encoder:
        """Return a newly initialised encoder as the recipe describes it; the same ``names`` give the same weights."""
        with self.scoped("encoder", *names):
            facts = self.recipe.dataset
            return build_encoder(self.recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)

    def scoped(self, *names: str) -> AbstractContextManager[None]:
        """Return a context in which module constructors draw their weights from the stream ``names``."""
        return rng.scoped(self.seed, "init", *names)


@dataclass(frozen=True)
class AblationCell:
    """One row of an ablation: its settings, and where to find the paper's numbers for it."""

    settings: Mapping[str, Any]
    """Dotted keys to values, as in ``--set``; every cell of a table sets the same keys."""
    label: str = ""
    """Empty: the settings themselves."""
    published: Mapping[str, Any] | None = None
    """The variant under which ``bench/results/published.json`` lists the numbers; None: the paper gives none."""


@dataclass(frozen=True)
class AblationTable:
    """A table of ablations, from a paper or the user."""

    title: str
    cells: tuple[AblationCell, ...]
    source: str | None = None
    """The paper's table, as listed in ``bench/results/published.json``."""
    unplaced: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Labels to variants of those of the paper's lines that cannot be assigned to a cell."""
    notes: tuple[str, ...] = ()
    """Notes for the reader."""


def _known_protocol(name: str) -> str:
    if name not in ALL_PROTOCOLS:
        raise ValueError(f"is no protocol; allowed: {', '.join(PROTOCOLS)}")
    return name


@dataclass(frozen=True)
class MethodInfo:
    """How a method is listed and cited; BenchError where a field is not of its type, which a record would refuse."""

    title: Title
    """As the paper writes it: "DeACL"."""
    year: Year
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
    """Labels, clusters or other encoders that pre-training uses in addition to the images."""
    protocols: Annotated[tuple[Annotated[str, AfterValidator(_known_protocol)], ...], Field(min_length=1)] = PROTOCOLS
    """The protocols it can be evaluated under; the first is the default."""
    robust: bool = True
    """Whether pre-training is meant to make the encoder adversarially robust."""
    tables: Mapping[str, AblationTable] = field(default_factory=dict)
    """The ablations of its paper, by their name in ``bench ablate --table``."""

    def __post_init__(self) -> None:
        for name, value in _CheckedInfo.parse(vars(self), "MethodInfo"):
            object.__setattr__(self, name, value)


# A model beside the dataclass, whose arguments may be positional and which ``dataclasses.replace`` takes.
_info_fields: dict[str, Any] = {one.name: (one.type, ...) for one in fields(MethodInfo)}
_CheckedInfo = create_model("_CheckedInfo", __base__=Settings, **_info_fields)


class Method(Protocol):
    """What an entry point of the group ``bench.methods`` must name."""

    info: ClassVar[MethodInfo]
    config_type: ClassVar[type[MethodConfig]]
    """The settings, with the paper's values as defaults and their sources."""
    native_encoder: ClassVar[Mapping[str, Any]]
    """The encoder settings of the method's own paper, used under ``--fidelity native``."""

    def __init__(self, config: Any) -> None: ...

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield the training stages in order.

        The engine trains each stage to its end before the next is created, so a later stage may use what an
        earlier one has learnt (DeACL's teacher).
        """

    def result(self) -> Encoder:
        """Return the encoder to evaluate: one plain branch, [B, C, H, W] in [0, 1] -> [B, D].

        It has the form of ``ctx.new_encoder()``, so that its weights can be loaded without the method.
        :func:`bench.run.prepare` builds the stages once to check this before training.
        """


def single_stage(
    info: MethodInfo,
    settings: type[MethodConfig | TrainPlan],
    stage: Callable[[Any, MethodContext], Stage],
    *,
    native_encoder: Mapping[str, Any] | None = None,
) -> type[Method]:
    """Return a method of a single stage, whose encoder is the method's result.

    Args:
        info: how it is listed and cited.
        settings: the first argument of ``stage``: the plan, which becomes the section ``stage1`` of the recipe, or a
            whole configuration if there are further settings.
        stage: makes the stage from the settings and the context.
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
    """A method whose encoder has another form than ``ctx.new_encoder()`` also implements this."""

    def form(self, plain: Encoder) -> Encoder:
        """Return an encoder of the form of :meth:`Method.result`, made from ``plain``; its weights are ignored."""


def _fault(candidate: object) -> str:
    """Return what ``candidate`` lacks to be a method, in words that follow "it"; empty: nothing."""
    config, encoder = getattr(candidate, "config_type", None), getattr(candidate, "native_encoder", None)
    parts = {
        "info, a MethodInfo": isinstance(getattr(candidate, "info", None), MethodInfo),
        "config_type, a subclass of MethodConfig": isinstance(config, type) and issubclass(config, MethodConfig),
        "native_encoder, a mapping": isinstance(encoder, Mapping),
        "stages(ctx)": callable(getattr(candidate, "stages", None)),
        "result()": callable(getattr(candidate, "result", None)),
    }
    lacking = [part for part, there in parts.items() if not there]
    if not isinstance(candidate, type):
        return "is not a class. Name the class, or what single_stage() returned."
    if not lacking:
        return ""
    stage = " It is a stage: name what single_stage(info, settings, stage) makes of it." * issubclass(candidate, Stage)
    return f"has no {'; no '.join(lacking)}.{stage}"


METHODS: Registry[type[Method]] = Registry(
    "method", group="bench.methods", hint="`bench methods` lists them.", fault=_fault
)
