"""AdvCL: pseudo-labels, refusals, and training with interruptions."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from advcl_stages import batches_seen, built, context, labelled_stage, recipe_of, views_of
from torch import Tensor
from toy_runs import SMALL as TOY_SETTINGS
from toy_runs import toy_data, toy_request
from toy_stage import StopAfter

from bench import rng
from bench.data import ImagesOnDevice
from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.nn import build_encoder
from bench.report.reproduce import reproduction
from bench.run import execute, prepare
from bench.run.command import to_finish
from bench.train import train
from bench.zoo import load_tensors
from methods.advcl import AdvCL, AdvCLConfig, AdvCLStage

# Pseudo-labels


def test_kmeans_comes_after_an_ssl_stage_and_labels_come_with_training() -> None:
    recipe = recipe_of()
    ctx = context(recipe)
    (ssl, stage), method = built(recipe, ctx)
    assert (ssl.name, stage.name) == ("ssl", "advcl")
    assert isinstance(stage, AdvCLStage)
    assert [head.out_features for head in stage.classifiers] == [2, 3]
    assert stage.labels.eq(-1).all(), "nothing is clustered for a projection"
    assert stage.train()(views_of(stage, ctx)).total.isnan(), "nor does anyone train on what is not there"
    stage.before_training(ImagesOnDevice(ctx.images, ctx.device))
    assert [row.unique().tolist() for row in stage.labels] == [[0, 1], [0, 1, 2]]
    assert method.result() is stage.encoder


def test_without_pseudo_labels_nothing_reaches_the_third_branch() -> None:
    stage, ctx = labelled_stage(pseudo_labels="none")
    assert len(built(recipe_of(pseudo_labels="none"), ctx)[0]) == 1
    loss = stage(views_of(stage, ctx))
    loss.total.backward()
    assert batches_seen(stage.encoder) == {6}
    assert batches_seen(stage.pgd_ce) == {0}
    assert loss.total.isfinite()
    assert all(p.grad is None for name, p in stage.pgd_ce.named_parameters() if "bn" in name)


def test_labels_of_a_file_are_used_and_named_by_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    official = {"k2": np.arange(40) % 2, "k3": np.arange(40) % 3}
    np.savez(path, **official)  # type: ignore[arg-type]
    recipe = recipe_of(pseudo_labels=f"file:{path}")
    index = torch.arange(12) * 3 + 2
    (stage,), _ = built(recipe, context(recipe, index=index))
    stage.before_training(ImagesOnDevice(torch.zeros(12, 3, 8, 8), torch.device("cpu")))
    assert isinstance(stage, AdvCLStage)
    assert stage.labels.tolist() == [(index % 2).tolist(), (index % 3).tolist()]
    assert isinstance(recipe.config, AdvCLConfig)
    digest = recipe.config.pseudo_labels_sha256
    assert digest is not None
    assert recipe_of(pseudo_labels=f"file:{path}", pseudo_labels_sha256=digest).config == recipe.config
    np.savez(path, k2=official["k2"], k3=official["k3"][::-1])
    assert recipe_of(pseudo_labels=f"file:{path}").pretraining_digest() != recipe.pretraining_digest()
    with pytest.raises(BenchError, match=f"not those of this run: .* the recipe has {digest}"):
        built(recipe, context(recipe, index=index))
    path.unlink()  # an encoder is judged where its labels are not
    assert recipe_of(pseudo_labels=f"file:{path}", pseudo_labels_sha256=digest).config == recipe.config
    os.mkfifo(path)
    with pytest.raises(BenchError, match=r"cannot read the pseudo-labels in .*: there is no such file"):
        recipe_of(pseudo_labels=f"file:{path}")


def test_no_folder_of_the_labels_is_in_a_record_or_its_digests(tmp_path: Path) -> None:
    results, folders = tmp_path / "results", [tmp_path / "ours", tmp_path / "theirs"]
    data = toy_data(tmp_path / "toy.npz")
    runs = []
    for folder in folders:
        folder.mkdir()
        np.savez(folder / "labels.npz", k2=np.arange(24) % 2)
        labels = {
            "pseudo_labels": f"file:{folder / 'labels.npz'}",
            "stage2.clusters": [2],
            "stage2.epochs": 1,
            "stage2.batch_size": 8,
            "stage2.steps": 1,
        }
        request = toy_request(data, tmp_path, method="advcl", overrides={**TOY_SETTINGS, **labels})
        runs.append(prepare(request))
    assert runs[0].folder.path == runs[1].folder.path
    ((record, path),) = execute(runs[0], results)
    assert str(tmp_path) not in path.read_text()
    assert record.overrides["pseudo_labels"] == "file:labels.npz"
    folders[0].joinpath("labels.npz").unlink()
    assert execute(runs[1], results) == [(record, path)], "read again, from the other folder"
    runs[1].folder.encoder.unlink()
    assert f" --set pseudo_labels=file:{folders[1] / 'labels.npz'} " in to_finish(runs[1].folder.path)
    digest = record.recipe["config"]["pseudo_labels_sha256"]
    said = f"pseudo_labels=file:labels.npz stands for your copy of that file, of SHA-256 {digest}."
    assert said in reproduction(record).notes


def test_fewer_clusters_than_the_recipe_has_are_told_once(tmp_path: Path) -> None:
    data, labels = toy_data(tmp_path / "toy.npz"), tmp_path / "labels.npz"
    np.savez(labels, k50=np.arange(24))
    settings = {**TOY_SETTINGS, "stage2.batch_size": 8, "stage2.clusters": [2, 10, 50, 100]}
    with pytest.warns(UserWarning, match="clusters") as told:
        run = prepare(toy_request(data, tmp_path, method="advcl", overrides=settings))
    assert [str(one.message) for one in told] == [
        "stage2.clusters 50, 100: more than half of the 24 training images. 12 clusters are made instead of each, and "
        "the recipe does not say so. For each number once, type --set stage2.clusters=[2,10,12]"
    ]
    assert not [*run.recipe.config.remarks(200)]
    for other in ({"stage2.clusters": [2, 10, 12]}, {"pseudo_labels": "none"}, {"pseudo_labels": f"file:{labels}"}):
        recipe = recipe_of(**{key.replace(".", "__"): value for key, value in {**settings, **other}.items()})
        assert not [*recipe.config.remarks(24)]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        *(({"pseudo_labels": bad}, "must be kmeans, none or file:PATH") for bad in (True, "kmean", "file:")),
        (
            {"pseudo_labels": "file:/no/such.npz"},
            r"^recipe of tier \w+: cannot read the pseudo-labels in /no/such\.npz: there is no such file$",
        ),
        ({"stage2__clusters": [1]}, r"stage2\.clusters\.0"),
        ({"stage2__clusters": []}, r"stage2\.clusters"),
        ({"pseudo_labels_sha256": "ab"}, "pseudo_labels 'kmeans' are in no file"),
    ],
)
def test_settings_out_of_range_are_refused(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        recipe_of(**sets)


# Training


def run(folder: Path, *, stop_advcl_after: int = 10**6) -> AdvCL:
    """Train all stages in ``folder``, or load them; the last is stopped after so many batches."""
    recipe = recipe_of()
    ctx = context(recipe)
    assert isinstance(recipe.config, AdvCLConfig)
    method = AdvCL(recipe.config)
    for stage in method.stages(ctx):
        told = StopAfter(stop_advcl_after if stage.name == "advcl" else 10**6)
        progress = train(stage, ctx.images, Job(folder, "me", 7, ctx.device, told))
        assert all(math.isfinite(entry["loss"]) for entry in progress.history)
    return method


def test_training_changes_the_encoder_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    """Two epochs of three batches, interrupted after the first step and after the fourth."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(whole).result().state_dict()
    for batches in (1, 3):
        with pytest.raises(InterruptedRunError):
            run(parts, stop_advcl_after=batches)
    found = run(parts).result().state_dict()
    fresh = context(recipe_of()).new_encoder("advcl").state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert not torch.equal(expected["backbone.conv1.weight"], fresh["backbone.conv1.weight"])
    first, second = advcl_state(whole), advcl_state(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["stage.labels"].min() == 0


def advcl_state(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder / "advcl.safetensors").tensors


def test_the_result_is_the_adversarial_branch_as_a_plain_encoder(tmp_path: Path) -> None:
    method = run(tmp_path)
    recipe = recipe_of()
    facts = recipe.dataset
    plain = build_encoder(recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)
    plain.load_state_dict(method.result().state_dict())
    images = torch.rand(4, 3, 16, 16, generator=rng.generator(0, "probe"))
    state = {name.removeprefix("stage.encoder."): value for name, value in advcl_state(tmp_path).items()}
    with torch.no_grad():
        features = method.result().eval()(images)
        torch.testing.assert_close(plain.eval()(images), features, atol=1e-6, rtol=0)
    statistic = "backbone.layer4.1.bn2.running_mean"
    assert torch.equal(state[statistic], plain.state_dict()[statistic])
    assert not torch.equal(state["stage.normal." + statistic], plain.state_dict()[statistic])
