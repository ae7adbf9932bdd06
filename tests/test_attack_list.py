"""The list of attacks: each tries what stands, keeps its own outcome, resumes after any batch, and cannot cheat."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from board_records import make_record
from evaluations import Recorder, measure
from evaluations import short_attacks as short_attacks
from torch import Tensor
from typer.testing import CliRunner

from bench.attack import ATTACKS, MinimumNorm
from bench.attack.apgd import TargetedAPGD
from bench.cli import app
from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import Evaluation
from bench.leaderboard import render_latex, render_tables
from bench.recipe import CORRUPTIONS, EvaluationSettings
from bench.record import (
    AttackList,
    CorruptionEvaluation,
    ListedAttack,
    MinimalPerturbations,
    Outcome,
    Record,
    save_record,
)
from bench.report import facts
from bench.report.figures import MinimalLine, draw_minimal, minimal_figure
from bench.report.site import write_site
from bench.results import build_leaderboard, load_records

LIST = ["pgd-cw", "min-norm", "embedding", "apgd-t"]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """Cut the packages' attacks short, as AutoAttack is: what they find is tested elsewhere."""
    list(ATTACKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACKS._entries, "min-norm", MinimumNorm(steps=8))
        patch.setitem(ATTACKS._entries, "apgd-t", TargetedAPGD(9, "logit", steps=8))
        yield


def listed(path: Path, recorder: Recorder | None = None, **changes: Any) -> Evaluation:
    values = {"attacks": LIST, "autoattack": False, "autoattack_images": 17, "eps": 0.03, **changes}
    return measure(path, recorder, **values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return listed(tmp_path_factory.mktemp("whole"))


def test_each_attack_tries_only_what_stands(whole: Evaluation) -> None:
    assert whole.attacks
    recorded = whole.attacks.attacks
    assert [one.attack for one in recorded] == LIST
    subset = recorded[0].outcome.positions(22)
    clean = dict(enumerate(whole.sa.unpack()))
    standing = [position for position in subset if clean[position]]
    right = len(standing)
    for one in recorded:
        assert one.tried == (right if one.attack == "min-norm" else len(standing))
        still = [position for position, correct in zip(subset, one.outcome.unpack(), strict=True) if correct]
        assert {*still} <= {*standing}, "what fell stays fallen"
        standing = still
    assert 0 < whole.attacks.outcome.correct < right, "else this proves nothing"
    assert whole.attacks.outcome == recorded[-1].outcome
    phases = [f"evaluate:attacks.{name}" for name in LIST]
    assert [whole.cost[phase].images for phase in phases] == [one.tried for one in recorded]
    assert all(whole.cost[phase].seconds > 0 for phase in phases)


def test_the_record_keeps_settings_and_packages(whole: Evaluation) -> None:
    assert whole.attacks
    cw, minimal, _, apgd = whole.attacks.attacks
    assert cw.settings == {"steps": 3, "step_size": 0.25, "start": "uniform", "loss": "margin"}
    assert (cw.package, cw.package_version) == (None, None)
    assert (minimal.package, apgd.package) == ("foolbox", "pyautoattack")
    assert minimal.package_version
    assert whole.attacks.eps == 0.03


def test_one_minimum_norm_run_gives_the_accuracy_at_every_radius(whole: Evaluation) -> None:
    assert whole.attacks
    found = whole.attacks.perturbations
    assert found
    right = [whole.sa.unpack()[position] for position in whole.attacks.outcome.positions(22)]
    sizes = torch.tensor(found.unpack())
    assert torch.equal(sizes > 0, torch.tensor(right)), "0 for what is wrong without an attack"
    assert found.accuracy(0) == sum(right) / len(right)
    assert found.accuracy(1) == sizes.isinf().double().mean() > 0, "infinite where so few steps found nothing"
    within = (sizes > 0) & (sizes <= 0.03)
    before, after = (one.outcome.unpack() for one in whole.attacks.attacks[:2])
    expected = torch.tensor(before) & ~within
    assert torch.equal(torch.tensor(after), expected), "the curve and the outcome are one measurement"


@pytest.mark.parametrize("stop_at", range(11, 24, 2))
def test_stopped_after_any_batch_it_continues_to_the_same_end(tmp_path: Path, whole: Evaluation, stop_at: int) -> None:
    with pytest.raises(InterruptedRunError):
        listed(tmp_path, Recorder(stop_at))
    recorder = Recorder()
    assert listed(tmp_path, recorder).attacks == whole.attacks
    assert all(recorder.counted[phase] == total for phase, total, _ in recorder.phases)


def test_the_code_of_another_packages_attack_is_part_of_the_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger_attack.py").write_text(
        "def still(model, images, labels, *, threat, generator):\n    return images\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ATTACKS._entries, "strange", "stranger_attack:still")
    ours, strange = (
        measure(tmp_path / attack, autoattack=False, attack=attack).environments["evaluate:ra"][0]
        for attack in ("pgd-cw", "strange")
    )
    assert ours
    assert strange
    assert "stranger_attack" in strange.modules
    assert strange.code != ours.code


def test_the_empty_list_is_the_evaluation_of_today(tmp_path: Path) -> None:
    assert measure(tmp_path, autoattack=False).attacks is None
    assert EvaluationSettings().digest() == EvaluationSettings(attacks=()).digest()
    assert "attacks" not in EvaluationSettings().counted()
    assert EvaluationSettings(attacks=("pgd",)).digest() != EvaluationSettings().digest()


def test_an_attack_that_leaves_the_ball_never_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def far(model: Any, images: Tensor, labels: Tensor, *, threat: Any, generator: Any) -> Tensor:
        return images.flip(0)

    monkeypatch.setitem(ATTACKS._entries, "far", far)
    with pytest.raises(BenchError, match="the attack 'far' returned an image outside the threat model"):
        listed(tmp_path, attacks=["far"])
    with pytest.raises(BenchError, match="attacks: pgd is there twice; name each attack once"):
        listed(tmp_path, attacks=["pgd", "pgd"])


def test_a_minimum_norm_attack_that_returns_rubbish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rubbish(MinimumNorm):
        def nearest(self, model: Any, images: Tensor, labels: Tensor, *, norm: Any) -> Tensor:
            return images * torch.nan

    monkeypatch.setitem(ATTACKS._entries, "min-norm", Rubbish())
    with pytest.raises(BenchError, match="the attack 'min-norm' returned an image outside the threat model"):
        listed(tmp_path, attacks=["min-norm"])


# What a record may hold


def outcome(correct: int) -> Outcome:
    return Outcome.pack([place < correct for place in range(8)], test_images=8)


def test_an_attack_of_the_list_cannot_mend_images() -> None:
    attacks = [ListedAttack(attack=name, outcome=outcome(n), tried=8) for name, n in (("a", 3), ("b", 5))]
    with pytest.raises(ValueError, match=r"cannot mend images: \[3, 5\]"):
        AttackList(eps=0.1, attacks=tuple(attacks))


def test_perturbations_survive_packing_and_refuse_an_edit() -> None:
    packed = MinimalPerturbations.pack([0.0, 0.25, torch.inf, 0.5])
    assert packed.unpack().tolist() == [0.0, 0.25, torch.inf, 0.5]
    assert packed.median == 0.5
    assert [packed.accuracy(eps) for eps in (0, 0.25, 0.3, 0.5)] == [0.75, 0.5, 0.5, 0.25]
    assert MinimalPerturbations.pack([torch.inf, 1.0]).median is None
    for change in ({"n": 5}, {"median": 0.1}, {"sizes": "AAA"}, {"sizes": packed.sizes[:8]}):
        with pytest.raises(BenchError):
            MinimalPerturbations.parse({**packed.model_dump(), **change}, "perturbations")


# What readers see


def listed_record(**changes: Any) -> Record:
    """A record of 200 images with a list of two attacks, the second of which finds minimal perturbations."""
    sizes = [0.0] * 40 + [0.01] * 80 + [0.05] * 70 + [float("inf")] * 10
    attacks = (
        ListedAttack(attack="pgd-cw", outcome=many(120), tried=160, settings={"steps": 20}),
        ListedAttack(
            attack="min-norm",
            outcome=many(80),
            tried=160,
            settings={"steps": 100},
            package="foolbox",
            package_version="3.3.4",
            perturbations=MinimalPerturbations.pack(sizes),
        ),
    )
    return make_record(attacks=AttackList(eps=8 / 255, attacks=attacks), **changes)


def many(correct: int) -> Outcome:
    return Outcome.pack([place < correct for place in range(200)], test_images=200)


def test_the_board_has_a_column_for_the_list_only_where_there_is_one(tmp_path: Path) -> None:
    save_record(tmp_path, make_record(seed=1, method="simclr", title="SimCLR"))
    assert "Attacks" not in render_tables(build_leaderboard(tmp_path), records_at=".")
    save_record(tmp_path, listed_record())
    board = build_leaderboard(tmp_path)
    header, row = (
        line for line in render_tables(board, records_at=".").splitlines() if re.match(r"\| (#|\S+ \| DeACL)", line)
    )
    assert dict(zip(header.split(" | "), row.split(" | "), strict=True))["Attacks, n=200"].startswith("40.0 [")
    assert {one["method"]: one["attacks"] for one in load_records(tmp_path)} == {"deacl": 0.4, "simclr": None}
    latex = render_latex(board, {})
    assert "Method & AA & RA, images of AA & Attacks & RA & SA & " in latex
    assert "(AA 100, Attacks 200, RA 200, SA 200)" in latex


def test_the_site_has_the_mean_over_seeds_of_the_list_on_the_board_and_each_seed_on_the_page_of_the_method(
    tmp_path: Path,
) -> None:
    results, heading = tmp_path / "results", '<th scope="col" class="n">Attacks</th>'
    save_record(results, make_record(seed=1, method="simclr", title="SimCLR"))
    pages = ("index.html", "methods/deacl.html")
    assert not any(heading in text for text in site_texts(results, pages))
    counts = {name: (120,) * 5 for name in CORRUPTIONS}
    corrupted = CorruptionEvaluation(source="files", parametrisation="C", sha256="c" * 64, n=200, correct=counts)
    for seed in range(2):
        save_record(results, listed_record(seed=seed, aa=30, corruptions=corrupted))
    index, method = site_texts(results, pages)
    for text in (index, method):
        headings = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', text[: text.index("</thead>")])
        assert headings[headings.index("Attacks") :][:4] == ["Attacks", "RA", "SA", "Corrupted"]
        assert "<b>40.0</b> <small>± 0.0</small>" in text
    seeds = re.findall(r'<tr class="seed">(.*?)</tr>', method, re.S)
    assert [re.findall(r">([0-9.]+)</a>", seed) for seed in seeds] == [["30.0", "40.0", "50.0", "80.0", "60.0"]] * 2


def site_texts(results: Path, pages: Sequence[str]) -> list[str]:
    folder = write_site(results, results.parent / "site").folder
    return [(folder / page).read_text() for page in pages]


def test_the_page_of_a_record_has_the_list_as_a_whole(tmp_path: Path) -> None:
    results = tmp_path / "results"
    save_record(results, listed_record())
    (page,) = (write_site(results, tmp_path / "site").folder / "records" / "cifar10").glob("*.html")
    headings = re.findall(r"<h3>(\w+) <small>([^<]+)</small></h3>", page.read_text())
    assert [name for name, _ in headings] == ["AA", "Attacks", "RA", "SA"]
    assert headings[1][1] == "pgd-cw + min-norm at Linf 8/255"


def test_the_facts_of_a_record_name_each_attack(tmp_path: Path) -> None:
    cw, minimal = facts.listed(listed_record())
    assert (cw.attack, cw.tried, cw.left, cw.share, cw.time, cw.what) == ("pgd-cw", 160, 120, "60.0", "", "steps=20")
    assert minimal.what == "steps=100, foolbox 3.3.4, median perturbation Linf 0.01"
    assert facts.listed(make_record()) == []


def test_the_curve_is_drawn_for_all_that_compare(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"Type bench run deacl --dataset digits --attacks min-norm"):
        draw_minimal(tmp_path / "results", tmp_path)
    for seed in (0, 1):
        save_record(tmp_path / "results", listed_record(seed=seed))
    save_record(tmp_path / "results", make_record(seed=3, method="simclr", title="SimCLR"))
    words = ["--results-dir", str(tmp_path / "results"), "--output", str(tmp_path), "--protocol", "slf", "--json"]
    drawn = CliRunner().invoke(app, ["plot", "minimal", *words])
    assert [Path(path).name for path in json.loads(drawn.stdout)] == [
        "minimal-cifar10-mini-uniform-slf-linf.png",
        "minimal-cifar10-mini-uniform-slf-linf.svg",
    ]


def test_the_curve_falls_by_each_image_at_its_size() -> None:
    sizes = np.array([0, 2 / 255, 4 / 255, np.inf], dtype="float32")
    figure = minimal_figure([MinimalLine("", sizes, 0)], norm="linf", eps=3 / 255, title="", note="")
    x, y = (np.asarray(values, dtype=float) for values in figure.axes[0].lines[0].get_data())
    assert np.allclose(x, [0, 0, 2, 4, 255 * np.quantile([0, 2 / 255, 4 / 255], 0.98)], atol=1e-4)
    assert y.tolist() == [100, 75, 50, 25, 25]
