"""L2 as a threat: its radius, its limits, and one run from images to the board."""

import re
from pathlib import Path
from typing import Any

import pytest
from cifar_recipes import recipe_of
from short_autoattack import shorten
from toy_runs import carry_out, changed, toy_data, toy_request
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from bench.recipe import reevaluated
from bench.recipe.threat import default_radius
from bench.record import load_record, load_sweep, record_files, sweep_files

# The radius


@pytest.mark.parametrize(("linf", "shape"), [(8 / 255, (3, 32, 32)), (16 / 255, (3, 16, 16))])
def test_cifar_and_digits_are_attacked_at_l2_one_half(linf: float, shape: tuple[int, int, int]) -> None:
    assert default_radius("l2", linf, shape) == 0.5
    assert default_radius("linf", linf, shape) == linf


def test_the_norm_brings_its_radius_and_a_set_radius_wins() -> None:
    assert recipe_of().threat.model_dump() == {"norm": "linf", "eps": 8 / 255}
    assert recipe_of("threat.norm=l2").threat.model_dump() == {"norm": "l2", "eps": 0.5}
    assert recipe_of("threat.norm=l2", "threat.eps=128/255").threat.eps == 128 / 255


def test_a_radius_is_judged_by_its_norm_wherever_it_is_set() -> None:
    for key in ("threat.eps", "evaluate.eps"):
        recipe = recipe_of("threat.norm=l2", f"{key}=2")
        assert recipe.eval_eps == 2
        with pytest.raises(BenchError, match=r"eps 2 outside \[0, 1\]; pixels are in \[0, 1\], so write 8/255"):
            recipe_of(f"{key}=2")


@pytest.mark.parametrize(
    ("before", "after", "eps"),
    [
        ((), {"threat.norm": "l2"}, 0.5),
        (("evaluate.eps=16/255",), {"threat.norm": "l2"}, 0.5),
        (("evaluate.eps=16/255",), {"threat.norm": "l2", "threat.eps": 1}, 1),
        (("evaluate.eps=16/255",), {"threat.norm": "l2", "evaluate.eps": 0.25}, 0.25),
        (("threat.norm=l2", "evaluate.eps=2"), {"threat.norm": "linf"}, 8 / 255),
        (("evaluate.eps=16/255",), {"threat.norm": "linf"}, 16 / 255),
        (("evaluate.eps=16/255",), {"threat.eps": 4 / 255}, 16 / 255),
    ],
)
def test_another_evaluation_has_no_radius_of_another_norm(
    before: tuple[str, ...], after: dict[str, Any], eps: float
) -> None:
    again = reevaluated(recipe_of(*before), overrides=after)
    assert again.downstream.eval_eps == eps
    assert again.overrides.get("evaluate.eps") == again.evaluate.eps, "the record names what counts"


# One run


SMALL: dict[str, Any] = {
    **{"threat.norm": "l2", "stage1.epochs": 1, "slf.epochs": 1, "encoder.width": 1},
    **{"evaluate.pgd_steps": 2, "evaluate.autoattack_images": 4},
}


@pytest.mark.usefixtures("doctor")
def test_the_doctor_examines_a_run_under_l2(tmp_path: Path) -> None:
    request = changed(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path), threat__norm="l2")
    ((record, _),) = carry_out(request, tmp_path / "results")
    found = {each.check: each.verdict for each in record.doctor or ()}
    assert [found[name] for name in ("inside the ball", "finite difference", "gradient stability")] == ["sound"] * 3


def test_one_run_under_l2_from_images_to_the_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)

    def bench(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    places = [f"--runs-dir={tmp_path / 'runs'}", f"--results-dir={tmp_path / 'results'}"]
    changes = [f"--set={key}={value}" for key, value in SMALL.items()]
    said = bench("run", "simclr", "--dataset=digits", "--protocols=slf", *changes, *places)
    assert "RA, PGD-2 at L2 0.5" in said
    assert "AA at L2 0.5" in said
    (path,) = record_files(tmp_path / "results")
    record = load_record(path)
    assert (record.read_recipe().downstream.threat.norm, record.ra.eps, record.ra.step_size) == ("l2", 0.5, 0.125)
    assert record.aa is not None
    assert record.aa.eps == 0.5
    said = bench("sweep-eps", "--dataset=digits", "--eps=0,0.5", "--steps=2", *places)
    assert "L2 PGD-2" in said
    assert "L2 eps" in said
    (path,) = sweep_files(tmp_path / "results")
    sweep = load_sweep(path)
    assert sweep.settings.norm == "l2"
    assert sweep.outcomes == (record.sa, record.ra.outcome)
    board = bench("leaderboard", "--format=markdown", f"--results-dir={tmp_path / 'results'}")
    assert re.search(r"SLF, tier tiny, fidelity uniform, L2 0\.5", board)
