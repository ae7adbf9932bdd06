"""All measurements of a classifier: clean, attacked, corrupted; they can stop after any batch and continue."""

from typing import NamedTuple

from bench.data import Split
from bench.data.corruptions import CorruptedImages
from bench.evaluation.accuracy import robust_accuracy, standard_accuracy
from bench.evaluation.attack_list import accuracy_under_attacks, phase_of
from bench.evaluation.autoattack import autoattack_accuracy, autoattack_images
from bench.evaluation.corruptions import corruption_accuracy
from bench.evaluation.measurement import Measurement
from bench.evaluation.state import Environments
from bench.job import Job
from bench.nn import Classifier
from bench.recipe import Recipe
from bench.record import AttackList, AutoAttackEvaluation, CorruptionEvaluation, Outcome, PGDEvaluation, PhaseCost


class Evaluation(NamedTuple):
    """The measurements of one classifier."""

    sa: Outcome
    ra: PGDEvaluation
    aa: AutoAttackEvaluation | None
    attacks: AttackList | None
    corruptions: CorruptionEvaluation | None
    cost: dict[str, PhaseCost]
    """By phase."""
    environments: dict[str, Environments]
    """By phase."""


def evaluate(
    classifier: Classifier, test: Split, job: Job, *, recipe: Recipe, corrupted: CorruptedImages | None = None
) -> Evaluation:
    """Measure ``classifier`` on the test split under the recipe's ``evaluate`` section.

    Args:
        classifier: evaluated in eval mode; attacked through its prepared copy.
        job: its folder receives the state ``evaluation.json`` after each batch; each image under PGD and
            each batch of AutoAttack has its own generator; requests to stop are checked before each forward pass of an
            attack.

    Raises:
        BenchError: an attack that leaves the threat model, logits under AutoAttack that are not finite, or a state of
            another run.
        InterruptedRunError: a stop was requested; the finished batches are saved.
    """
    asked = recipe.evaluate.corruptions != "none"
    assert asked == (corrupted is not None), "the recipe and its corrupted images disagree"
    work = Measurement(classifier.to(job.device).eval(), test, recipe, job, __name__)
    sa = standard_accuracy(work)
    ra = robust_accuracy(work)
    aa = autoattack_accuracy(work) if recipe.evaluate.autoattack else None
    attacks = accuracy_under_attacks(work) if recipe.evaluate.attacks else None
    corruptions = corruption_accuracy(work, corrupted) if corrupted else None
    counts = work.state.corruptions.values()
    images = {
        "sa": len(work.state.clean),
        "ra": len(work.state.robust),
        "aa": len(autoattack_images(recipe)),
        "corruptions": sum(len(one.correct) for one in counts) * work.count,
        **{phase_of(name): progress.tried for name, progress in work.state.attacks.items()},
    }
    return Evaluation(sa, ra, aa, attacks, corruptions, work.cost(images), work.environments())
