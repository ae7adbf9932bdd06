"""AA, accuracy under standard AutoAttack."""

import torch

from bench import rng
from bench.attack import AutoAttackState, auto_attack
from bench.evaluation.measurement import Measurement
from bench.monitor import Monitor
from bench.recipe import Recipe
from bench.record import AutoAttackEvaluation, Outcome

AUTOATTACK_PASSES = {"apgd-ce": (100, 0), "apgd-t": (900, 0), "fab-t": (900, 1800), "square": (0, 5000)}
"""Gradients, and forward passes beside them, of each attack of the standard version for an image that survives it, with
9 targets."""


def autoattack_images(recipe: Recipe) -> list[int]:
    """Return the positions of the test images that AutoAttack is run on, ascending.

    For one number of images the subset depends only on the dataset: all methods and seeds are attacked on the same.
    """
    count, wanted = recipe.dataset.test_images, recipe.evaluate.autoattack_images
    if wanted is None or wanted >= count:
        return list(range(count))
    order = torch.randperm(count, generator=rng.generator(0, "autoattack images", recipe.dataset.sha256))
    return sorted(order[:wanted].tolist())


def autoattack_accuracy(work: Measurement) -> AutoAttackEvaluation:
    """Return AA with the number of survivors of each attack and the library's warnings."""
    subset, saved = autoattack_images(work.recipe), work.state.autoattack
    chosen = torch.tensor(subset)
    images, labels = work.to_device(work.test.images[chosen], work.test.labels[chosen])
    work.begin("aa")
    result = auto_attack(
        work.attacked,
        images,
        labels,
        threat=work.threat,
        num_classes=work.recipe.dataset.num_classes,
        seed=work.job.seed,
        batch_size=work.settings.autoattack_batch,
        state=None if saved is None else AutoAttackState.parse(saved, str(work.path)),
        on_state=lambda state: work.keep(autoattack=state.model_dump(mode="json")),
        on_progress=_Progress(work.job.monitor),
    )
    work.job.monitor.end()
    return AutoAttackEvaluation(
        outcome=Outcome.pack(
            result.robust.tolist(),
            images=None if len(subset) == work.count else subset,
            test_images=work.count,
        ),
        eps=work.threat.eps,
        version="standard",
        precision=work.settings.attack_precision,
        package=result.package,
        package_version=result.package_version,
        targets=result.targets,
        survivors={attack: int(alive.sum()) for attack, alive in result.survivors.items()},
        warnings=list(result.warnings),
    )


class _Progress:
    """Turns AutoAttack's (attack, tried, to try) into phases of a monitor; leaves out attacks with nothing to try."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._attack = ""
        self._tried = 0

    def __call__(self, attack: str, tried: int, to_try: int) -> None:
        if not to_try:
            return
        if attack != self._attack:
            self._monitor.begin(f"AA, {attack}", to_try, done=tried)
            self._attack, self._tried = attack, tried
        self._monitor.advance(tried - self._tried)
        self._tried = tried
