"""The house: who may import whom, what starts fast, what is shipped, and that nobody rolls unnamed dice."""

import ast
import re
import resource
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from bench.method import METHODS
from bench.run import RunRequest, prepare

ROOT = Path(__file__).parents[1]
BENCH = sorted((ROOT / "bench").rglob("*.py"))
PLUGINS = sorted((ROOT / "methods").rglob("*.py"))
SHIPPED = [*BENCH, *PLUGINS, *sorted((ROOT / "examples").glob("*.py"))]

MAP = re.findall(r"^\| (\d) \w+ \| ([^|]*) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
"""Each floor of the house with its rooms, as the contributors' page shows them."""
FLOORS = [set(re.findall(r"`(\w+)`", rooms)) for _, rooms in sorted(MAP)]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Imports run one way


def imports(path: Path) -> Iterator[str]:
    """Yield every module, or name in a module, that a file imports, also below its top."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "bench").with_suffix("").parts[0]


def arrows() -> dict[str, set[str]]:
    """Return which rooms of ``bench`` each room imports from."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in BENCH:
        if path.parent == ROOT / "bench" and path.stem == "__init__":
            continue  # the door of the house: it hands on verbs of all floors
        names = {name.split(".")[1] for name in imports(path) if name.startswith("bench.")}
        found[room_of(path)] |= names - {room_of(path), "__version__"}
    return found


def test_the_map_shows_every_room_once_and_no_other() -> None:
    assert {room_of(path) for path in BENCH} - {"__init__"} == FLOOR.keys()
    assert len(FLOORS) == 5
    assert sum(map(len, FLOORS)) == len(FLOOR)
    assert {name for rooms in arrows().values() for name in rooms} <= FLOOR.keys()


def test_no_room_imports_from_a_higher_floor() -> None:
    upwards = {(room, low) for room, rooms in arrows().items() for low in rooms if FLOOR[low] > FLOOR[room]}
    assert upwards == set()


@pytest.mark.parametrize("floor", range(1, len(FLOORS) + 1))
def test_neighbours_do_not_import_each_other_in_a_circle(floor: int) -> None:
    rooms = FLOORS[floor - 1]
    TopologicalSorter({room: lower & rooms for room, lower in arrows().items() if room in rooms}).prepare()


def test_the_bench_does_not_know_its_methods() -> None:
    for path in BENCH:
        assert not [name for name in imports(path) if name.split(".")[0] == "methods"], shown(path)
        texts = [node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)]
        named = [text for text in texts if isinstance(text, str) and re.match(r"methods\.\w+(:|$)", text)]
        assert not named, f"{shown(path)} names {named}"


def test_methods_reach_the_bench_from_above() -> None:
    known = {FLOOR[name.split(".")[1]] for path in PLUGINS for name in imports(path) if name.startswith("bench.")}
    assert known <= {1, 2}, "a method needs parts and ground, not the machinery that runs it"


# Rooms have one door

SUB_ROOMS = {
    "bench.data.corruptions",
    "bench.data.views",
    "bench.recipe.fields",
    "bench.report.figures",
    "bench.report.model_export",
    "bench.report.run_report",
    "bench.report.site",
}
"""Rooms inside a room, with doors of their own: parts that most readers of the room do not need, or pay for."""


def module_at(name: str) -> Path | None:
    """Return the file of the module ``name`` of this repository, None where there is none of that name."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def exports(package: str) -> set[str]:
    """Return what a package's door lets out: the names that it imports from its modules or defines."""
    door = ROOT.joinpath(*package.split("."), "__init__.py")
    body = parsed(door).body if door.is_file() else []
    imported = [node for node in body if isinstance(node, ast.ImportFrom) and node.module != package]
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined | {alias.asname or alias.name for node in imported for alias in node.names}


def room_with_a_door(module: str) -> str:
    """Return the innermost room that holds ``module``: ``bench.attack`` for ``bench.attack.ascent``."""
    inner = [room for room in SUB_ROOMS if f"{module}.".startswith(f"{room}.")]
    return inner[0] if inner else ".".join(module.split(".")[:2])


def reaches(path: Path) -> Iterator[str]:
    """Yield what a file imports from rooms of ``bench`` past their doors: a module behind one, or a private name."""
    own = shown(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name in imports(path):
        package, _, last = name.rpartition(".")
        module = name if module_at(name) and last not in exports(package) else package
        room = room_with_a_door(module)
        if not module.startswith("bench.") or f"{own}.".startswith(f"{room}."):
            continue  # one's own room, and those around it
        if module != room:
            yield module
        elif last.startswith("_"):
            yield name


def test_no_room_reaches_past_the_door_of_another() -> None:
    files = [*SHIPPED, *sorted((ROOT / "perf").rglob("*.py"))]
    assert {(shown(path), reached) for path in files for reached in reaches(path)} == set()


def test_no_module_has_the_name_of_what_its_package_exports() -> None:
    packages = [".".join(path.parent.relative_to(ROOT).parts) for path in SHIPPED if path.name == "__init__.py"]
    found = {(package, name) for package in packages for name in exports(package) if module_at(f"{package}.{name}")}
    assert found == set()


def test_the_search_for_reaches_finds_them() -> None:
    assert set(reaches(Path(__file__))) == set()
    # A test may look behind a door, and this one does.
    assert set(reaches(ROOT / "tests" / "test_autoattack.py")) == {"bench.attack.official"}
    assert {room_with_a_door(name) for name in ("bench.report.site.build", "bench.report.site", "bench.report")} == {
        "bench.report.site",
        "bench.report",
    }


# Chance has a name

SEEDS = {"manual_seed", "manual_seed_all", "seed", "set_rng_state", "default_rng"}
DRAWS = {"bernoulli", "multinomial", "normal", "poisson", "rand", "randint", "randn", "randperm"}
DRAWS |= {"rand_like", "randint_like", "randn_like"}
DRAWS_IN_PLACE = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
}


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield every call below ``node`` but those of constructors and of blocks inside ``with rng.scoped(...)``."""
    if isinstance(node, ast.With):
        opened = [item.context_expr for item in node.items]
        if any(isinstance(call, ast.Call) and dotted(call.func).endswith("scoped") for call in opened):
            return
    if isinstance(node, ast.FunctionDef) and node.name == "__init__":
        return  # drawn like the weights of a layer: test_building_a_method_... sees whether that is in a scope
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from calls(child)


def unnamed_chance(code: ast.Module) -> Iterator[str]:
    """Yield line and name of each call that seeds or draws from a global random state."""
    for call in calls(code):
        owner, _, name = dotted(call.func).rpartition(".")
        draws = name in DRAWS_IN_PLACE if owner != "torch" else name in DRAWS
        unnamed = draws and "generator" not in {keyword.arg for keyword in call.keywords}
        if name in SEEDS or owner in {"random", "np.random", "numpy.random"} or unnamed:
            yield f"{call.lineno}: {owner}.{name}"


def test_nobody_draws_from_a_global_random_state() -> None:
    found = {shown(path): list(unnamed_chance(parsed(path))) for path in SHIPPED if shown(path) != "bench/rng.py"}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_search_for_unnamed_chance_finds_it_and_nothing_else() -> None:
    sins = ["torch.manual_seed", "random.random", "np.random.rand", "torch.randn", "x.uniform_", "g.manual_seed"]
    fine = ["torch.randn(3, generator=g)", "self.normal(x)", "with ctx.scoped('queue'):\n    torch.randn(3)"]
    code = "\n".join([*(f"{sin}()" for sin in sins), *fine])
    assert list(unnamed_chance(ast.parse(code))) == [f"{n}: {sin}" for n, sin in enumerate(sins, 1)]


@pytest.mark.parametrize("name", list(METHODS))
def test_building_a_method_leaves_the_global_random_state_alone(name: str) -> None:
    run = prepare(RunRequest(name, "digits", overrides={"encoder.width": 2}, device="cpu"))
    before = torch.get_rng_state()
    next(iter(run.method(run.recipe.config).stages(run.context)), None)
    assert before.equal(torch.get_rng_state())


# A file is the same text in every locale


def test_text_files_name_their_encoding() -> None:
    """But those of the kernel, and of locks, which hold numbers and the name of a machine."""
    found = {
        f"{shown(path)}:{node.lineno}"
        for path in SHIPPED
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("read_text", "write_text") and "utf-8" not in ast.unparse(node)
        if not shown(path).startswith(("bench/device/", "bench/run/locks.py"))
    }
    assert found == set()


# The command line starts fast

HELP = """
import sys
from typer.main import get_command
from bench.cli import app
for arguments in [[], *([name] for name in get_command(app).commands)]:
    try:
        app([*arguments, "--help"])
    except SystemExit as end:
        assert end.code == 0, arguments
    heavy = {"accelerate", "matplotlib", "numpy", "sklearn", "torch", "torchvision"} & sys.modules.keys()
    if not arguments:  # of a command, typer itself imports it
        heavy |= {"pydantic"} & sys.modules.keys()
    print("help of", *arguments or ["bench"], "imported", *sorted(heavy) or ["nothing heavy"])
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    verdicts = re.findall(r"^help of (\S+) imported (.*)$", done.stdout, re.M)
    assert {"bench", "run", "leaderboard"} <= {command for command, _ in verdicts}
    assert {heavy for _, heavy in verdicts} == {"nothing heavy"}, verdicts


def test_help_answers_at_once() -> None:
    # Processor time, because the clock on the wall says how busy the others are, and alternately with an
    # import that no command is without, because machines differ by half.
    def seconds(*command: str | Path) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(command, capture_output=True, check=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    bench = Path(sys.executable).with_name("bench")
    pairs = [(seconds(bench, "--help"), seconds(sys.executable, "-c", "import typer")) for _ in range(5)]
    helped, imported = (min(times) for times in zip(*pairs, strict=True))  # other programs only ever add
    assert 0 < helped < 8 * imported  # seen: 4 to 6.6; with torch 20 and more


# What is shipped


def test_the_package_announces_its_command_and_methods() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, declared in {"console_scripts": project["scripts"], **project["entry-points"]}.items():
        installed = {point.name: point for point in entry_points(group=group)}
        for name, target in declared.items():
            assert name in installed, f"{group}: {name} is not installed; type python -m pip install -e ."
            assert installed[name].value == target
            assert callable(installed[name].load())


@pytest.mark.parametrize("package", ["bench", "methods"])
def test_types_are_shipped(package: str) -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in shipped[package]
    assert (files(package) / "py.typed").is_file()


def test_the_published_numbers_are_shipped() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "results/published.json" in shipped["bench"]
    assert (files("bench") / "results" / "published.json").is_file()


def test_the_tiers_are_shipped() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert {path.relative_to(ROOT / "bench").parent.as_posix() for path in (ROOT / "bench").rglob("*.toml")} == {
        pattern.rpartition("/")[0] for pattern in shipped["bench"] if pattern.endswith(".toml")
    }


def test_constraints_are_exact_pins_of_all_that_is_required() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["dev"], *extras["onnx"], *extras["robustbench"], *extras["timm"]]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in required} - {project["name"]}
    assert names <= {line.split("==")[0] for line in lines}


def test_no_file_is_longer_than_400_lines() -> None:
    code = [*SHIPPED, *(ROOT / "perf").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    too_long = {shown(path) for path in code if len(path.read_text().splitlines()) > 400}
    assert not too_long
