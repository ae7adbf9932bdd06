"""``bench.attack.pgd``: what it takes, what it refuses, and what it warns of."""

import copy
import math
from typing import Any

import pytest
import torch

import bench
from bench.errors import BenchError


def test_the_module_of_an_exported_program_is_attacked_too() -> None:
    """As the card of an export loads it: PyTorch refuses its ``eval()``."""
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model, labels = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)).eval(), torch.tensor([0, 1])
    exported = torch.export.export(model, (images,)).module()
    attacked = [bench.attack.pgd(each, images, labels, eps=8 / 255, steps=3) for each in (exported, model)]
    assert torch.equal(*attacked)
    assert not torch.equal(attacked[0], images)


class Rounded(torch.nn.Module):
    """Rounds dark images, and no other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = x.detach().amax((1, 2, 3), keepdim=True) < 0.5
        return torch.where(dark, (x * 255).round() / 255, x).flatten(1)[:, :4]


def test_pgd_says_where_images_have_no_gradient(recwarn: pytest.WarningsRecorder) -> None:
    images, labels = torch.tensor([0.3, 0.3, 0.7])[:, None, None, None].expand(3, 3, 4, 4), torch.tensor([0, 1, 2])
    bench.attack.pgd(Rounded(), images[2:], labels[2:], eps=0.1, steps=2)
    assert not recwarn
    bench.attack.pgd(Rounded(), images, labels, eps=0.1, steps=2)
    (told,) = recwarn
    assert str(told.message).startswith("2 of 3 images have no gradient at PGD's first step and at its last")
    assert told.filename == __file__


def test_pgd_refuses_a_model_made_in_inference_mode_and_takes_its_copy() -> None:
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    with torch.inference_mode():
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    with pytest.raises(BenchError, match=r"made under torch\.inference_mode\(\), .* pass copy\.deepcopy\(model\)"):
        bench.attack.pgd(model, images, labels, eps=0.1)
    assert bench.attack.pgd(copy.deepcopy(model), images, labels, eps=0.1).shape == images.shape


class WithoutGradient(torch.nn.Module):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) + 0.0


class Overflowing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * 1e39


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4),
            {"labels": torch.zeros(3, dtype=torch.int64)},
            r"shape \[3\] .* 2 images need as many",
        ),
        *(
            (
                torch.zeros(2, 3, 4, 4),
                {"labels": labels},
                rf"labels are torch\..* torch\.int64 \[B\], on cpu{instead}\.$",
            )
            for labels, instead in (
                (torch.zeros(2), r", such as labels\.long\(\)"),
                (torch.zeros(2, 1).long(), r", such as labels\[:, 0\]"),
                (torch.zeros(2, 1), r", such as labels\[:, 0\]\.long\(\)"),
                (torch.eye(2), r", such as labels\.argmax\(1\)"),
                (torch.eye(2).long(), r", such as labels\.argmax\(1\)"),
                (torch.tensor(1), ""),
            )
        ),
        (
            torch.zeros(2, 3, 4, 4),
            {"labels": torch.tensor([0, 2])},
            r"labels are from 0 to 2, and the model has 2 classes",
        ),
        (torch.zeros(2, 3, 4, 4), {"labels": torch.tensor([-1, 1])}, r"labels are from -1 to 1"),
        (torch.zeros(2, 3, 4, 4), {"labels": [0, 1]}, r"pgd: labels: must be a Tensor \(given: \[0, 1\]\)"),
        (torch.zeros(2, 3, 4, 4), {"steps": -1}, r"steps: must be at least 0 \(given: -1\)"),
        (torch.zeros(2, 3, 4, 4), {"steps": 1.5}, r"steps: must be a whole number"),
        (torch.zeros(2, 3, 4, 4), {"steps": True}, r"^pgd: steps: must be a number \(given: True\)$"),
        (
            torch.zeros(2, 3, 4, 4),
            {"eps": True, "step_size": False},
            r"2 faults\n  - eps: .*\n  - step_size: must be a",
        ),
        (torch.zeros(2, 3, 4, 4), {"seed": -1}, r"^pgd: seed: must be at least 0 \(given: -1\)$"),
        (torch.zeros(2, 3, 4, 4), {"seed": 2**32}, r"^pgd: seed: must be at most 4294967295 \(given: 4294967296\)$"),
        (
            torch.zeros(2, 3, 4, 4, device="meta"),
            {},
            r"^images are torch\.strided on meta, which .* dense ones on the CPU",
        ),
        (torch.zeros(2, 3, 4, 4).to_sparse(), {}, r"^images are torch\.sparse_coo on cpu, which an attack cannot read"),
        (torch.zeros(2, 3, 4, 4), {"step_size": 0}, r"step_size: must be more than 0"),
        (torch.zeros(2, 3, 4, 4), {"model": lambda x: x}, r"model: must be a Module \(given: a function\)"),
        (torch.zeros(2, 3, 4, 4), {"model": WithoutGradient()}, "by no path that has gradients, so PGD cannot run"),
        (torch.full((2, 3, 4, 4), 0.5), {"model": Overflowing()}, "the model's logits are not all finite"),
        (torch.zeros(2, 3, 4, 4), {"model": torch.nn.Identity()}, r"returns \[2, 3, 4, 4\] for 2 .* logits \[B, K\]"),
        (torch.zeros(2, 3, 5, 5), {}, r"cannot take these images.* \[2, 3, 5, 5\] .*RuntimeError"),
        (torch.zeros(0, 3, 4, 4), {}, r"there are no images: their shape is \[0, 3, 4, 4\]"),
        (
            torch.zeros(2, 3, 4, 4),
            {"epsilon": 1},
            r"unexpected keyword argument 'epsilon'\. Its arguments: model, images",
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), {}, r"images are torch\.uint8 .* pass images / 255"),
        (torch.full((2, 3, 4, 4), 1.5), {}, r"from 1\.5 to 1\.5; an attack takes floats"),
        (torch.full((2, 3, 4, 4), -0.5), {}, "Put what normalises them into the model"),
        (torch.zeros(3, 4, 4), {}, r"shape \[3, 4, 4\]; .*\. For a single image, pass images\[None\]; for grey ones, "),
        (torch.full((2, 3, 4, 4), math.nan), {}, "from nan to nan; .*Look for NaN in what made them"),
        (torch.full((2, 3, 4, 4), 255.0), {}, r"from 255 to 255; .*\. If they are from 0 to 255, pass images / 255\.$"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.complex64), {}, r"^images are torch\.complex64 of shape"),
        (torch.zeros(2, 3, 4, 4), {"eps": 8}, r"eps 8 outside \[0, 1\].* write 8/255"),
        (torch.zeros(2, 3, 4, 4), {"steps": 0}, "steps is 0: .* Pass 1 or more, such as 20"),
        (torch.zeros(2, 3, 4, 4), {"steps": -1}, "steps: must be 0 or more|steps"),
        (torch.zeros(2, 3, 4, 4), {"step_size": 0}, "step_size"),
        (torch.zeros(2, 3, 4, 4), {"eps": float("nan"), "norm": "l2"}, "eps"),
        (torch.zeros(2, 3, 4, 4), {"norm": "l3"}, r"norm: must be 'linf' or 'l2'"),
        (torch.zeros(2, 3, 4, 4), {"start": "there"}, r"start: must be .* \(given: 'there'\)"),
    ],
)
def test_pgd_refuses(images: torch.Tensor, options: dict[str, Any], message: str) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    with pytest.raises(BenchError, match=message):
        bench.attack.pgd(
            **{"model": model, "images": images, "labels": torch.zeros(2).long(), "eps": 8 / 255, **options}
        )
