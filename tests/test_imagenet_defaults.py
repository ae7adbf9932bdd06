"""Own images above 64 pixels: stem, normalisation, radius and weak views are those of papers on ImageNet."""

from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_recipes import make_facts, recipe_of
from own_data import numbers
from PIL import Image
from torchvision.transforms import functional as F
from toy_runs import carry_out, changed, toy_request

from bench import rng
from bench.cost import data_like
from bench.data import load_dataset
from bench.data.views import WeakView, draw_crops, draw_events
from bench.errors import BenchError
from bench.nn import ENCODERS
from bench.recipe import DatasetFacts, reevaluated
from bench.recipe.sections import STEMMED
from bench.run import pretrained

FACTS = make_facts(conventions="imagenet", image_shape=(3, 224, 224), eps=4 / 255)
FINETUNED = ("slf", "alf", "aff", "slf-1pct", "slf-10pct")


def folder(root: Path, side: int) -> str:
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (root / place).mkdir(parents=True)
        for image in range(8):
            pixels = numbers(side, side, 3, seed=8 * number + image, high=128) + 127 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / place / f"{image}.png")
    return f"folder:{root}"


def test_the_defaults_are_those_of_imagenet() -> None:
    recipe, usual = recipe_of(facts=FACTS), recipe_of()
    assert (recipe.encoder.options, recipe.encoder.normalisation) == ({"stem": "imagenet"}, "imagenet")
    assert recipe.threat.eps == recipe.eval_eps == 4 / 255
    assert {recipe.protocol(name).crop for name in FINETUNED} == {"resized"}
    assert (usual.encoder.options, usual.encoder.normalisation) == ({}, "dataset")
    assert {usual.protocol(name).crop for name in FINETUNED} == {"padded"}
    assert "crop" not in usual.protocol("slf").counted(), "recipes of small images keep their digests"
    assert "conventions" not in usual.dataset.counted()


def test_each_default_can_be_changed() -> None:
    overrides = ("encoder.options.stem=cifar", "encoder.normalisation=none", "threat.eps=8/255", "slf.crop=padded")
    recipe = recipe_of(*overrides, facts=FACTS)
    assert (recipe.encoder.options, recipe.encoder.normalisation) == ({"stem": "cifar"}, "none")
    assert (recipe.threat.eps, recipe.protocol("slf").crop) == (8 / 255, "padded")


def test_only_networks_that_have_the_stem_get_it() -> None:
    assert {name for name in ENCODERS if "stem" in signature(ENCODERS.get(name)).parameters} == set(STEMMED)
    other = recipe_of("encoder.arch=preact-resnet18", facts=FACTS).encoder
    assert (other.options, other.normalisation) == ({}, "imagenet")
    native = recipe_of(facts=FACTS, fidelity="native").encoder
    assert (native.options, native.stem_padding, native.stem_init) == ({"stem": "imagenet"}, 1, "default")


@pytest.mark.parametrize("tier", ["paper", "mini"])
def test_a_native_network_without_the_stem_does_not_get_it(tier: str) -> None:
    native = recipe_of(facts=FACTS, fidelity="native", method="ap-dpe", tier=tier).encoder
    assert (native.arch, native.options, native.normalisation) == ("preact-resnet50", {}, "imagenet")
    other = recipe_of("encoder.arch=resnet50", facts=FACTS, fidelity="native", method="ap-dpe", tier=tier).encoder
    assert other.options == {"stem": "imagenet"}


@pytest.mark.parametrize(
    ("facts", "sets", "padding"),
    [
        (FACTS, (), 1),
        (FACTS, ("encoder.options.stem=cifar",), 2),
        (FACTS, ('encoder.options={stem = "cifar"}',), 2),
        (FACTS, ("encoder.options={}",), 2),
        (FACTS, ("encoder.options.stem=cifar", "encoder.stem_padding=0"), 0),
        (FACTS, ("encoder.arch=wrn28_10",), 2),
        (None, (), 2),
        (None, ("encoder.options.stem=imagenet",), 1),
    ],
)
def test_a_papers_stem_padding_is_that_of_the_3x3_stem(
    facts: DatasetFacts | None, sets: tuple[str, ...], padding: int
) -> None:
    assert recipe_of(*sets, facts=facts, fidelity="native", method="simclr").encoder.stem_padding == padding


@pytest.mark.parametrize(("method", "stage"), [("deacl", "stage2"), ("advcl", "stage2"), ("ap-dpe", "stage1")])
def test_the_weak_view_of_a_method_is_that_of_the_data(method: str, stage: str) -> None:
    asked = ((), make_facts()), ((), FACTS), ((f"{stage}.view.crop=padded",), FACTS)
    plans = [recipe_of(*sets, facts=facts, method=method, tier="mini").config.plans()[stage] for sets, facts in asked]
    assert [plan.model_dump()["view"]["crop"] for plan in plans] == ["padded", "resized", "padded"]


def test_after_pretraining_the_view_is_that_of_the_new_data() -> None:
    small, large = recipe_of("aff.crop=padded"), recipe_of("aff.crop=resized", facts=FACTS)
    to_large, to_small = (
        reevaluated(small, overrides={}, finetune=FACTS),
        reevaluated(large, overrides={}, finetune=make_facts()),
    )
    assert [getattr(to_large, name).crop for name in ("slf", "alf", "aff")] == ["resized", "resized", "padded"]
    assert [getattr(to_small, name).crop for name in ("slf", "alf", "aff")] == ["padded", "padded", "resized"]
    assert (to_large.encoder, to_small.encoder) == (small.encoder, large.encoder)


def test_an_encoder_of_an_earlier_version_knows_its_data() -> None:
    """Its file says 8/255 for images above 64 pixels, as their default was then."""
    earlier = FACTS.model_copy(update={"eps": 8 / 255, "conventions": "cifar"})
    pretrained._refuse_other_facts(earlier, FACTS, "encoder.safetensors", "folder:pics")
    with pytest.raises(BenchError, match="eps is"):
        pretrained._refuse_other_facts(
            FACTS.model_copy(update={"eps": 0.1}), FACTS, "encoder.safetensors", "folder:pics"
        )


def test_the_cost_of_such_data_is_that_of_their_stem(tmp_path: Path) -> None:
    assert data_like(folder(tmp_path / "pics", 72), tmp_path).facts.conventions == "imagenet"


def test_the_resized_view_is_that_of_torchvision() -> None:
    images = torch.from_numpy(numbers(6, 3, 20, 28))
    views = WeakView(crop="resized")(images, rng.generator(0, "view"))
    again = rng.generator(0, "view")
    boxes = draw_crops(6, (20, 28), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), generator=again)
    flips = draw_events(6, 0.5, generator=again)
    assert 0 < flips.sum() < 6
    for view, image, flip, *box in zip(views, images / 255, flips, *boxes, strict=True):
        expected = F.resized_crop(image, *map(int, box), [20, 28], antialias=True)
        assert torch.allclose(view, expected.flip(2) if flip else expected, atol=1e-5)


@pytest.mark.parametrize(("side", "conventions", "eps"), [(64, "cifar", 8 / 255), (65, "imagenet", 4 / 255)])
def test_the_size_decides(side: int, conventions: str, eps: float, tmp_path: Path) -> None:
    source = folder(tmp_path / "pics", side)
    for _ in ("read", "from the cache"):
        data = load_dataset(source, tmp_path / "data")
        assert (data.conventions, data.eps) == (conventions, eps)


def test_a_run_has_them_in_its_record(tmp_path: Path) -> None:
    request = toy_request(folder(tmp_path / "pics", 72), tmp_path, protocols=("slf",))
    ((record, _),) = carry_out(changed(request, slf__epochs=1, stage1__epochs=1), tmp_path / "results")
    assert record.recipe["encoder"]["options"] == {"stem": "imagenet"}
    assert record.recipe["threat"]["eps"] == 4 / 255
    assert record.recipe["slf"]["crop"] == "resized"
    assert record.recipe["dataset"]["conventions"] == "imagenet"
