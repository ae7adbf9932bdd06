"""Options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.errors import BenchError
from bench.own_code import is_in_file
from bench.trackers import kind_and_place

RESULTS = Path("results")
"""The published records, and below them the local ones."""

LOCAL_RESULTS = RESULTS / "local"
"""Where new records go, unless the user publishes them."""

Method = Annotated[str, typer.Argument(help="The method; `bench methods` lists them. One of your own: FILE.py:NAME")]
Data = Annotated[str, typer.Option(help="digits, cifar10, cifar100, stl10, npz:PATH, folder:PATH or webdataset:PATH.")]
Tier = Annotated[
    str | None,
    typer.Option(help="How far to scale the published recipe; default: tiny, mini or short by data and device."),
]
Fidelity = Annotated[
    Literal["uniform", "native"],
    typer.Option(help="uniform: one encoder for all methods; native: the paper's own."),
]
FinetuneDataset = Annotated[
    str | None,
    typer.Option(help="Evaluate on these data instead of those of pre-training (transfer); named like --dataset."),
]
Protocols = Annotated[
    str | None,
    typer.Option(help="With commas: slf, alf, aff (default: these), knn, knn-200, slf-1pct, slf-10pct."),
]
Preset = Annotated[
    str | None,
    typer.Option(help="Origin of SLF, ALF and AFF: uniform, advcl, deacl-2024 or robustssl-benchmark."),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(help="Of training, in all stages and protocols; default: what the tier, or else each paper, says."),
]
Corruptions = Annotated[
    str | None,
    typer.Option(metavar="none|generate|PATH", help="Common corruptions; PATH: a folder laid out as CIFAR-10-C."),
]
Attacks = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME,...",
        help="More attacks, each on the images that are left; docs/attack_suite.md lists them. Yours: FILE.py:NAME.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="resnet18, resnet50, timm:NAME, torchvision:NAME, or your own: FILE.py:NAME."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a number of the recipe; may be repeated."),
]
SetOfMethods = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[METHOD:]KEY=VALUE",
        help="Change a number of all recipes, or of one method's; may be repeated.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and the projected time; stop.")]
ShowRecipe = Annotated[bool, typer.Option("--recipe", help="With --dry-run: print every setting of the run, too.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the best there is.")]


def _known_tracker(where: str | None) -> str | None:
    """Return ``where``; raises BenchError here, before anything is read, for what cannot be tracked."""
    if where is not None:
        kind_and_place(where)
    return where


Track = Annotated[
    str | None,
    typer.Option(
        metavar="tensorboard:FOLDER|wandb:PROJECT|progress:FILE",
        help="Send what training logs to a tracker, too.",
        callback=_known_tracker,
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads to compute with; default: the faster of 1 and all.")
]
RunsDir = Annotated[Path, typer.Option(help="Where runs keep weights and state.")]
ResultsDir = Annotated[
    Path, typer.Option(help="Where records go: results/local keeps yours apart, results publishes them.")
]
DataIn = Annotated[
    Literal["auto", "memory", "disk"],
    typer.Option(help="Where images in files are during the run; auto: in memory if they fit. Numbers are the same."),
]
DataDir = Annotated[Path, typer.Option(help="Where datasets are downloaded to.")]
Results = Annotated[
    Path, typer.Option("--results-dir", help="Folder of the records; yours, in its folder local, are shown marked.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the records as JSON on stdout.")]


def typed_params(context: typer.Context) -> list[Any]:
    """Return the options of a command that the user typed."""
    sources = [(param, context.get_parameter_source(param.name or "")) for param in context.command.params]
    typed = [param for param, source in sources if source and source.name == "COMMANDLINE"]
    return [param for param in typed if param.param_type_name == "option"]


def method_name(given: str) -> str:
    """Return the name in records of the method that ``given`` names; one named ``FILE.py:NAME`` is loaded."""
    if not is_in_file(given):
        return given
    from bench.method import METHODS

    return METHODS.name_of(given)


def recorded_name(given: str | None) -> str | None:
    """Return the name in records of the data that ``given`` names, such as ``my`` of ``npz:my.npz``; None for None."""
    if given is None or ":" not in given:
        return given
    from bench.data import recorded_name

    return recorded_name(given)


def names(text: str | None) -> list[str] | None:
    """Return the names in ``text``, which stand between commas; None for None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def overrides(
    preset: str | None,
    set_: list[str] | None,
    precision: str | None,
    encoder: str | None = None,
    attacks: str | None = None,
) -> dict[str, Any]:
    """Return what these options and ``--set`` ask for; a key that is set overrides the others."""
    from bench.recipe import parse_overrides, preset_overrides

    named = {} if preset is None else preset_overrides(preset)
    given = {"precision": precision, "encoder.arch": encoder, "evaluate.attacks": _attacks(attacks)}
    return {**named, **{key: each for key, each in given.items() if each is not None}, **parse_overrides(set_ or [])}


def _attacks(text: str | None) -> list[str] | None:
    """Return the names of the attacks in ``text``; one of the form ``FILE.py:NAME`` is loaded."""
    listed = names(text)
    if not any(map(is_in_file, listed or ())):
        return listed
    from bench.attack import ATTACKS

    return [ATTACKS.name_of(name) for name in listed or ()]


def split_settings(items: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the items of ``--set`` that are for all methods, and by method those of the form METHOD:KEY=VALUE."""
    of_all: list[str] = []
    of_one: dict[str, list[str]] = {}
    for item in items:
        head, equals, value = item.partition("=")
        method, colon, key = head.rpartition(":")
        (of_one.setdefault(method, []) if colon else of_all).append(f"{key}{equals}{value}")
    return of_all, of_one


_SEED_DIGITS = 100
"""A longer word is no seed: Python makes no number of thousands of digits."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds in ``text``, such as "0,1,2", in that order; raises BenchError for anything else."""
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not word.isdecimal() or len(word) > _SEED_DIGITS]
    if wrong:
        what = "is not a seed" if len(wrong) == 1 else "are no seeds"
        raise BenchError(
            f"--seeds {text!r}: {', '.join(map(repr, wrong))} {what}. Type whole numbers, as in --seeds 0,1,2"
        )
    seeds = [int(word) for word in words]
    twice = next((seed for place, seed in enumerate(seeds) if seed in seeds[:place]), None)
    if twice is not None:
        raise BenchError(f"--seeds {text!r}: {twice} is given twice; each seed is one run. Keep one of them.")
    return tuple(seeds)
