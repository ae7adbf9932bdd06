"""The cells of a matrix, checked and ready, and the shared stages that are trained once before them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import Dataset, check_dataset, load_dataset
from bench.errors import BenchError, Faults, together, unknown
from bench.grid import GridJob, JobFolder
from bench.method import METHODS, Method
from bench.own_code import files_of, is_in_file, own_objects
from bench.recipe import PROTOCOLS, Fidelity, load_tier, override_text, with_checked_fields
from bench.recipe.fields import Whole
from bench.run import Run, RunRequest, peak_memory, prepare, shared_stages

ALL = "all"
SHARED = "(shared stage)"
"""In the place of a method, for the jobs that train stages which several cells share."""


@with_checked_fields
@dataclass(frozen=True)
class MatrixRequest:
    """The options of ``bench matrix``."""

    methods: Sequence[str]
    """Names, or ``all``."""
    datasets: Sequence[str]
    seeds: Sequence[Whole] = (0,)
    protocols: Sequence[str] | None = None
    """Each method gets those of them that apply to it; None: all that apply."""
    tier: str | None = None
    fidelity: Fidelity = "uniform"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of all cells."""
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of the cells of one method, by its name."""
    options: Sequence[str] = ()
    """More arguments of every ``bench run``, such as ``--devices 4``."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """What ``options`` say of the recipe, as fields of :class:`bench.run.RunRequest`; ``overrides`` have the rest."""
    device: str | None = None
    elsewhere: bool = False
    """Whether the jobs run on other machines, which have GPUs."""
    threads: int = 1
    runs_dir: Path = Path("runs")
    results_dir: Path = Path("results/local")
    data_dir: Path = Path("data")

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that every job reads or writes."""
        return tuple(str(path.absolute()) for path in (self.runs_dir, self.results_dir, self.data_dir))

    @property
    def asked(self) -> dict[str, Any]:
        """What determines the jobs, as plain values."""
        return {
            "methods": list(self.methods),
            "datasets": list(self.datasets),
            "seeds": list(self.seeds),
            "protocols": None if self.protocols is None else list(self.protocols),
            "tier": self.tier,
            "fidelity": self.fidelity,
            "settings": [_setting(key, value) for key, value in self.overrides.items()],
            "own_settings": {
                name: [_setting(key, value) for key, value in own.items()] for name, own in self.own.items()
            },
            "options": list(self.options),
            "device": self.device,
            "threads": self.threads,
            "runs_dir": str(self.runs_dir.absolute()),
            "results_dir": str(self.results_dir.absolute()),
            "data_dir": str(self.data_dir.absolute()),
        }


@dataclass(frozen=True)
class Matrix:
    """The jobs of a request, and what was left out."""

    jobs: tuple[GridJob, ...]
    runs: tuple[Run, ...]
    """One a cell."""
    left_out: tuple[str, ...]
    """Of the methods that ``all`` means: those to which none of the protocols apply, with the reason."""


def plan_matrix(
    request: MatrixRequest,
    folder: Path,
    *,
    memory: bool = False,
    load: Callable[[str, Path], Dataset] = load_dataset,
) -> Matrix:
    """Return the jobs of ``request``, shared stages first; nothing is trained or written, each dataset is read once.

    Args:
        folder: of the grid, where the jobs will keep their progress.
        memory: whether to estimate how much each job needs, from a few steps.
        load: reads a dataset, given its name and the data directory.

    Raises:
        BenchError: unknown names, or cells that cannot be run; the faults of all are reported together.
    """
    chosen, left_out = _chosen(request)
    own = {from_anywhere(name): values for name, values in request.own.items()}
    named = list(dict.fromkeys(map(from_anywhere, request.datasets)))
    datasets = dict(zip(named, together(named, lambda name: load(name, request.data_dir), str), strict=True))
    pairs = [(method, dataset) for dataset in datasets for method in chosen]

    def first(pair: tuple[str, str]) -> Run:
        method, dataset = pair
        asked = RunRequest(
            method=method,
            dataset=dataset,
            tier=request.tier,
            fidelity=request.fidelity,
            protocols=chosen[method],
            seed=request.seeds[0],
            overrides={**request.overrides, **own.get(method, {})},
            runs_dir=request.runs_dir.absolute(),
            data_dir=request.data_dir,
            device=request.device,
            elsewhere=request.elsewhere,
            **request.given,
        )
        return prepare(asked, datasets[dataset])

    ready = together(pairs, first, ", ".join)
    bytes_of = {pair: peak_memory(run) if memory else None for pair, run in zip(pairs, ready, strict=True)}
    of_seeds = [[run.with_seed(seed) for seed in request.seeds] for run in ready]
    # By seed: the first cells of all methods come before the second ones.
    cells = [(pair, run) for runs in zip(*of_seeds, strict=True) for pair, run in zip(pairs, runs, strict=True)]
    shared = [path for paths in zip(*map(shared_stages, of_seeds), strict=True) for path in paths]
    users = Counter(path for path in shared if path)
    stages: dict[Path, GridJob] = {}
    of_cells = []
    for (pair, run), path in zip(cells, shared, strict=True):
        common = path if path and users[path] > 1 else None
        if common and common not in stages:
            name = common.parent.name
            command = _command(request, pair, run, folder, name, "--shared-only")
            stages[common] = _job(name, SHARED, run, command, [common], bytes_of[pair])
        names = map(run.record_name, run.protocols)
        leaves = [run.protocol_folder(protocol).record for protocol in run.protocols]
        leaves += [each.under(request.results_dir) for each in names]
        name = run.folder.path.name
        needs = (stages[common].name,) if common else ()
        command = _command(request, pair, run, folder, name)
        of_cells.append(_job(name, run.recipe.method, run, command, leaves, bytes_of[pair], needs))
    twice = [name for name, count in Counter(job.name for job in of_cells).items() if count > 1]
    if twice:
        raise BenchError(
            f"two cells of the grid are one run, {twice[0]}: two of the datasets hold the same data. Leave one out."
        )
    return Matrix((*stages.values(), *of_cells), tuple(run for _, run in cells), left_out)


def _chosen(request: MatrixRequest) -> tuple[dict[str, Sequence[str] | None], tuple[str, ...]]:
    """Return the methods, each with its protocols, and those that are left out, with the reason."""
    every = list(request.methods) == [ALL]
    named = list(METHODS) if every else [from_anywhere(name) if is_in_file(name) else name for name in request.methods]
    types = _known(request, named)
    chosen: dict[str, Sequence[str] | None] = {}
    left_out = []
    for name, method in types.items():
        fitting = [each for each in request.protocols or () if each in method.info.protocols]
        if every and request.protocols and not fitting:
            left_out.append(f"{name}: it is evaluated under {', '.join(method.info.protocols)} alone")
        else:
            chosen[name] = fitting or request.protocols
    return chosen, tuple(left_out)


def _known(request: MatrixRequest, methods: Sequence[str]) -> dict[str, type[Method]]:
    """Return ``methods`` by name; raises one BenchError for all names in ``request`` that do not exist."""
    found, faults = dict[str, type[Method]](), Faults()
    for name in methods:
        with faults:
            found[name] = METHODS.get(METHODS.name_of(name))
    for name in map(from_anywhere, request.own):
        with faults:
            if name not in methods:
                raise unknown("method in --set", name, found, "Type --set METHOD:KEY=VALUE")
    for name in request.datasets:
        with faults:
            check_dataset(name)
    for name in request.protocols or ():
        with faults:
            if name not in PROTOCOLS:
                raise unknown("protocol", name, PROTOCOLS)
    with faults:
        if request.tier is not None:
            load_tier(request.tier)
    faults.refuse()
    return found


def from_anywhere(name: str) -> str:
    """Return ``name`` with the path in it, if any, made absolute: a job may start in another folder."""
    kind, colon, path = name.partition(":")
    if is_in_file(name):
        return f"{_absolute(kind)}:{path}"
    return f"{kind}:{_absolute(path)}" if colon else name


def _setting(key: str, value: Any) -> str:
    """Return what to type for ``key``, with a path in ``value`` made absolute as by :func:`from_anywhere`."""
    names_a_path = isinstance(value, str) and (value.startswith("file:") or is_in_file(value))
    return override_text(key, from_anywhere(value) if names_a_path else value)


def _tier(request: MatrixRequest, run: Run) -> str:
    """Return what to type for the tier of ``run``: its name, or the absolute path of a user's own file."""
    own = request.tier is not None and request.tier.endswith(".toml")
    return str(_absolute(str(request.tier))) if own else run.recipe.tier


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _command(
    request: MatrixRequest, pair: tuple[str, str], run: Run, folder: Path, name: str, *more: str
) -> tuple[str, ...]:
    """Return the arguments of ``bench`` for ``run``."""
    method, dataset = pair
    asked = request.asked
    options = {
        "dataset": dataset,
        "tier": _tier(request, run),
        "fidelity": request.fidelity,
        "protocols": ",".join(run.protocols),
        "seed": str(run.seed),
        "threads": str(request.threads),
        "runs-dir": asked["runs_dir"],
        "results-dir": asked["results_dir"],
        "data-dir": asked["data_dir"],
        "track": f"progress:{JobFolder.of(folder, name).progress}",
        **({"device": _device(request)} if request.device else {}),
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    own = [text for name, texts in asked["own_settings"].items() if from_anywhere(name) == method for text in texts]
    words += [word for setting in (*asked["settings"], *own) for word in ("--set", setting)]
    return ("run", method, *words, "--no-estimate", *more, *request.options)


def _device(request: MatrixRequest) -> str:
    """Return ``--device`` of a job; on this machine it sees its GPU alone, which has no number there."""
    assert request.device is not None
    return request.device if request.elsewhere else request.device.partition(":")[0]


def _job(
    name: str,
    method: str,
    run: Run,
    command: tuple[str, ...],
    leaves: Sequence[Path],
    memory: int | None,
    needs: Sequence[str] = (),
) -> GridJob:
    return GridJob(
        name=name,
        command=command,
        leaves=tuple(str(path.absolute()) for path in leaves),
        needs=tuple(needs),
        method=method,
        dataset=run.recipe.dataset.name,
        code=files_of(own_objects(run.recipe.method, run.recipe.model_dump())),
        memory=memory,
    )
