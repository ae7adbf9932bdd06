"""The measuring scripts: what they share, and each of them at a tiny size."""

import importlib
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from short_autoattack import shorten
from torch import nn
from torch.nn import functional as F
from toy_runs import SMALL, toy_data

from bench import rng
from bench.doctor import CHECKS
from bench.recipe import override_text
from bench.record import Diagnosis, load_record

FOLDER = Path(__file__).parents[1] / "perf"


@pytest.fixture(autouse=True)
def _as_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # this process goes on with its own number


def measured(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    """What ``script`` writes; its peers count as not installed."""
    comparison = importlib.import_module("comparison")
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    return written(script, folder, monkeypatch, *options, "--rounds", "1")


def written(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    """What ``script`` writes."""
    monkeypatch.setattr(sys, "argv", [script, *options, "--output", str(folder / "measured.json")])
    importlib.import_module(script).main()
    return json.loads((folder / "measured.json").read_text())


def test_calls_take_turns_in_alternating_order_after_a_warm_up() -> None:
    called: list[str] = []
    seconds = importlib.import_module("comparison").take_turns(
        {name: lambda name=name: called.append(name) for name in "abc"}, rounds=3
    )
    assert "".join(called) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_table_has_rates_and_the_median_of_the_ratios_of_rounds() -> None:
    speeds = importlib.import_module("comparison").speeds
    seconds = {"ours": [1.0, 2.0, 10.0], "peer": [3.0, 4.0, 10.0]}
    table = speeds("A title", seconds, {"ours": 500, "peer": 250}, unit="images", ours="ours", note="A note.")
    assert table.markdown() == (
        "| A title | images/s | ours is times as fast |\n| --- | --- | --- |\n"
        "| ours | 250 |  |\n| peer | 62.5 | 4.00 (3.00 to 5.00) |\n\nA note.\n"
    )


def test_the_pages_show_what_was_recorded() -> None:
    document = importlib.import_module("document")
    for path in document.PAGES:
        page = path.read_text()
        assert document.filled(page, document.RECORDED) == page, "Type: python perf/document.py"


def test_a_page_that_differs_from_the_files_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = importlib.import_module("document")
    found = {
        "command": "python perf/one.py",
        "machine": "A machine",
        "threads": 2,
        "commit": "0123456789",
        "dirty": False,
        "finished": "2026-01-02T03:04",
        "packages": {"torch": "2", "torchvision": "1", "pyautoattack": "0"},
        "peers": {"kornia": "3"},
        "other_load": 0.5,
        "left_out": {"lightly": "it is not installed"},
        "tables": [{"title": "A table", "columns": ["", "images/s"], "rows": [["ours", 1234.5]], "note": ""}],
    }
    (tmp_path / "one.json").write_text(json.dumps(found))
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n<!-- recorded: one -->\nold\n<!-- end -->\n\nMore.\n")
    monkeypatch.setattr(document, "PAGES", [page])
    monkeypatch.setattr(document, "RECORDED", tmp_path)
    monkeypatch.setattr(sys, "argv", ["document", "--check"])
    with pytest.raises(SystemExit) as refused:
        document.main()
    assert refused.value.code == 3
    monkeypatch.setattr(sys, "argv", ["document"])
    document.main()
    assert page.read_text() == (
        "# A page\n\n<!-- recorded: one -->\n\n| A table | images/s |\n| --- | --- |\n| ours | 1,234 |\n\n"
        "`python perf/one.py` on **A machine**, 2 threads; torch 2, torchvision 1, pyautoattack 0, kornia 3; "
        "commit 012345678, 2026-01-02. Other programs kept 0.5 cores busy. All rounds: `perf/recorded/one.json`. "
        "Left out: lightly (it is not installed).\n<!-- end -->\n\nMore.\n"
    )


def test_a_grid_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("grid"), "program", lambda *words: (2.0, 1.0))
    found = measured("grid", tmp_path, monkeypatch, "--cells", "3")
    times, one, files = found["tables"]
    assert [row[1] for row in times["rows"]] == [3] * 5
    assert all(row[2] > 0 for row in times["rows"])
    assert one["rows"][-1] == ["what the worker adds", 0.0, 0.0]
    assert files["rows"][0][:2] == ["3 cells", 6]


def test_views_are_compared_and_the_file_names_machine_code_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured("views", tmp_path, monkeypatch, "--batch", "2")
    rates = {row[0]: row[1] for row in found["tables"][0]["rows"]}
    assert rates.keys() == {"ours", "PIL", "torchvision v2, image by image", "torchvision v2, one draw for 64 images"}
    assert min(rates.values()) > 0
    assert "left out: kornia (kornia is not installed)" in capsys.readouterr().out
    assert found["command"] == "python perf/views.py --batch 2 --rounds 1"
    assert found["machine"] == importlib.import_module("comparison").machine()
    assert found["threads"] == 1
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_images_from_disk_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"images": 16, "side": 16, "batch": 8, "width": 1, "workers": 0}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    loading, training = measured("streams", tmp_path, monkeypatch, *words)["tables"]
    assert [row[0] for row in loading["rows"]] == ["in memory", "folder, no worker", "webdataset, no worker"]
    assert [row[0] for row in training["rows"]] == ["in memory", "folder, no worker"]
    assert min(row[1] for table in (loading, training) for row in table["rows"]) > 0


def test_training_steps_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = measured("training", tmp_path, monkeypatch, "--widths", "16", "--batches", "2", "--bf16")
    deacl, simclr = training["tables"]
    ours = ["ours", "ours, bf16"]
    assert [row[0] for row in deacl["rows"]] == [*ours, "plain transcription", "the same, channels-last"]
    assert [row[0] for row in simclr["rows"]] == ours
    assert [len(row) for row in deacl["rows"]] == [len(deacl["columns"])] * 4
    assert training["left_out"] == {"SimCLR with lightly": "lightly is not installed"}
    assert all(len(values) == 1 for table in training["seconds"].values() for values in table.values())


def test_two_processes_are_compared_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("devices", tmp_path, monkeypatch, "--methods", "simclr", "--width", "1", "--batch", "4")
    for table in found["tables"]:
        assert [row[0] for row in table["rows"]] == ["1 process, 2 threads", "2 processes"]
        figures = found["values"][table["title"]]
        assert figures["share"] == figures["alone"][0] / figures["shared"][0] > 0
    assert [table["title"].split(",")[0] for table in found["tables"]] == ["simclr", "PGD-20"]


def test_the_transcription_of_deacl_has_our_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {name: importlib.import_module(name) for name in ("training", "plain")}
    stage = scripts["training"].stage_of("deacl", 16, 2, "stage2")
    images = scripts["training"].noise(2)
    transcription = scripts["training"].PlainDeACL(
        *(scripts["plain"].plain(network) for network in (stage.teacher, stage.encoder)), images
    )
    views = stage.views(images, rng.generator(0, "views"), torch.arange(2))
    again = rng.generator(0, "attack")
    noise = (8 / 255) * (2 * torch.rand(views.images.shape, generator=again) - 1)
    ours = stage(views._replace(generator=rng.generator(0, "attack"))).total
    torch.testing.assert_close(transcription.loss(views.images, noise), ours, rtol=1e-4, atol=1e-5)


def test_verdicts_of_autoattack_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    found = measured("auto_attack", tmp_path, monkeypatch, "--images", "8", "--epochs", "0")
    speed, verdicts = found["tables"]
    assert [row[0] for row in speed["rows"]] == ["ours", "pyautoattack"]
    (row,) = verdicts["rows"]
    clean, ours, package, other = map(int, row[1:])
    assert abs(ours - package) <= other <= max(clean, 1)


def test_a_law_is_fitted_to_all_points_but_the_largest() -> None:
    scaling = importlib.import_module("scaling")
    law = scaling.Law("A law", {}, (scaling.ONE, scaling.SQUARE))
    values = {x: 3 + 0.5 * x * x for x in (2, 4, 8)} | {16: 2 * (3 + 0.5 * 16 * 16)}
    assert scaling.row(law, values, law.time)[:4] == ["A law", "2, 4, 8, 16", "5, 11, 35, 262", "3 + 0.5 x²"]
    assert scaling.row(law, values, law.time)[4] == pytest.approx(2)


def test_laws_of_time_and_memory_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    scaling = importlib.import_module("scaling")
    one, x = scaling.ONE, scaling.X
    attacks = {count: scaling.attack(count, steps=1, width=1, batch=2, side=8) for count in (2, 4, 8)}
    steps = {batch: scaling.training(batch, width=1) for batch in (2, 4, 8)}
    autoattacks = {classes: scaling.autoattack(2, classes, side=4) for classes in (4, 5)}
    laws = {
        "images": scaling.Law("images", attacks, (one, x), (one,)),
        "batch": scaling.Law("batch", steps, (one, x), (one, x)),
        "classes": scaling.Law("classes", autoattacks, (one, scaling.TARGETS), long=True),
    }
    monkeypatch.setattr(scaling, "LAWS", {name: lambda law=law: law for name, law in laws.items()})
    time, memory = measured("scaling", tmp_path, monkeypatch)["tables"]
    assert [row[0] for row in time["rows"]] == ["images", "batch", "classes"]
    of_images, of_batch = memory["rows"]
    assert of_images[4] == pytest.approx(1, abs=0.2)  # in batches, memory hardly grows with the images
    assert of_batch[4] == pytest.approx(1, abs=0.1)


def test_attacks_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("pgd", tmp_path, monkeypatch, "--widths", "16", "--batches", "2", "--steps", "1", "--bf16")
    usual, kept = found["tables"]
    loops = ["plain loop", "the same, channels-last", ".backward() loop"]
    assert [row[0] for row in usual["rows"]] == ["ours", "ours, bf16", *loops]
    assert usual["columns"] == ["", "images/s", "ours is times as fast", "in bf16", "of the limit"]
    assert [row[0] for row in kept["rows"]] == [row[0] for row in usual["rows"]]
    assert found["left_out"] == {name: f"{name} is not installed" for name in ("torchattacks", "foolbox")}


def test_the_plain_loop_is_our_attack() -> None:
    pgd, plain = (importlib.import_module(name) for name in ("pgd", "plain"))
    classifier = pgd.classifier_of(16).double()
    images, labels = torch.rand(2, 3, 32, 32, generator=rng.generator(0, "images")).double(), torch.arange(2)
    noise = torch.rand(images.shape, generator=rng.generator(0, "perf"), dtype=torch.float64)
    noise = pgd.EPS * (2 * noise - 1)
    theirs = pgd.plain_loop(plain.plain(classifier).double().eval(), images, labels, 2, noise)
    ours = pgd.ours(classifier, images, labels, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_rounded_products_are_those_of_bf16_arithmetic() -> None:
    """The forward pass gives the very bits of PyTorch's emulation, and gradients are as near to float32's."""
    products = importlib.import_module("rounded").RoundedProducts
    with rng.scoped(0, "weights"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 4))
    images, labels = torch.rand(16, 3, 8, 8, generator=rng.generator(0, "images")), torch.arange(16) % 4

    def passed(mode: AbstractContextManager[object], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        with mode, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = net(images)
            loss = F.cross_entropy(logits, labels)
        with mode:
            gradients = torch.autograd.grad(loss, list(net.parameters()))
        return logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    (_, exact) = passed(nullcontext(), torch.float32)
    emulated, rounded = passed(nullcontext(), torch.bfloat16), passed(products(), torch.bfloat16)
    assert rounded[0].dtype == torch.bfloat16
    assert torch.equal(emulated[0], rounded[0])
    far, also = ((gradient - exact).norm() / exact.norm() for _, gradient in (emulated, rounded))
    assert 0 < also < 1.2 * far < 0.1


def test_precisions_of_training_and_of_attacks_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    small = {**SMALL, "slf.epochs": 1, "encoder.width": 2}
    sets = [word for key, value in small.items() for word in ("--set", override_text(key, value))]
    options = ["--methods", "simclr", "--dataset", toy_data(tmp_path / "toy.npz", classes=4), "--tier", "mini"]
    found = written(
        "precision", tmp_path, monkeypatch, *options, "--rounded", "--seeds", "0,1", *sets, "--folder", str(tmp_path)
    )
    losses, accuracies = found["tables"]
    assert [row[:4] for row in losses["rows"]] == [["simclr", "ssl", 2, 2], ["simclr", "slf", 1, 2]]
    assert all(0 < last <= largest for _, _, _, _, largest, last, *_ in losses["rows"])
    assert [row[1] for row in accuracies["rows"]] == ["SA", "RA"]
    assert {row[-1] for row in accuracies["rows"]} <= {"yes", "no"}
    run = next((tmp_path / "runs").glob("toy-simclr-*-s0-*"))
    options = [str(run / "encoder.safetensors"), "--autoattack-images", "4", "--folder", str(tmp_path / "attacks")]
    *_, table = written("attack_precision", tmp_path, monkeypatch, *options, "--device", "cpu", "--rounds", "1")[
        "tables"
    ]
    assert [row[1:3] for row in table["rows"]] == [["PGD-2", "16"], ["AutoAttack", "4"]]
    for row in table["rows"]:
        exact, low, differ, only_exact, only_low = map(int, row[3:8])
        assert differ == only_exact + only_low
        assert low - exact == only_exact - only_low


def test_candidates_for_a_tier_differ_in_width_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {key: value for key, value in SMALL.items() if key not in ("encoder.width", "stage1.epochs")}
    sets = [word for key, value in small.items() for word in ("--set", override_text(key, value))]
    options = ["--dataset", toy_data(tmp_path / "toy.npz", classes=4), "--methods", "simclr", *sets]
    candidates = ["--candidates", "1:0.001", "1:0.002", "2:0.001", "--folder", str(tmp_path / "runs")]
    (table,) = written("tiers", tmp_path, monkeypatch, *options, *candidates)["tables"]
    assert [row[:3] for row in table["rows"]] == [
        [1, "x 0.001", "simclr"],
        [1, "x 0.002", "simclr"],
        [2, "x 0.001", "simclr"],
    ]
    one, longer, wider = (row[-1] for row in table["rows"])
    assert longer == pytest.approx(2 * one)
    assert wider > 1.5 * one
    assert all(0 <= accuracy <= 100 for row in table["rows"] for accuracy in row[3:6])


def test_an_attack_of_the_suite_is_counted_beside_autoattack_both_ways() -> None:
    attacks = importlib.import_module("attacks")
    official, found = torch.tensor([True, True, False, False, False]), torch.tensor([True, False, True, True, False])
    assert attacks.counts(official, found) == ["3", "1", "2"]


def test_a_row_on_the_doctor_names_what_fails_what_doubts_and_what_a_deep_visit_adds() -> None:
    doctor = importlib.import_module("doctor")
    usual = [Diagnosis(check="a", verdict="fail", found="x"), Diagnosis(check="b", verdict="doubt", found="x")]
    deep = [*usual, Diagnosis(check="c", verdict="doubt", found="x"), Diagnosis(check="d", verdict="note", found="x")]
    assert doctor.found(usual, deep) == ["a", "b", "c (doubt)"]


def test_the_doctor_gives_published_records_one_verdict_each() -> None:
    doctor = importlib.import_module("doctor")
    records = sorted((FOLDER.parent / "results").glob("cifar10-exact/*.json"))
    table = doctor.published(records)
    counts = {row[0]: row[1:] for row in table.rows}
    assert counts.keys() == {"RA and AA", "black-box attack"}
    without_aa = sum(load_record(path).aa is None for path in records)  # to which neither check applies
    assert all(sum(row) == len(records) and row[2:] == [0, 0, without_aa] for row in counts.values())


def test_a_picture_has_a_sound_panel_and_a_broken_one() -> None:
    pictures = importlib.import_module("doctor_pictures")
    ramp = torch.arange(5.0)
    for draw, values in ((pictures.points, (ramp, ramp)), (pictures.histogram, ramp), (pictures.bars, {"a bar": 0.25})):
        svg = pictures.drawn(pictures.Picture(draw, values, values, "a sabotage", "x", "y")).decode()
        assert "<svg" in svg
        assert "a sabotage" in svg
        assert "sound" in svg
    assert set(pictures.PICTURES) <= {each.name for family in CHECKS.values() for each in family}
    assert all((pictures.FOLDER / f"{name.replace(' ', '-')}.svg").is_file() for name in pictures.PICTURES)
