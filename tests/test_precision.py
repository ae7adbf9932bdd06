"""Precision as one choice: from the option to every stage and protocol, the record, the row and its table."""

from pathlib import Path

import pytest
import torch
from cifar_recipes import METHOD_NAMES, recipe_of
from toy_runs import SMALL, carry_out, changed, toy_data, toy_request
from toy_stage import EPOCHS, STEPS, ToyStage, make_plan, run, stop_at

from bench.cli._options import overrides
from bench.compare import compare_records, find_seeds
from bench.device import pick_device
from bench.errors import BenchError
from bench.protocol.adversarial import divergence
from bench.recipe import DEFAULT_PROTOCOLS, Recipe
from bench.record import Record
from bench.results import build_leaderboard, load_measured
from bench.run import EvaluationRequest, RunRequest, prepare, prepare_evaluation
from bench.train import stage_progress
from bench.zoo import load_tensors


def precisions(recipe: Recipe) -> dict[str, str]:
    """Return the precision of each stage and protocol."""
    stages = {name: plan.precision for name, plan in recipe.config.plans().items()}
    return stages | {name: getattr(recipe, name).precision for name in DEFAULT_PROTOCOLS}


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_one_choice_is_that_of_every_stage_and_protocol(method: str) -> None:
    named = recipe_of("precision=bf16", "slf.preset=deacl-2024", method=method, tier="mini")
    assert set(precisions(named).values()) == {"bf16"}
    assert named.precision == "bf16"
    mixed = recipe_of("slf.precision=fp32", "precision=bf16", method=method, tier="mini")
    assert {name for name, one in precisions(mixed).items() if one == "fp32"} == {"slf"}


def test_the_precision_of_the_tier_is_no_choice() -> None:
    plain, named = recipe_of(tier="mini"), recipe_of("precision=fp32", tier="mini")
    assert named.precision is None
    assert [named.pretraining_digest(), *map(named.protocol_digest, DEFAULT_PROTOCOLS)] == [
        *(plain.pretraining_digest(), *map(plain.protocol_digest, DEFAULT_PROTOCOLS)),
    ]
    assert {precisions(recipe_of(tier="short"))["stage1"], precisions(plain)["stage1"]} == {"fp16", "fp32"}


def test_a_choice_where_papers_differ_is_another_measurement_of_the_same_encoder() -> None:
    plain, named = (recipe_of(*chosen, method="acl", tier="short") for chosen in ((), ("precision=fp32",)))
    assert precisions(plain) == precisions(named)
    assert plain.pretraining_digest() == named.pretraining_digest()
    assert plain.protocol_digest("slf") != named.protocol_digest("slf")


def test_a_wrong_precision_is_said_once() -> None:
    with pytest.raises(BenchError, match=r"precision: must be 'fp32', 'bf16' or 'fp16' \(given: 'fp8'\)$"):
        recipe_of("precision=fp8")


def test_what_is_set_overrides_the_option() -> None:
    assert overrides(None, ["stage1.precision=fp32"], "bf16") == {"precision": "bf16", "stage1.precision": "fp32"}
    assert overrides(None, None, None) == {}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records of SimCLR: one in the tier's precision, and SLF and AFF in bf16."""
    folder = tmp_path_factory.mktemp("precision")
    request = toy(folder)
    carry_out(changed(request, precision="fp32"), folder)
    carry_out(changed(toy(folder, "slf", "aff"), precision="bf16"), folder)
    return folder


def toy(folder: Path, *protocols: str) -> RunRequest:
    data = folder / "toy.npz"
    return toy_request(f"npz:{data}" if data.exists() else toy_data(data), folder, protocols=protocols or ("slf",))


def records(results: Path) -> dict[str, tuple[Path, Record]]:
    """Return the records by protocol and precision."""
    found = {path: load_measured(path).record for path in sorted(results.glob("toy/*.json"))}
    return {f"{one.protocol} {one.recipe['precision']}": (path, one) for path, one in found.items()}


def test_every_phase_of_training_ran_in_it(results: Path) -> None:
    found = records(results)
    assert found.keys() == {"slf None", "slf bf16", "aff bf16"}
    for name, (_, record) in found.items():
        trained = [ran for phase, ran in record.environments.items() if not phase.startswith("evaluate:")]
        assert len(trained) == 2
        assert {one and one.precision for ran in trained for one in ran} == {"fp32" if "None" in name else "bf16"}
        assert record.overrides.get("precision") == (None if "None" in name else "bf16")


def test_rows_of_two_precisions_never_share_a_table(results: Path) -> None:
    rows = build_leaderboard(results).rows
    assert len({row.table for row in rows}) == len(rows) == 3
    named = [row for row in rows if row.precision]
    assert all("precision bf16" in row.table.conditions and "precision=bf16" in row.label for row in named)
    assert len(named) == 2


def test_they_are_compared_only_where_that_is_asked_for(results: Path) -> None:
    found = records(results)
    a, b = (load_measured(found[name][0]) for name in ("slf None", "slf bf16"))
    with pytest.raises(BenchError, match=r"the tier's precision, B under precision bf16\. .* --across-precisions"):
        compare_records(a, b)
    assert set(compare_records(a, b, across_precisions=True).measures) == {"sa", "ra"}
    assert [one.path for one in find_seeds("simclr", results, dataset="toy", precision="bf16").seeds] == [b.path]
    with pytest.raises(BenchError, match=r"2 recipes there(?s:.*)--precision"):
        find_seeds("simclr", results, dataset="toy")
    with pytest.raises(BenchError, match=r"no records of method simclr on toy, slf, uniform, fp16\. `bench run"):
        find_seeds("simclr", results, dataset="toy", precision="fp16")


def test_evaluating_an_encoder_in_another_precision_trains_its_protocols_in_it(results: Path) -> None:
    found = {}
    for encoder in sorted(results.glob("runs/*/encoder.safetensors")):
        for asked in ("fp32", "bf16"):
            request = EvaluationRequest(encoder, overrides={"precision": asked}, runs_dir=results / "runs")
            recipe = prepare_evaluation(request).recipe
            assert {getattr(recipe, name).precision for name in DEFAULT_PROTOCOLS} == {asked}
            stage = precisions(recipe)["stage1"]
            assert ("slf.precision" in recipe.overrides_of("slf")) == (stage != asked)
            found[stage, asked] = recipe.protocol_digest("slf")
    assert len(set(found.values())) == len(found) == 4
    assert {record.protocol_sha256 for _, record in records(results).values()} >= {
        found["fp32", "fp32"],
        found["bf16", "bf16"],
    }


@pytest.mark.parametrize(("method", "what"), [("simclr", "protocol slf"), ("supervised", "protocol aff")])
def test_fp16_is_refused_on_a_cpu_before_anything_is_trained(tmp_path: Path, method: str, what: str) -> None:
    settings = {key: value for key, value in SMALL.items() if method == "simclr" or not key.startswith("stage1")}
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, method=method, protocols=None, overrides=settings)
    with pytest.raises(BenchError, match=rf"{what} trains in fp16, which needs a GPU.*--precision bf16"):
        prepare(changed(request, precision="fp16"))
    with pytest.raises(BenchError, match=r"evaluate\.attack_precision: must be 'fp32' or 'bf16' \(given: 'fp16'\)"):
        prepare(changed(request, evaluate__attack_precision="fp16"))


@pytest.mark.parametrize("stops", [[1], [STEPS + 1], [STEPS + 2, 2 * STEPS - 1]])
def test_the_scale_of_fp16_survives_every_stop(
    tmp_path: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, where it is slow but the same. The first step and a later one overflow: each halves the scale."""
    monkeypatch.setattr("bench.train.engine.refuse_precision", lambda *arguments: None)

    def stage(done: int = 0) -> ToyStage:
        made = ToyStage(make_plan(precision="fp16"))
        made.factors = {STEPS + 1 - done: 1e35}
        return made

    last = EPOCHS * STEPS - 1
    stop_at(stage(), tmp_path / "straight", last)
    done = 0
    for stop in [*stops, last]:
        stop_at(stage(done), tmp_path / "broken", stop - done)
        done = stop
    straight, broken = (stage_progress(tmp_path / name, "toy") for name in ("straight", "broken"))
    assert straight is not None
    assert broken is not None
    assert (straight.loss_scale, straight.scale_growth) == (2.0**14, last - STEPS - 1)
    assert (broken.loss_scale, broken.scale_growth) == (straight.loss_scale, straight.scale_growth)
    for name in ("straight", "broken"):
        run(stage(last), tmp_path / name)
    ends = [load_tensors(tmp_path / name / "toy.safetensors").tensors for name in ("straight", "broken")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_divergence_of_close_logits_is_not_rounded_to_bf16() -> None:
    """On a CPU autocast gives log_softmax what a product in bf16 left."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 10, generator=draw)
    close = logits + 0.01 * torch.randn(64, 10, generator=draw)
    with torch.autocast("cpu", torch.bfloat16):
        low = divergence(logits.bfloat16(), close.bfloat16())
    assert low.dtype == torch.float32
    assert low.mean() > 0


def test_fp32_is_float32_on_a_gpu_too() -> None:
    pick_device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
