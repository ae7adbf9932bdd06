"""DeACL's second stage, TRADES and the evaluation attack beside the authors' code.

Run from the repository's root: ``python perf/fidelity/deacl.py PATH/TO/CLONE``. It prints the section of
``docs/fidelity.md``.
"""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import ours
import torch
from clone import Clone, LightningModule, Upstream, on_cpu, working_in
from command import run
from table import Table, attack, gradients, relative
from torch import nn

from bench.attack import PGD, margin_objective
from bench.method import Stage
from bench.nn import Classifier, Encoder

UPSTREAMS = (Upstream("pantheon5100/DeACL", "3fb81e3fa4a30116fc5c90169040023187e9079a"),)

BATCH, SIDE = 8, 8
RATES = (0.003, 0.05822222222222222, 0.5)
"""Of epochs 0 and 1 of the warm-up, and the peak."""
NOTE = (
    "Compared: upstream's own training step, attack, TRADES loss and evaluation attack, with the arguments of its own "
    f"CIFAR-10 script, run beside ours on the same weights, images and noise: ResNet-18 (stem padding 2), {BATCH} "
    f"images of {SIDE} x {SIDE} pixels, float64, batch-norm statistics of a teacher that has seen images. "
    "The loss is the one that upstream logs, without that of its online probe, which has no effect on the encoder. Not "
    "run: upstream's learning-rate class, which is in another library (pl_bolts)."
)


def compare(clone: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("DeACL", str(clone.upstream), NOTE)
    with importing(clone), on_cpu():
        both = ours.stages(ours.recipe("deacl", stage2__batch_size=BATCH))
        ours.seen(next(both).encoder)
        stage = next(both)
        arguments = published(clone)
        model = upstream_model(arguments, stage.encoder.backbone)
        compare_networks(table, stage.encoder, model.backbone)
        compare_plan(table, arguments)
        compare_steps(table, stage, model)
        compare_protocols(table, model)
    yield table


def importing(clone: Clone) -> AbstractContextManager[None]:
    """Let ``import`` find upstream's packages."""
    packages = ("solo", "solo.args", "solo.losses", "solo.methods", "solo.models", "solo.utils")
    absent: dict[str, dict[str, Any]] = {
        "pytorch_lightning": {"LightningModule": LightningModule},
        "pl_bolts": {},
        "torchmetrics": {},
    }
    absent["solo.utils.backbones"] = {}  # transformers
    absent["timm"], absent["timm.models.registry"] = {}, {"register_model": lambda function: function}
    absent["torchmetrics.metric"] = {"Metric": nn.Module}
    return clone.importing(bare=packages, absent=absent)


def published(clone: Clone) -> Namespace:
    """Return the arguments of upstream's CIFAR-10 script, as its method's own parser reads them."""
    parser = ArgumentParser()
    parser.add_argument("--max_epochs", type=int)
    parser = upstream_class().add_model_specific_args(parser)
    text = clone.text("bash_files/DeACL_cifar10_resnet18.sh")
    arguments: Namespace = parser.parse_known_args(shlex.split(text[text.index("python3") :])[2:])[0]
    return arguments


def upstream_class() -> Any:
    """Return upstream's class of the second stage."""
    return import_module("solo.methods.mocov2_distillation_AT").MoCoV2KDAT


def upstream_model(arguments: Namespace, teacher: nn.Module) -> Any:
    """Return upstream's model, its teacher read from a checkpoint as upstream reads it."""
    base = import_module("solo.methods.base_for_adversarial_training")
    rest = {
        "num_classes": ours.CLASSES,
        "backbone_args": {"cifar": True, "zero_init_residual": False},
        "accumulate_grad_batches": None,
        "extra_optimizer_args": {"momentum": 0.9},
        "num_large_crops": 2,
        "num_small_crops": 0,
        "scheduler": "none",
    }
    with TemporaryDirectory() as folder, working_in(folder):
        checkpoint = Path("TeacherCKPT") / base._SUPPORT_KD_TEACHER[arguments.distillation_teacher]
        checkpoint.parent.mkdir()
        state = {f"backbone.{name}": value for name, value in teacher.state_dict().items()}
        torch.save({"state_dict": state}, checkpoint)
        with mock.patch("builtins.print"):
            return upstream_class()(**{**vars(arguments), **rest}).train()


def compare_networks(table: Table, encoder: Encoder, backbone: nn.Module) -> None:
    """Add sizes."""
    table.equal("parameters of the student", ours.parameters(encoder), ours.parameters(backbone))
    table.equal(
        "entries of its state, two of them the normalisation's",
        *map(len, (encoder.state_dict(), backbone.state_dict())),
    )


def compare_plan(table: Table, arguments: Namespace) -> None:
    """Add the published settings of the second stage."""
    plan: Any = ours.recipe("deacl").config.plans()["stage2"]
    eps = ours.recipe("deacl").threat.eps
    mine = [plan.optimizer, plan.epochs, plan.batch_size, plan.lr, plan.weight_decay, plan.warmup_epochs]
    mine += [plan.warmup_start, plan.lr_floor, plan.lam, plan.steps, plan.loss, 255 * eps, 255 * eps * plan.step_size]
    yours = [arguments.optimizer, arguments.max_epochs, arguments.batch_size, arguments.lr, arguments.weight_decay]
    yours += [arguments.warmup_epochs, arguments.warmup_start_lr, arguments.min_lr, arguments.trades_k]
    yours += [arguments.num_steps, arguments.loss_type, arguments.epsilon, arguments.step_size]
    names = "optimiser, epochs, batch, rate, decay, warm-up, its start, floor, lambda, steps, loss, eps, step"
    table.equal(names, ours.listed(mine), ours.listed(yours))


def compare_steps(table: Table, stage: Stage, model: Any) -> None:
    """Add the results of three training steps on both sides."""
    optimizers = stage.optimizer(), model.configure_optimizers()
    for step, rate in enumerate(RATES):
        images, labels = ours.images(BATCH, step, side=SIDE), ours.labels(BATCH)
        with ours.kept(model, "generate_training_AE") as theirs:
            torch.manual_seed(step)
            for group in optimizers[1].param_groups:
                group["lr"] = rate
            loss = model.training_step((torch.arange(BATCH), (images, images), labels), step)
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()
        with ours.kept(stage, "_attack") as mine:
            views = (images, torch.Generator().manual_seed(step), images)
            total = ours.take_step(stage, views, optimizers[0], rate)
        attack(table, f"attack of step {step} (5 steps, float64, same start)", mine[0], theirs[0], images)
        table.number(f"loss of step {step}", total, model.logged["adv_loss"], within=1e-9)
        students = stage.encoder.backbone, model.backbone
        gap = {"relative": relative(*map(gradients, students))}
        table.apart(f"gradient of the student in step {step}, worst tensor", gap, within=1e-8)
        weights = [[p.detach() for p in student.parameters()] for student in students]
        gaps = {
            "weights, relative": relative(*weights),
            "running statistics, relative": relative(*map(ours.running, students)),
        }
        table.apart(f"after SGD step {step} (rate {rate:.4g}), worst tensor", gaps, within=1e-8)
        table.equal(
            f"batches tracked after step {step}, beyond the teacher's 10", *(ours.tracked(s)[0] - 10 for s in students)
        )


def compare_protocols(table: Table, model: Any) -> None:
    """Add the TRADES loss of AFF, and PGD-20."""
    trades = import_module("trades.trades")
    recipe = ours.recipe(
        "deacl", aff__clean_passes=2
    )  # upstream passes the clean images twice; ours does with this setting
    both = ours.stages(recipe)
    encoder = next(both).encoder
    encoder.backbone.load_state_dict(model.backbone.state_dict(), strict=False)
    stage = ours.protocol("aff", recipe, encoder, BATCH)
    upstream = nn.Sequential(model.backbone, nn.Linear(512, ours.CLASSES))
    upstream[1].load_state_dict(stage.head.state_dict())
    images, labels = ours.images(BATCH, "protocol", side=SIDE), ours.labels(BATCH)
    plan: Any = stage.plan
    eps = recipe.threat.eps

    mine = stage((images, labels, torch.Generator().manual_seed(7))).total
    torch.manual_seed(7)
    step = {"step_size": 2 / 255, "epsilon": eps, "perturb_steps": 10, "beta": 6.0}
    optimizer = torch.optim.SGD(upstream.parameters(), lr=0.1)
    theirs, _ = trades.trades_loss(upstream, *upstream, images, labels, optimizer, **step)
    optimizer.zero_grad()
    mine.backward()
    theirs.backward()
    gap = relative(gradients(stage.encoder.backbone), gradients(upstream[0]))
    differences = {"": abs(float(mine - theirs)), "gradient, relative": gap}
    quantity = f"AFF: TRADES loss ({plan.steps} steps, beta {plan.beta:g}, same noise)"
    table.add(quantity, f"{float(mine):.9f}", f"{float(theirs):.9f}", differences, within=1e-9)

    gaps = {"relative": relative(ours.running(stage.encoder), ours.running(upstream))}
    table.apart("running statistics after it (`aff.clean_passes=2`), worst tensor", gaps, within=1e-9)

    upstream.eval()
    classifier = Classifier(stage.encoder, stage.head).eval()
    torch.manual_seed(11)
    with mock.patch.object(torch, "FloatTensor", torch.DoubleTensor):  # its noise would be float32
        _, attacked = trades._pgd_whitebox(upstream, images, labels, eps, 20, 2 / 255, True, "cpu")
    pgd = PGD(steps=20, step_size=0.25, start="uniform")
    objective = margin_objective(classifier.prepared(), labels)
    found = pgd(objective, images, threat=recipe.threat, generator=torch.Generator().manual_seed(11))
    logits = classifier(found)
    gap = float((logits - attacked).abs().max())
    quantity = "PGD-20 (2/255, same start): logits of the attacked images"
    table.add(quantity, f"max {float(logits.abs().max()):.2f}", "–", {"": gap}, within=1e-9)


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
