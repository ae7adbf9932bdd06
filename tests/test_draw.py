"""Figures from results: what compares shares one, what does not has its own, and mistakes are said."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from site_records import add, fill, template
from test_sweep_record import STEPS, make_sweep, outcome
from toy_runs import changed, toy_data, toy_request
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from bench.record import save_sweep, wilson_interval
from bench.report.figures import Choice, draw_cost, draw_curves, draw_sweeps, draw_tsne, tsne
from bench.report.figures import draw as drawing
from bench.report.figures.curves import curves_figure
from bench.report.figures.style import COLOURS, mark
from bench.report.figures.words import band, file_name, free_name
from bench.results import Score
from bench.run import execute, prepare, select_finished

CPU = torch.device("cpu")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what the rendering functions were given, in order."""
    calls: list[dict[str, Any]] = []
    for name in ("sweep_figure", "cost_figure", "curves_figure"):
        render = getattr(drawing, name)

        def spy(data: Any, *rest: Any, render: Any = render, **words: Any) -> Any:
            calls.append({"data": data, "rest": rest, **words})
            return render(data, *rest, **words)

        monkeypatch.setattr(drawing, name, spy)
    return calls


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the files of figures empty: for tests of which figures there are, and not of how they look."""
    monkeypatch.setattr("bench.report.figures.style.encoded", lambda figure, kind: b"")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return results with sweeps of two methods, one of them with two seeds."""
    folder = tmp_path / "results"
    for seed, last in ((0, (0, 1)), (1, (0, 1, 2, 3))):
        outcomes = (outcome(0, 1, 2, 3, 4), outcome(*last), outcome(0))
        save_sweep(folder, make_sweep(seed=seed, classifier_sha256=str(seed) * 64, outcomes=outcomes))
    save_sweep(folder, make_sweep(method="acl", title="ACL", year=2020, classifier_sha256="a" * 64))
    return folder


def test_seeds_share_a_line_of_their_mean(results: Path, tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    found = draw_sweeps(results, tmp_path / "out", "eps")
    assert [path.name for path in found.files] == ["eps-digits-tiny-uniform-slf.png", "eps-digits-tiny-uniform-slf.svg"]
    (call,) = drawn
    lines = {line.label: line for line in call["data"]}
    assert lines.keys() == {"DeACL 2022, 2 seeds", "ACL 2020"}
    mean, low, high = lines["DeACL 2022, 2 seeds"].bands[1]
    assert (mean, low, high) == pytest.approx((30, 30 - 200**0.5, 30 + 200**0.5))  # of 20 and 40
    assert lines["DeACL 2022, 2 seeds"].bands[2] == (10, 10, 10)
    assert lines["ACL 2020"].bands[1] == pytest.approx((20, *(100 * end for end in outcome(0, 1).interval)))
    assert call["note"].endswith(
        "bands: 95 % interval over 10 images; of several seeds, one standard deviation over seeds"
    )
    assert call["title"] == "digits, tiny, SLF: accuracy under Linf PGD-20"


@pytest.mark.usefixtures("blank")
def test_what_does_not_compare_has_a_figure_of_its_own(results: Path, tmp_path: Path) -> None:
    finer = make_sweep().settings.model_copy(update={"eps": (0.0, 1 / 255, 2 / 255)})
    changes: list[dict[str, Any]] = [
        {"dataset": "cifar10"},
        {"tier": "mini"},
        {"fidelity": "native"},
        {"protocol": "alf"},
        {"pretrained_on": "stl10"},
        {"settings": finer},
    ]
    for number, change in enumerate(changes):
        save_sweep(results, make_sweep(classifier_sha256=f"{number:x}f" * 32, **change))
    found = draw_sweeps(results, tmp_path / "out", "eps")
    names = {path.stem for path in found.files}
    assert len(found.files) == 2 * len(names) == 2 * (1 + len(changes))
    assert {"eps-cifar10-tiny-uniform-slf", "eps-stl10-to-digits-tiny-uniform-slf"} <= names
    assert len([name for name in names if name.startswith("eps-digits-tiny-uniform-slf")]) == 2
    chosen = draw_sweeps(results, tmp_path / "out", "eps", Choice("digits", "alf")).files
    assert {path.stem for path in chosen} == {"eps-digits-tiny-uniform-alf"}


def test_steps_and_eps_are_drawn_apart(results: Path, tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    last = (outcome(0, 1), outcome(0, 1), outcome(0))
    save_sweep(results, make_sweep(settings=STEPS, outcomes=last, worst=last))
    draw_sweeps(results, tmp_path / "out", "steps")
    (call,) = drawn
    assert call["rest"] == ((1, 5, 20),)
    assert call["title"].endswith("accuracy under PGD at Linf 8/255")


@pytest.mark.usefixtures("blank")
def test_a_method_has_one_mark_in_all_figures(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    results, out = fill(tmp_path / "results"), tmp_path / "out"
    add(results, template(), method="acl", title="ACL", year=2020, protocol_sha256="d" * 64)
    add(results, template(), method="aaa+12345678", title="AAA", year=2030, protocol_sha256="e" * 64)
    add(results, template(), protocol_sha256="f" * 64, overrides={"stage2.lam": 3})
    slf = Choice(protocol="slf")
    draw_sweeps(results, out, "eps", slf)
    draw_cost(results, out, slf)
    for choice in (slf, Choice(protocol="slf", method="simclr")):
        draw_cost(results, out, choice, time=True)
    plain = [[one for one in call["data"] if "(" not in one.label] for call in drawn]
    marks = [{one.label.partition(",")[0]: mark(one.mark) for one in points} for points in plain]
    assert [len(found) for found in marks] == [2, 3, 3, 1]
    assert all(marks[1][name] == style for found in marks for name, style in found.items())
    assert len({style[:2] for style in marks[1].values()}) == 3
    labels = {one.label.replace("\n ", ""): one.mark for one in drawn[1]["data"]}
    number = labels["DeACL 2022, 3 seeds"]
    assert labels["DeACL 2022 (stage2.lam=3)"] == number + len(COLOURS)
    assert mark(number).colour == mark(number + len(COLOURS)).colour
    assert mark(number).marker != mark(number + len(COLOURS)).marker


@pytest.mark.usefixtures("blank")
def test_in_short_cost_has_the_tiers_own_recipes_with_the_same_marks(
    tmp_path: Path, drawn: list[dict[str, Any]]
) -> None:
    results, slf = fill(tmp_path / "results"), Choice(protocol="slf")
    add(results, template(), protocol_sha256="f" * 64, overrides={"stage2.lam": 3})
    whole, short = draw_cost(results, tmp_path / "out", slf), draw_cost(results, tmp_path / "out", slf, short=True)
    assert [path.stem for path in whole.files] == [path.stem.removesuffix("-short") for path in short.files]
    assert not {*whole.files} & {*short.files}
    marks = [{one.label.replace("\n ", ""): one.mark for one in call["data"]} for call in drawn]
    assert marks[0].keys() - marks[1].keys() == {"DeACL 2022 (stage2.lam=3)"}
    assert marks[1].items() <= marks[0].items()


@pytest.mark.usefixtures("blank")
def test_rows_that_have_to_share_a_mark_are_said_to(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    for rows, shared in ((13, False), (14, True)):
        results = tmp_path / str(rows)
        for number in range(rows):
            add(results, template(), protocol_sha256=f"{number:064x}", overrides={"stage2.lam": number})
        draw_cost(results, tmp_path / "out")
        assert ("; some rows share a mark" in drawn[-1]["note"]) is shared
    results, record = tmp_path / "another", template()
    evaluate = {**record.recipe["evaluate"], "pgd_steps": 10}
    add(
        *(results, record),
        ra=record.ra.model_copy(update={"steps": 10}),
        recipe={**record.recipe, "evaluate": evaluate},
    )
    assert draw_cost(results, tmp_path / "out").files
    with pytest.raises(BenchError, match="bench plot cost, without --short: all rows are of another adversary"):
        draw_cost(results, tmp_path / "out", short=True)


def test_a_damaged_sweep_is_left_out_and_named(results: Path, tmp_path: Path) -> None:
    path = next((results / "digits" / "sweeps").glob("acl-*"))
    path.write_text(path.read_text().replace("ACL", "ADCL"))
    done = CliRunner().invoke(
        app, ["plot", "eps", "--results-dir", str(results), "--output", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert f"left out digits/sweeps/{path.name}: its checksum does not match" in done.stderr
    assert all(Path(name).is_file() for name in json.loads(done.stdout))


def test_cost_has_a_point_a_recipe_and_a_figure_a_table(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    results = fill(tmp_path / "results")
    found = draw_cost(results, tmp_path / "out", Choice(protocol="slf"))
    assert {path.stem for path in found.files} == {"cost-digits-tiny-uniform-slf"}
    (call,) = drawn
    record = template()
    points = {point.label: point for point in call["data"]}
    assert points.keys() == {"DeACL 2022, 3 seeds", "SimCLR 2020"}
    assert points["SimCLR 2020"].cost == record.pretraining_flops
    assert points["SimCLR 2020"].ra.mean == 100 * record.ra.outcome.accuracy
    assert points["SimCLR 2020"].aa.mean == 5
    assert record.environment.device not in call["note"]
    timed = draw_cost(results, tmp_path / "out", Choice(protocol="slf"), time=True)
    assert all(path.stem.startswith("time-digits-tiny-uniform-slf-") for path in timed.files)
    assert record.environment.device.removesuffix("s") in drawn[-1]["note"]
    assert {point.cost for point in drawn[-1]["data"]} == {record.pretraining_seconds}


@pytest.mark.parametrize("n", [50, 100, 360, 1017])
def test_a_bar_never_ends_on_the_wrong_side_of_its_accuracy(n: int) -> None:
    """For 0 of 1017, Wilson's lower end is 2e-19 by rounding."""
    for correct in (0, 1, n - 1, n):
        shown = band(Score(accuracy=correct / n, std=None, interval=wilson_interval(correct, n), n=n))
        assert shown.low <= shown.mean <= shown.high


@pytest.mark.usefixtures("blank")
def test_times_of_different_machines_do_not_share_a_figure(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    record = template()
    results = tmp_path / "results"
    add(results, record)
    elsewhere = {phase: one.model_copy(update={"device": "another machine"}) for phase, one in record.cost.items()}
    add(results, record, title="SimCLR", method="simclr", protocol_sha256="a" * 64, cost=elsewhere)
    for seed, cost in enumerate((record.cost, elsewhere)):  # has operations, but no one time
        add(results, record, title="ACL", method="acl", protocol_sha256="b" * 64, seed=seed, cost=cost)
    files = draw_cost(results, tmp_path / "out", time=True).files
    assert len({path.stem for path in files}) == 2
    assert any(path.stem.endswith("-another-machine") for path in files)
    assert [len(call["data"]) for call in drawn] == [1, 1]
    assert all(call["note"].endswith("without ACL 2022, which ran on several kinds of machine") for call in drawn)
    with pytest.raises(BenchError, match=r"of acl in .*without --time: rows ran on several kinds of machine"):
        draw_cost(results, tmp_path / "out", Choice(method="acl"), time=True)
    with pytest.raises(BenchError, match=r"of dataset cifar10; there are of: digits\. Type bench run"):
        draw_cost(results, tmp_path / "out", Choice("cifar10"), time=True)
    assert {path.stem for path in draw_cost(results, tmp_path / "out").files} == {"cost-digits-tiny-uniform-slf"}


@pytest.mark.usefixtures("blank")
def test_curves_are_one_figure_a_recipe_with_its_seeds(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    results = fill(tmp_path / "results")
    found = draw_curves(results, tmp_path / "out", Choice("digits", "slf"))
    assert len(found.files) == 2 * len(drawn) == 4
    deacl = next(call for call in drawn if "DeACL" in call["title"])
    assert deacl["data"] == {f"seed {seed}": template().history for seed in range(3)}
    names = {path.stem for path in found.files}
    assert names == {"curves-digits-tiny-uniform-slf-deacl-s0-s1-s2", "curves-digits-tiny-uniform-slf-simclr-s0"}
    one = draw_curves(results, tmp_path / "out", Choice("digits", "slf", "simclr"))
    assert {path.stem for path in one.files} == {"curves-digits-tiny-uniform-slf-simclr-s0"}


@pytest.mark.usefixtures("blank")
def test_a_protocol_that_logs_nothing_has_no_curves(tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    results, record = tmp_path / "results", template()
    add(results, record, protocol="knn", protocol_sha256="a" * 64, history={"protocol:knn": []}, aa=None)
    with pytest.raises(BenchError, match="no records of training"):
        draw_curves(results, tmp_path / "out")
    add(results, record)
    assert len(draw_curves(results, tmp_path / "out").files) == 2
    assert len(drawn) == 1
    empty = {**record.history, "protocol:knn": []}
    panels = [len(curves_figure({"seed 0": history}, title="").axes) for history in (empty, record.history)]
    assert panels[0] == panels[1]


@pytest.mark.usefixtures("blank")
def test_a_name_says_what_a_figure_shows_and_a_digest_comes_with_a_collision_alone(tmp_path: Path) -> None:
    results, record = tmp_path / "results", template()
    add(results, record, protocol_sha256="a" * 64, overrides={"stage2.lam": 3})
    add(results, record, protocol_sha256="b" * 64, overrides={"stage2.lam": 4})
    add(results, record, protocol_sha256="c" * 64, recipe={**record.recipe, "budget": "2e12"})
    names = {path.stem for path in draw_curves(results, tmp_path / "out").files}
    assert names == {
        "curves-digits-tiny-uniform-slf-deacl-stage2.lam=3-s0",
        "curves-digits-tiny-uniform-slf-deacl-stage2.lam=4-s0",
        "curves-digits-tiny-uniform-slf-deacl-budget-2e12-s0",
    }
    taken = [tmp_path / "name.png"]
    assert free_name("other", "x", taken) == "other"
    assert re.fullmatch("name-[0-9a-f]{8}", free_name("name", "x", taken))


@pytest.mark.usefixtures("blank")
def test_curves_say_how_many_there_are_and_which_one_is_drawn(tmp_path: Path) -> None:
    results = fill(tmp_path / "results")
    arguments = ["--results-dir", str(results), "--output", str(tmp_path / "out"), "--method", "simclr"]
    done = CliRunner().invoke(app, ["plot", "curves", *arguments])
    assert done.exit_code == 0, done.output
    assert "training curves: 0/2 figures" in done.stderr
    assert "2/2 figures" in done.stderr
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("figure", "dataset", "message"),
    [
        ("eps", "digit", r"unknown dataset 'digit'\. Did you mean 'digits'\?"),
        ("eps", "cifar10", "no sweeps of eps of dataset cifar10; there are of: digits. Type bench sweep-eps"),
        ("steps", "letters", "no sweeps of steps on letters in .*. Type bench sweep-steps"),
        ("minimal", "letters", "no records with the attack min-norm on letters in .*. Type bench run .* min-norm"),
        ("cost", "cifar10", "no records of a pre-training of dataset cifar10; there are of: digits. Type bench run"),
        ("curves", "letters", r"unknown dataset 'letters'\. Allowed: digits"),
        ("tsne", "letters", "no run on letters in .* has a finished slf. Type bench run deacl --dataset digits"),
    ],
)
def test_nothing_to_draw_names_the_command_that_makes_it(
    tmp_path: Path, figure: str, dataset: str, message: str
) -> None:
    results = fill(tmp_path / "results")
    output = tmp_path / "out"
    source = ["--runs-dir", str(tmp_path)] if figure == "tsne" else ["--results-dir", str(results)]
    arguments = ["plot", figure, *source, "--output", str(output), "--dataset", dataset]
    done = CliRunner().invoke(app, arguments)
    with pytest.raises(BenchError, match=message):
        raise done.exception or AssertionError(done.output)
    assert not output.exists()


def test_a_files_name_has_no_blank_also_of_an_older_form_of_a_tier() -> None:
    assert file_name("cost", "digits", None, "tiny 893dbe04", "uniform", "slf", "") == (
        "cost-digits-tiny-893dbe04-uniform-slf"
    )


def test_tsne_shows_a_panel_a_run_clean_and_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz", classes=4), tmp_path, tier="tiny")
    for epochs in (1, 2):  # two recipes of one method and seed
        execute(prepare(changed(request, slf__epochs=epochs)), tmp_path / "results")
    titles: list[list[str]] = []
    render = tsne.tsne_figure

    def spy(panels: Any, *rest: Any, **words: Any) -> Any:
        titles.append([panel.title.replace("\n", " ") for panel in panels])
        return render(panels, *rest, **words)

    monkeypatch.setattr(tsne, "tsne_figure", spy)
    chosen = select_finished(tmp_path / "runs")
    where: dict[str, Any] = {"data_dir": tmp_path, "device": CPU, "images": 12}
    first = draw_tsne(chosen, tmp_path / "out", **where)
    attacked = draw_tsne(chosen, tmp_path / "out", **where, adversarial=True)
    (clean,) = {path.stem for path in first}
    assert re.fullmatch(
        r"tsne-toy-tiny-uniform-slf-RA-under-PGD-2-2-runs-[0-9a-f]{8}", clean
    )  # the settings are too many to name
    assert {path.stem for path in attacked} == {f"{clean}-attacked"}
    assert sorted(title.count("slf.epochs=1") for title in titles[0]) == [0, 1]
    assert sorted(title.count("slf.epochs=2") for title in titles[0]) == [0, 1]
    assert [title.endswith("attacked, Linf 8/255") for title in titles[1]] == [False, False, True, True]
    once, again = (draw_tsne(chosen[:1], tmp_path / name, **where)[1].read_bytes() for name in ("once", "again"))
    assert once == again != first[1].read_bytes()
    with pytest.raises(BenchError, match="t-SNE needs 4 test images or more; here are 3, of toy"):
        draw_tsne(chosen, tmp_path / "out", **where | {"images": 3})
    shutil.rmtree(tmp_path / "out")
    done = CliRunner().invoke(
        app, ["plot", "tsne", "nobody", "--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    )
    assert "unknown run 'nobody'" in str(done.exception)
    assert not (tmp_path / "out").exists()
