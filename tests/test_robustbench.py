"""RobustBench's classifiers, through its own package: loaded strictly, judged as released, exported in its form."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from runpy import run_path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from board_records import make_record
from in_process import Said, say
from PIL import Image
from short_autoattack import shorten
from torch import nn
from toy_runs import toy_data

import bench
from bench import rng
from bench.attack import auto_attack
from bench.downloads import one_at_a_time
from bench.errors import BenchError, short
from bench.leaderboard import render_leaderboard
from bench.recipe import Threat
from bench.record import Record, save_record
from bench.report.model_export import write_export
from bench.report.reproduce import reproduction
from bench.results import build_leaderboard, headline, load_published
from bench.robustbench import entries, find_entry
from bench.run import EvaluationRequest, Finished, finished_in, prepare_evaluation
from bench.run.named import WeightChoices
from bench.zoo import Loading, Model
from bench.zoo.released import package
from bench.zoo.released import weights as released_weights
from bench.zoo.released.weights import new_network, released_network

EXAMPLES = Path(__file__).parents[1] / "examples"
NAME = "Addepalli2022Efficient_RN18"
ENTRY = find_entry(f"cifar10/Linf/{NAME}")


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """The network of the entry, of random weights and other statistics than those of a new batch-norm."""
    with rng.scoped(0, "entry"):
        made = new_network(ENTRY)
        with torch.no_grad():
            made(torch.rand(4, 3, 32, 32))
            # So that it does not answer always the same, and attacks succeed soon.
            made.linear.bias.sub_(made.eval()(torch.rand(8, 3, 32, 32)).mean(0))  # type: ignore[operator, union-attr]
    return made


@pytest.fixture(scope="session")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as their authors wrote them: within a checkpoint, from several GPUs, beside a number of numpy."""
    path = tmp_path_factory.mktemp("released") / "weights.pt"
    state = {f"module.{name}": each for name, each in network.state_dict().items()}
    torch.save({"state_dict": state, "accuracy": np.float64(52.48)}, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Four test images of ten classes."""
    return toy_data(tmp_path / "toy.npz", images=(20, 4), classes=10, side=32, contrast=0)


def test_the_stand_ins_are_there_for_the_import_alone(network: nn.Module) -> None:
    assert "robustbench.eval" in sys.modules
    assert not {"pkg_resources", "autoattack", "autoattack.state"} & sys.modules.keys()


def test_a_released_file_gives_the_network_of_the_package(network: nn.Module, file: Path, tmp_path: Path) -> None:
    loaded = released_network(ENTRY, tmp_path, file)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
    assert not loaded.training
    from_python = bench.load_encoder(ENTRY.origin, weights=file)
    with torch.no_grad():
        assert torch.equal(from_python(images), network(images))
    with pytest.raises(BenchError, match=r"none\.pt is not a file"):
        bench.load_encoder(ENTRY.origin, weights=tmp_path / "none.pt")


def test_a_classifier_is_judged_as_released(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    network: nn.Module,
    file: Path,
    data: str,
) -> None:
    command = ["evaluate", ENTRY.origin, "--weights", str(file), "--dataset", data, "--device", "cpu", "--json"]
    command += ["--set", "evaluate.autoattack_images=3", "--set", "evaluate.pgd_steps=1"]
    folders = {f"--{folder}-dir": str(tmp_path / folder) for folder in ("runs", "results", "data")}
    command += [word for option in folders.items() for word in option]
    shorten(monkeypatch)
    code, out, err = say(monkeypatch, capsys, *command)
    assert code == 0, err
    (record,) = (Record(**each) for each in json.loads(out))
    assert (record.method, record.title, record.year) == ("imported", f"RobustBench Linf, {NAME}", 2022)
    assert (record.protocol, record.fidelity) == ("released", "native")
    assert {"evaluate:sa", "evaluate:ra", "evaluate:aa"} <= record.cost.keys()
    assert all(phase.startswith("evaluate:") for phase in record.cost), "nothing is trained"
    assert record.recipe["encoder"]["arch"] == ENTRY.origin
    assert record.ra.eps == pytest.approx(8 / 255)
    arrays = np.load(data.partition(":")[2])
    images = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        answers = network(images).argmax(1)
    assert record.sa.unpack() == (answers.numpy() == arrays["y_test"]).tolist()
    assert record.aa is not None
    ours = auto_attack(
        network,
        images[:3],
        torch.from_numpy(arrays["y_test"][:3]),
        threat=Threat(eps=record.aa.eps),
        num_classes=10,
        seed=0,
        batch_size=3,
    )
    assert record.aa.outcome.unpack() == ours.robust.tolist()
    (finished,) = finished_in(next((tmp_path / "runs").iterdir()))
    with torch.no_grad():
        again = finished.classifier(torch.device("cpu"))(images)
        torch.testing.assert_close(again, network(images))
    table = say(monkeypatch, capsys, "leaderboard", "--results-dir", str(tmp_path / "results")).stdout
    assert "toy: as released, tier" in table
    again = reproduction(record).command
    assert again.startswith(f"bench evaluate {ENTRY.origin} --dataset npz:PATH --protocols released --seed 0")
    check_other_commands(lambda *words: say(monkeypatch, capsys, *words), finished, record, folders)
    check_export(monkeypatch, finished, record, tmp_path)


def check_other_commands(
    bench: Callable[..., Said], finished: Finished, record: Record, folders: Mapping[str, str]
) -> None:
    """Sweeps, figures, comparisons and the report take it like any other run."""
    runs, results, data = ((f"--{name}-dir", folders[f"--{name}-dir"]) for name in ("runs", "results", "data"))
    run, output = finished.folder.path.name, ("--output", str(Path(folders["--runs-dir"]).parent / "out"))
    asked = bench("sweep-eps", "--eps", "0", *runs, *results)
    assert (asked.code, "is judged as it was released. Type --protocol released" in asked.stderr) == (1, True)
    for words in (("sweep-eps", "--eps", "0,8/255", "--steps", "1"), ("sweep-steps", "--steps", "1,2")):
        swept = bench(*words, "--protocol", "released", "--device", "cpu", "--json", *runs, *results, *data)
        assert swept.code == 0, swept.stderr
        assert NAME in swept.stdout
    save_record(Path(results[1]), record.model_copy(update={"seed": 1}))
    names = [path.stem for path in Path(results[1]).glob("toy/*.json")]
    compared = bench("compare", *names, *results)
    assert (compared.code, NAME in compared.stdout) == (0, True), compared.stderr
    for figure in ("eps", "steps"):
        assert bench("plot", figure, *results, *output).code == 0
    reported = bench("report", run, "--output", f"{output[1]}/report", "--device", "cpu", *runs, *data)
    assert reported.code == 0, reported.stderr
    text = Path(output[1], "report", "report.md").read_text()
    assert "## as released" in text
    assert "### Training" not in text, "nothing was trained"


def check_export(monkeypatch: pytest.MonkeyPatch, finished: Finished, record: Record, folder: Path) -> None:
    def noting(model: Model, folder: Path) -> Loading:
        assert (model.classes, model.output) == (10, "logits")
        return Loading("", "pytorch", "torch", ())

    monkeypatch.setattr("bench.report.model_export.write.FORMATS", {"noting": noting})
    write_export(
        finished.folder.path.parent, finished.folder.path.name, folder / "exported", to="noting", results_dir=folder
    )
    card = (folder / "exported" / "README.md").read_text()
    assert f"A classifier of 10 classes: {ENTRY.origin}. It takes images of 3 x 32 x 32" in card
    assert f"| as released | {record.dataset} | SA | clean images | 4 | {100 * record.sa.accuracy:.1f} |" in card


def test_the_numbers_of_an_entry_are_quoted_with_their_source() -> None:
    number = headline(load_published(Path("none")), title=ENTRY.title, dataset="cifar10", protocol="released")
    assert number is not None
    assert (number.sa, number.aa, number.source) == (85.71, 52.48, "RobustBench, model_info at 78fcc9e")
    assert not [each for each in load_published(Path("none")) if each.protocol == "released"], "a board of its own"


def test_the_board_shows_them_beside_ours_in_a_table_of_its_own(tmp_path: Path) -> None:
    ours = make_record(method="imported", title=ENTRY.title, protocol="released", fidelity="native")
    recipe = {**ours.recipe, "dataset": {**ours.recipe["dataset"], "published_as": "cifar10"}}
    save_record(tmp_path, ours.model_copy(update={"recipe": recipe}))
    save_record(tmp_path, make_record(method="deacl", protocol="aff", fidelity="native"))
    board = render_leaderboard(build_leaderboard(tmp_path), records_at="results")
    header, _, row = next(part for part in board.split("### ") if "as released" in part).split("\n\n")[1].splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert (cells["*Published AA*"], cells["*Published SA*"]) == ("*52.48*", "*85.71*")
    assert "DeACL" not in row


def test_bench_list_names_them_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(say(monkeypatch, capsys, "list", "robustbench", "--json").stdout)
    assert len(listed) == len(entries()) == 206
    for columns in (80, 200):
        shown = say(monkeypatch, capsys, "list", "robustbench", "--dataset", "cifar10", columns=columns).stdout
        assert "robustbench:cifar10/Linf/NAME" in shown
        (row,) = (line for line in shown.splitlines() if f" {NAME} " in line)
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        assert cells == [NAME, "8/255", "85.71", "52.48", "ResNet-18"][: 4 if columns == 80 else 5]
        assert "not here: Bai2023Improving_edm, its network is made on a GPU" in shown
    said = say(monkeypatch, capsys, "list", "methods")
    assert said.code == 1
    assert "unknown collection 'methods'. Allowed: robustbench. `bench methods`, " in " ".join(said.stderr.split())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> list[str]:
    """What arrives in place of a download: the text in the list, or no network if it is empty."""
    page: list[str] = []

    def download(*, id: str, output: str, quiet: bool) -> None:
        if not page:
            raise ConnectionError(f"HTTPSConnectionPool({'x' * 300}: (Caused by OSError('no route to host')))")
        Path(output).write_text(page[0])

    monkeypatch.setattr(package.robustbench_package().utils.gdown, "download", download)
    return page


def test_without_a_network_the_message_says_where_to_put_the_file(offline: list[str], tmp_path: Path) -> None:
    path = tmp_path / "cifar10" / "Linf" / f"{NAME}.pt"
    whole = rf"no route to host'\){{4}}\. Open .*uc\?id=.*save the file as {path}, or anywhere and type"
    with pytest.raises(BenchError, match=whole):
        released_network(ENTRY, tmp_path)
    offline.append("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(BenchError, match=r"is a web page \('Sign in'\)"):
        released_network(ENTRY, tmp_path)
    kept = [each.name for each in tmp_path.rglob("*") if each.is_file()]
    assert kept == [f".{NAME}.pt.lock"], "a page is never kept as weights"
    assert short(ValueError("x" * 500)) == f"ValueError: {'x' * 400}..."


def test_a_second_command_waits_for_the_download_of_the_first(
    offline: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun, told = tmp_path / "cifar10" / "Linf" / f"{NAME}.pt", Event(), Queue[str]()
    monkeypatch.setattr("bench.downloads.warn", told.put)

    def download() -> None:
        with one_at_a_time(path):
            begun.set()
            assert told.get(timeout=60) == f"waiting for another process, which downloads {path}"
            shutil.copy(file, path)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(download)
        begun.wait(60)
        assert released_network(ENTRY, tmp_path).training is False, "it has the file of the first"
        first.result()


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("Addepalli2022Eficient_RN18", None, f"unknown entry of RobustBench .*Did you mean '{NAME}'"),
        (NAME, None, f"2 entries called {NAME}. Type one of: {ENTRY.origin}, robustbench:cifar100/Linf/{NAME}"),
        ("Bai2023Improving_edm", "cifar10", "cannot be evaluated here: its network is made on a GPU of NVIDIA"),
        ("imagenet/Linf/Standard_R50", None, "cannot be evaluated here: its weights are torchvision's"),
    ],
)
def test_an_entry_that_cannot_be_is_one_message(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, name: str, dataset: str | None, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BenchError, match=message):
        new_network(find_entry(name, dataset))


def test_a_file_that_does_not_fit_is_one_message(network: nn.Module, file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BenchError, match=r"a ResNet-18 for 100 classes: linear\.bias: 10, not 100; linear\.weight: 10x512"
    ):
        released_network(find_entry(f"cifar100/Linf/{NAME}"), tmp_path, file)
    with pytest.raises(BenchError, match="is made of 3 files, so --weights cannot name them"):
        released_network(find_entry("Chen2020Adversarial"), tmp_path, file)
    part = {name: each for name, each in network.state_dict().items() if name != "bn1.weight"}
    torch.save({"state_dict": part}, tmp_path / "part.pt")
    with pytest.raises(BenchError, match=r"bn1\.weight: absent, not 64"):
        released_network(ENTRY, tmp_path, tmp_path / "part.pt")
    torch.save({"optimizer": {"lr": 0.1}}, tmp_path / "other.pt")
    with pytest.raises(BenchError, match=r"the weights do not fit .* absent, not 64"):
        released_network(ENTRY, tmp_path, tmp_path / "other.pt")


def test_without_the_package_the_message_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"Type: pip install 'ssl-robustness-bench\[robustbench\]'"):
        package.robustbench_package()


def test_data_of_other_classes_or_another_size_are_refused_before_weights_are_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(released_weights, "_download", lambda *args: pytest.fail("weights were downloaded"))
    own: Any = ["--runs-dir", str(tmp_path), "--dataset"]
    code, _, err = say(monkeypatch, capsys, "evaluate", ENTRY.origin, *own, toy_data(tmp_path / "two.npz"))
    assert (code, "tells 10 classes apart, and two has 2" in " ".join(err.split())) == (1, True)
    code, _, err = say(monkeypatch, capsys, "evaluate", ENTRY.origin, *own, "digits")
    assert (code, "takes images of 3x32x32, and those of digits are 3x16x16" in " ".join(err.split())) == (1, True)


def test_an_entry_for_imagenet_is_judged_on_images_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, network: nn.Module
) -> None:
    """They are made as the package prepares them, from a copy of ImageNet that here has one image in two classes."""
    monkeypatch.chdir(tmp_path)
    draw, entry = np.random.default_rng(0), find_entry("imagenet/Linf/Salman2020Do_R18")
    for label in range(1000):
        Path("val", f"n{label:08}").mkdir(parents=True)
    originals = [Image.fromarray(draw.integers(0, 256, (300, 280, 3), dtype=np.uint8)) for _ in range(2)]
    for label, image in zip((3, 7), originals, strict=True):
        image.save(Path("val", f"n{label:08}", "1.png"))
    run_path(str(EXAMPLES / "make_imagenet_npz.py"))["main"]("val", entry.origin, "imagenet.npz")
    with rng.scoped(0, "entry"):
        theirs = new_network(entry).eval()
    state = {f"module.{name}": each for name, each in theirs[1].state_dict().items()}  # type: ignore[index]
    torch.save({"state_dict": state}, "theirs.pt")
    command = ["evaluate", entry.origin, "--weights", "theirs.pt", "--device", "cpu", "--json"]
    command += ["--set", "evaluate.autoattack=false", "--set", "evaluate.pgd_steps=1"]
    code, _, err = say(monkeypatch, capsys, *command)
    assert (code, "needs images of ImageNet, which are not downloaded" in " ".join(err.split())) == (1, True)
    code, out, err = say(monkeypatch, capsys, *command, "--dataset", "npz:imagenet.npz")
    assert code == 0, err
    (record,) = (Record(**each) for each in json.loads(out))
    assert (record.ra.eps, record.protocol, record.sa.n) == (4 / 255, "released", 2)
    shorter = [image.resize((256, int(256 * 300 / 280)), Image.Resampling.BILINEAR) for image in originals]
    pixels = [np.array(image.crop((16, 25, 240, 249))) for image in shorter]
    assert np.array_equal(np.load("imagenet.npz")["x_test"], pixels)
    with torch.no_grad():
        answers = theirs(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255).argmax(1)
    assert record.sa.unpack() == (answers == torch.tensor([3, 7])).tolist()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5)])
def test_the_radius_of_an_entry_is_that_of_its_own_norm_alone(
    tmp_path: Path, file: Path, data: str, norm: str, eps: float
) -> None:
    asked = EvaluationRequest(
        *(ENTRY.origin, data),
        overrides={"threat.norm": norm, "evaluate.autoattack": False},
        weights=WeightChoices(file),
        runs_dir=tmp_path,
        device="cpu",
    )
    threat = prepare_evaluation(asked).recipe.threat
    assert str(threat.norm) == norm
    assert threat.eps == pytest.approx(eps)
