"""Accuracy under the attacks of ``evaluate.attacks``, each on the images that the ones before it left standing."""

from functools import partial

import torch
from torch import Tensor

from bench.attack import NamedAttack, correct, distance
from bench.evaluation.autoattack import autoattack_images
from bench.evaluation.measurement import Measurement
from bench.evaluation.state import AttackProgress
from bench.parallel import in_turn
from bench.record import AttackList, ListedAttack, MinimalPerturbations, Outcome


def phase_of(attack: str) -> str:
    """Return the name under which the cost of ``attack`` is kept."""
    return f"attacks.{attack}"


def accuracy_under_attacks(work: Measurement) -> AttackList:
    """Return the accuracy after each attack of the list, on the images that AutoAttack is run on.

    An image that an attack returns is judged by the classifier itself, in fp32. A minimum-norm attack tries every
    image that is right without an attack, since its curve is about all of them.

    Raises:
        BenchError: an attack returns something that is not finite, has another shape, or leaves the threat model.
        InterruptedRunError: a stop was requested; the finished batches are saved.
    """
    subset = autoattack_images(work.recipe)
    right = [position for position in subset if work.state.clean[position]]
    standing, found = right, []
    for name in work.settings.attacks:
        attack = NamedAttack(name, work.settings, stream=phase_of(name))
        progress = _attacked(work, attack, right if attack.minimal else standing)
        broken = {*progress.broken}
        standing = [position for position in standing if position not in broken]
        found.append(_listed(work, attack, progress, standing, subset, right))
    return AttackList(eps=work.threat.eps, attacks=tuple(found), precision=work.settings.attack_precision)


def _attacked(work: Measurement, attack: NamedAttack, to_try: list[int]) -> AttackProgress:
    """Return the progress of ``attack`` at the end of the images at the positions ``to_try``."""
    monitor, size = work.job.monitor, work.settings.autoattack_batch
    progress = work.state.attacks.get(attack.name, AttackProgress())
    monitor.begin(f"attack {attack.name}", len(to_try), done=progress.tried)
    work.begin(phase_of(attack.name))
    batches = [to_try[first : first + size] for first in range(progress.tried, len(to_try), size)]
    for positions, (broken, sizes) in zip(batches, in_turn(batches, partial(_tried, work, attack)), strict=True):
        progress = AttackProgress(
            tried=progress.tried + len(positions),
            broken=progress.broken + tuple(position for position, lost in zip(positions, broken, strict=True) if lost),
            sizes=progress.sizes + sizes,
        )
        work.keep(attacks={**work.state.attacks, attack.name: progress})
        monitor.advance(len(positions))
    monitor.end()
    return progress


def _tried(work: Measurement, attack: NamedAttack, positions: list[int]) -> tuple[list[bool], tuple[float | None, ...]]:
    """Return which images are broken within eps, and the perturbation of each from a minimum-norm attack."""
    work.job.monitor.check()
    chosen = torch.tensor(positions)
    images, labels = work.to_device(work.test.images[chosen], work.test.labels[chosen])
    if not attack.minimal:
        x_adv = attack(work.attacked, images, labels, threat=work.threat, seed=work.job.seed, positions=positions)
        return _wrong(work, x_adv, labels).tolist(), ()
    nearest = attack.nearest(
        work.attacked, images, labels, norm=work.threat.norm, seed=work.job.seed, positions=positions
    )
    moved, wrong = distance(nearest, images, work.threat.norm), _wrong(work, nearest, labels)
    sizes = [size if misled else None for size, misled in zip(moved.tolist(), wrong.tolist(), strict=True)]
    return (wrong & (moved <= work.threat.eps)).tolist(), tuple(sizes)


@torch.no_grad()
def _wrong(work: Measurement, images: Tensor, labels: Tensor) -> Tensor:
    return ~correct(work.classifier(images), labels)


def _listed(
    work: Measurement,
    attack: NamedAttack,
    progress: AttackProgress,
    standing: list[int],
    subset: list[int],
    right: list[int],
) -> ListedAttack:
    left = {*standing}
    perturbations = None
    if attack.minimal:
        sizes = dict(zip(right, progress.sizes, strict=True))
        of_all = [sizes.get(position, 0.0) for position in subset]  # 0: wrong without an attack
        perturbations = MinimalPerturbations.pack([torch.inf if size is None else size for size in of_all])
    return ListedAttack(
        attack=attack.name,
        outcome=Outcome.pack(
            [position in left for position in subset],
            images=None if len(subset) == work.count else subset,
            test_images=work.count,
        ),
        tried=progress.tried,
        settings=attack.settings,
        package=attack.package,
        package_version=attack.package_version,
        perturbations=perturbations,
    )
