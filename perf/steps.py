"""Seconds a training step of every stage of every method takes, at its published encoder size.

    python perf/steps.py --batch 256 --batch 512 --output perf/steps.json

Each method's stages are built for random 32x32 images under the ``paper`` recipe, in fp32, and one step of each
(views, attack, forward, backward, update) is timed in turn, round by round, after a step on a small batch that is
not counted. ``--width`` narrows the encoder where ResNet-18 is too slow to wait for.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import rng
from bench.device import pick_device
from bench.method import METHODS, MethodContext, Stage
from bench.recipe import DatasetFacts, build_recipe, load_tier
from bench.train import device_name, forward
from bench.train.optim import build_optimizer

FACTS = {
    "name": "random",
    "sha256": "0" * 64,
    "image_shape": (3, 32, 32),
    "num_classes": 10,
    "test_images": 1,
    "eps": 8 / 255,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
}


def main() -> None:
    """Measure, print a table, and write the figures."""
    options = _options()
    device = pick_device(options.device)
    rows = []
    for batch in options.batch:
        images = torch.randint(
            0, 256, (max(batch, 1024), 3, 32, 32), dtype=torch.uint8, generator=rng.generator(0, "images")
        )
        steps = {
            f"{name} {stage.name}": _Step(stage, images, batch, device)
            for name in options.method or METHODS
            for stage in _stages(name, images, batch, options.width, device)
        }
        for _ in range(options.rounds):
            for step in steps.values():
                step.time()
        reference = steps.get("deacl pseudo_at")
        for name, step in steps.items():
            ratio = statistics.median(step.seconds) / statistics.median(reference.seconds) if reference else None
            rows.append({"step": name, "batch": batch, "seconds": step.seconds, "to deacl pseudo_at": ratio})
    _print(rows, device)
    if options.output:
        facts = {"device": device_name(device), "torch": torch.__version__, "width": options.width, "steps": rows}
        options.output.write_text(json.dumps(facts, indent=1) + "\n")


class _Step:
    """One stage with its optimiser and one batch."""

    def __init__(self, stage: Stage, images: torch.Tensor, batch: int, device: torch.device) -> None:
        self.stage, self.optimizer = stage.to(device).train(), build_optimizer(stage.plan, stage)
        self.images, self.device, self.seconds = images.to(device), device, list[float]()
        self._run(torch.arange(8, device=device))
        self.index = torch.arange(batch, device=device)

    def time(self) -> None:
        start = time.perf_counter()
        self._run(self.index)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds.append(time.perf_counter() - start)

    def _run(self, index: torch.Tensor) -> None:
        loss = forward(self.stage, self.images[index], rng.generator(0, "step", device=self.device), index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.optimizer.step()
        self.stage.after_step()


def _stages(name: str, images: torch.Tensor, batch: int, width: int, device: torch.device) -> Iterator[Stage]:
    method = METHODS.get(name)
    plans = method.config_type().plans()
    overrides: dict[str, Any] = {f"{stage}.precision": "fp32" for stage in plans}
    overrides |= {f"{stage}.batch_size": batch for stage in plans} | {"encoder.width": width}
    facts = DatasetFacts(**FACTS, train_images=len(images))
    recipe = build_recipe(
        method=name,
        config_type=method.config_type,
        native_encoder=method.native_encoder,
        dataset=facts,
        tier=load_tier("paper"),
        overrides=overrides,
    )
    yield from method(recipe.config).stages(MethodContext(recipe, 0, device, images))


def _print(rows: list[dict[str, Any]], device: torch.device) -> None:
    table = Table("step", "batch", "seconds", "spread", "to DeACL stage 2", title=device_name(device))
    for row in rows:
        seconds, ratio = row["seconds"], row["to deacl pseudo_at"]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        table.add_row(
            row["step"],
            str(row["batch"]),
            f"{statistics.median(seconds):.2f}",
            spread,
            "" if ratio is None else f"{ratio:.2f}",
        )
    Console().print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, action="append", help="images a step; may be repeated; default 256")
    parser.add_argument("--method", action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default=None)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    options.batch = options.batch or [256]
    return options


if __name__ == "__main__":
    main()
