"""SA, accuracy on clean images, and RA, accuracy under PGD or another attack."""

from functools import partial
from typing import NamedTuple

import torch

from bench.attack import GradientWatch, NamedAttack, correct
from bench.evaluation.measurement import Measurement
from bench.record import Drawn, NoGradient, Outcome, PGDEvaluation


def standard_accuracy(work: Measurement) -> Outcome:
    """Return SA; reports a classifier that gave all clean images the same answer."""
    state, monitor = work.state, work.job.monitor
    monitor.begin("SA, clean images", work.count, done=len(state.clean))
    work.begin("sa")
    for answers, right in work.batches(len(state.clean), partial(_answers, work)):
        known = work.state.answers
        work.keep(
            clean=work.state.clean + tuple(right),
            answers=None if known is None else tuple(sorted({*known, *answers})),
        )
        monitor.advance(len(right))
    monitor.end()
    if len(work.state.answers or ()) == 1 and len(work.test.labels.unique()) > 1:
        monitor.note(
            "the classifier gives all clean test images the same answer: its training failed or its features carry no "
            "information, so RA and AA say nothing. The record notes this, and the board marks it."
        )
    return Outcome.pack(work.state.clean, test_images=work.count)


def robust_accuracy(work: Measurement) -> PGDEvaluation:
    """Return RA: an image counts if it is classified correctly after every restart of the attack."""
    settings, job = work.settings, work.job
    attack = NamedAttack(settings.attack, settings)
    _begin_again_if_drawn_otherwise(work, attack.start_drawn)
    job.monitor.begin(f"RA, {attack.title}", work.count, done=len(work.state.robust))
    work.begin("ra")
    for batch in work.batches(len(work.state.robust), partial(_attacked, work, attack)):
        counted = work.state.no_gradient
        work.keep(
            robust=work.state.robust + batch.robust,
            no_gradient=None if counted is None or batch.no_gradient is None else counted + batch.no_gradient,
        )
        job.monitor.advance(len(batch.robust))
    job.monitor.end()
    step_size = attack.from_recipe.get("step_size")
    return PGDEvaluation(
        outcome=Outcome.pack(work.state.robust, test_images=work.count),
        attack=settings.attack,
        eps=work.threat.eps,
        steps=attack.steps,
        step_size=None if step_size is None else step_size * work.threat.eps,
        start=attack.from_recipe.get("start"),
        start_drawn=work.state.start_drawn,
        restarts=settings.pgd_restarts,
        precision=settings.attack_precision,
        no_gradient=work.state.no_gradient,
    )


@torch.no_grad()
def _answers(work: Measurement, first: int) -> tuple[list[int], list[bool]]:
    """Return the classifier's answers to the batch at ``first``, and which of them are right."""
    images, labels = work.batch(first)
    logits = work.classifier(images)
    return logits.argmax(1).tolist(), correct(logits, labels).tolist()


class _Batch(NamedTuple):
    """The outcomes of one batch under PGD."""

    robust: tuple[bool, ...]
    no_gradient: NoGradient | None
    """None: the attack showed no gradient."""


def _attacked(work: Measurement, attack: NamedAttack, first: int) -> _Batch:
    images, labels = work.batch(first)
    robust = torch.ones_like(labels, dtype=torch.bool)
    first_step, last_step = ~robust, ~robust  # whether an image had no gradient, in any restart
    for restart in range(work.settings.pgd_restarts):
        standing = robust.nonzero()[:, 0]  # all of them at first, also those that are wrong without an attack
        if not len(standing):
            break
        watch = GradientWatch()
        x_adv = attack(
            work.attacked,
            images[standing],
            labels[standing],
            threat=work.threat,
            seed=work.job.seed,
            positions=(first + standing).tolist(),
            restart=restart,
            on_gradient=watch,
        )
        seen = watch.used
        if seen:
            first_step[standing] |= watch.first
            last_step[standing] |= watch.last
        with torch.no_grad():
            robust[standing] = correct(work.classifier(x_adv), labels[standing])
    found = NoGradient(first=int(first_step.sum()), last=int(last_step.sum())) if seen else None
    return _Batch(tuple(robust.tolist()), found)


def _begin_again_if_drawn_otherwise(work: Measurement, drawn: Drawn) -> None:
    """Drop the outcomes of an unfinished RA whose starts an older version drew in another way: they must not mix."""
    state = work.state
    if state.start_drawn != drawn and len(state.robust) < work.count:
        fresh = {"robust": (), "no_gradient": NoGradient(), "start_drawn": drawn}
        work.state = state.model_copy(update=fresh)
