"""SA, RA, AA and corruption accuracy of a classifier, able to stop after any batch and continue."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import PGD, AutoAttackState, GradientWatch, auto_attack, margin_objective
from bench.code import modules_of
from bench.data import Split
from bench.data.corruptions import CorruptedImages
from bench.device import Clock, PeakMemory, device_name
from bench.evaluate.corrupted import CorruptionCounts, evaluate_corrupted
from bench.evaluate.state import Environments, EvaluationState, load_state
from bench.nn import Classifier
from bench.recipe import EvaluationSettings, Recipe, Threat
from bench.record import (
    AutoAttackEvaluation,
    CorruptionEvaluation,
    NoGradient,
    Outcome,
    PGDEvaluation,
    PhaseCost,
    continued,
    describe_environment,
    larger_peak,
    other_code,
)
from bench.reporting import Reporter
from bench.stop import Stop


class Evaluation(NamedTuple):
    """What was measured of one classifier."""

    sa: Outcome
    ra: PGDEvaluation
    aa: AutoAttackEvaluation | None
    corruptions: CorruptionEvaluation | None
    constant: bool
    """Whether the classifier gave all clean images the same answer; False too where that was not noted."""
    cost: dict[str, PhaseCost]
    """By phase."""
    environments: dict[str, Environments]
    """By phase."""


def evaluate(
    classifier: Classifier,
    test: Split,
    *,
    recipe: Recipe,
    owner: str,
    path: Path,
    seed: int,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
    corrupted: CorruptedImages | None = None,
) -> Evaluation:
    """Measure ``classifier`` on the test split as the recipe's ``evaluate`` section asks.

    Args:
        classifier: judged in eval mode; attacked through its prepared copy.
        test: the test split.
        recipe: gives the knobs and the number of classes.
        owner: digest that ``path`` must belong to.
        path: the state file, written after each batch.
        seed: the run's seed; every batch of every attack draws from a generator of its own.
        device: where to work.
        reporter: told about progress.
        stop: asked before each forward pass of an attack.
        corrupted: corrupted copies of the test split, if the recipe asks for them.

    Raises:
        BenchError: an attack that leaves the threat model, logits that are not finite, a foreign state.
        InterruptedRunError: a stop was requested; the finished batches are saved.
    """
    asked = recipe.evaluate.corruptions != "none"
    assert asked == (corrupted is not None), "the recipe and its corrupted images disagree"
    classifier = classifier.to(device).eval()
    return _Evaluation(classifier, test, recipe, owner, path, seed, device, reporter, stop).run(corrupted)


class _Evaluation:
    """One call of :func:`evaluate`."""

    def __init__(
        self,
        classifier: Classifier,
        test: Split,
        recipe: Recipe,
        owner: str,
        path: Path,
        seed: int,
        device: torch.device,
        reporter: Reporter,
        stop: Stop,
    ) -> None:
        self.classifier, self.test, self.path, self.seed, self.device = classifier, test, path, seed, device
        self.settings: EvaluationSettings = recipe.evaluate
        self.num_classes = recipe.dataset.num_classes
        self.threat = Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)
        self.subset = autoattack_images(recipe)
        self.reporter, self.stop = reporter, stop
        modules = (__name__, *modules_of(classifier))
        self.environment = describe_environment(device_name(device), torch.get_num_threads(), modules=modules)
        self.state = load_state(path, EvaluationState(owner=owner, answers=(), no_gradient=NoGradient()), reporter)
        if any(other_code(self.state.ran_with(name), self.environment) for name in self.state.seconds):
            reporter.note(
                "this evaluation was begun with other code than the present one, or it is not known with which. What "
                f"is measured is kept, its record names both, and the board marks it. To begin anew, remove {path}"
            )
        self.attacked = _Interruptible(classifier.prepared(), stop)

    def run(self, corrupted: CorruptedImages | None) -> Evaluation:
        self._clean()
        self._pgd()
        aa = self._autoattack() if self.settings.autoattack else None
        corruptions = self._corruptions(corrupted) if corrupted else None
        count = len(self.test.labels)
        settings = self.settings
        ra = PGDEvaluation(
            outcome=Outcome.pack(self.state.robust, test_images=count),
            eps=self.threat.eps,
            steps=settings.pgd_steps,
            step_size=settings.pgd_step_size * self.threat.eps,
            start=settings.pgd_start,
            restarts=settings.pgd_restarts,
            no_gradient=self.state.no_gradient,
        )
        return Evaluation(
            sa=Outcome.pack(self.state.clean, test_images=count),
            ra=ra,
            aa=aa,
            corruptions=corruptions,
            constant=self._constant,
            cost=self._cost(),
            environments={f"evaluate:{name}": self.state.ran_with(name) for name in self.state.seconds},
        )

    def _clean(self) -> None:
        self.reporter.begin("SA, clean images", len(self.test.labels), done=len(self.state.clean))
        self.memory = PeakMemory(self.device)
        for _, images, labels in self._batches(len(self.state.clean)):
            clock = Clock()
            with torch.no_grad():
                answers = self.classifier(images).argmax(1)
            known = self.state.answers
            self._save(
                "sa",
                clock,
                clean=self.state.clean + tuple((answers == labels).tolist()),
                answers=None if known is None else tuple(sorted({*known, *answers.tolist()})),
            )
            self.reporter.advance(len(labels))
            self.stop.check()
        self.reporter.end()
        if self._constant:
            self.reporter.note(
                "the classifier gives all test images the same answer: its training failed or its features say "
                "nothing, and an answer that never changes cannot be attacked. The record says so, and the board "
                "marks it."
            )

    @property
    def _constant(self) -> bool:
        return self.state.answers is not None and len(self.state.answers) == 1 and len(self.test.labels.unique()) > 1

    def _pgd(self) -> None:
        settings = self.settings
        attack = PGD(settings.pgd_steps, settings.pgd_step_size, settings.pgd_start)
        name = f"RA, PGD-{settings.pgd_steps}"
        self.reporter.begin(name, len(self.test.labels), done=len(self.state.robust))
        self.memory = PeakMemory(self.device)
        for first, images, labels in self._batches(len(self.state.robust)):
            clock = Clock()
            robust = torch.ones_like(labels, dtype=torch.bool)
            first_step, last_step = ~robust, ~robust
            for restart in range(settings.pgd_restarts):
                watch = GradientWatch()
                x_adv = attack(
                    margin_objective(self.attacked, labels),
                    images,
                    threat=self.threat,
                    generator=rng.generator(self.seed, "pgd", first, restart, device=self.device),
                    on_gradient=watch,
                )
                first_step, last_step = first_step | watch.first, last_step | watch.last
                with torch.no_grad():
                    robust &= self.classifier(x_adv).argmax(1) == labels
            counted = self.state.no_gradient
            if counted is not None:
                counted += NoGradient(first=int(first_step.sum()), last=int(last_step.sum()))
            self._save("ra", clock, robust=self.state.robust + tuple(robust.tolist()), no_gradient=counted)
            self.reporter.advance(len(labels))
        self.reporter.end()

    def _autoattack(self) -> AutoAttackEvaluation:
        chosen = torch.tensor(self.subset)
        images, labels = self._to_device(self.test.images[chosen], self.test.labels[chosen])
        saved = self.state.autoattack
        self.memory = PeakMemory(self.device)
        clock = Clock()

        def keep(state: AutoAttackState) -> None:
            nonlocal clock
            self._save("aa", clock, autoattack=state.model_dump(mode="json"))
            clock = Clock()

        result = auto_attack(
            self.attacked,
            images,
            labels,
            threat=self.threat,
            num_classes=self.num_classes,
            seed=self.seed,
            batch_size=self.settings.autoattack_batch,
            state=None if saved is None else AutoAttackState.parse(saved, str(self.path)),
            on_state=keep,
            on_progress=_Progress(self.reporter),
        )
        self.reporter.end()
        whole = len(self.subset) == len(self.test.labels)
        return AutoAttackEvaluation(
            outcome=Outcome.pack(
                result.robust.tolist(),
                images=None if whole else self.subset,
                test_images=len(self.test.labels),
            ),
            eps=self.threat.eps,
            version="standard",
            package=result.package,
            package_version=result.package_version,
            targets=result.targets,
            survivors={attack: int(alive.sum()) for attack, alive in result.survivors.items()},
            warnings=list(result.warnings),
        )

    def _corruptions(self, corrupted: CorruptedImages) -> CorruptionEvaluation:
        self.memory = PeakMemory(self.device)
        clock = Clock()

        def keep(counts: dict[str, CorruptionCounts]) -> None:
            nonlocal clock
            self._save("corruptions", clock, corruptions=counts)
            clock = Clock()

        return evaluate_corrupted(
            self.classifier,
            corrupted,
            self.test.labels,
            done=self.state.corruptions,
            keep=keep,
            batch_size=self.settings.batch_size,
            device=self.device,
            reporter=self.reporter,
            stop=self.stop,
        )

    def _batches(self, first: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        for start in range(first, len(self.test.labels), self.settings.batch_size):
            batch = slice(start, start + self.settings.batch_size)
            yield start, *self._to_device(self.test.images[batch], self.test.labels[batch])

    def _to_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(self.device).float().div(255), labels.to(self.device)

    def _save(self, measurement: str, clock: Clock, **finished: object) -> None:
        state = self.state
        earlier = state.peak_memory.get(measurement) if measurement in state.seconds else 0
        measured = {
            "seconds": state.seconds.get(measurement, 0.0) + clock.seconds,
            "peak_memory": larger_peak(earlier, self.memory.bytes),
            "environments": continued(state.ran_with(measurement), self.environment),
        }
        kept = {name: {**getattr(state, name), measurement: value} for name, value in measured.items()}
        self.state = state.model_copy(update={**finished, **kept})
        self.state.save(self.path)

    def _cost(self) -> dict[str, PhaseCost]:
        cells = sum(len(counts.correct) for counts in self.state.corruptions.values())
        images = {
            "sa": len(self.state.clean),
            "ra": len(self.state.robust),
            "aa": len(self.subset),
            "corruptions": cells * len(self.test.labels),
        }
        return {
            f"evaluate:{name}": PhaseCost(
                seconds=seconds,
                images=images[name],
                peak_memory_bytes=self.state.peak_memory.get(name),
                device=device_name(self.device),
            )
            for name, seconds in self.state.seconds.items()
        }


def autoattack_images(recipe: Recipe) -> list[int]:
    """Return the ascending positions of the test images that AutoAttack is run on.

    The subset depends on the dataset alone, so that every method and seed is attacked on the same images.
    """
    count, wanted = recipe.dataset.test_images, recipe.evaluate.autoattack_images
    if wanted is None or wanted >= count:
        return list(range(count))
    order = torch.randperm(count, generator=rng.generator(0, "autoattack images", recipe.dataset.sha256))
    return sorted(order[:wanted].tolist())


class _Interruptible(nn.Module):
    """A model that asks before each forward pass whether to stop: AutoAttack's batches take minutes."""

    def __init__(self, model: nn.Module, stop: Stop) -> None:
        super().__init__()
        self.model = model
        self._stop = stop

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        self._stop.check()
        logits: Tensor = self.model(images)
        return logits


class _Progress:
    """Turns AutoAttack's (attack, tried, to try) into phases of a reporter; attacks with none to try are left out."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._attack = ""
        self._tried = 0

    def __call__(self, attack: str, tried: int, to_try: int) -> None:
        if not to_try:
            return
        if attack != self._attack:
            self._reporter.begin(f"AA, {attack}", to_try, done=tried)
            self._attack, self._tried = attack, tried
        self._reporter.advance(tried - self._tried)
        self._tried = tried
