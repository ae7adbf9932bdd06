"""The phases of a run and their projected time on this machine, measured on a temporary copy before the start."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.cost import PhaseEstimate, Projector, StageProbe
from bench.errors import BenchError
from bench.protocol import FinetuneStage, build_protocol, released_classifier
from bench.recipe import RELEASED, Threat
from bench.run.encoder import load_encoder, plain_encoder
from bench.run.preparation import Run
from bench.run.reuse import trained_elsewhere

_PROGRAM_BYTES = 3 * 2**28
"""What a process takes beside its tensors: Python, PyTorch and, on a GPU, its context."""


def project(run: Run, projector: Projector | None = None) -> list[PhaseEstimate]:
    """Return an estimate for each phase of ``run``, including finished parts.

    Args:
        projector: measures; one projector for several runs times their common parts once.

    Raises:
        BenchError: a plan that cannot work on this dataset or device.
    """
    projector = projector or Projector(run.device)
    return [*_corrupted(run, projector), *_pretraining(run, projector), *_protocols(run, projector)]


def peak_memory(run: Run) -> int:
    """Return an estimate of the bytes that ``run`` takes on its device: images, and tensors of its largest step.

    Steps are counted on a few images, on the CPU, and extrapolated to the batch.
    """
    images, cpu = run.dataset.pretraining_images, torch.device("cpu")
    train, recipe = run.target.train, run.recipe.downstream
    protocols = (  # each on an encoder of its own, because some freeze theirs
        build_protocol(name, recipe, plain_encoder(run.recipe), train.labels, run.seed)
        for name in run.protocols
        if name != RELEASED
    )
    probes = [
        *(StageProbe(stage, images, device=cpu) for stage in run.method(run.recipe.config).stages(run.context)),
        *(StageProbe(stage, train.images, device=cpu) for stage in protocols if isinstance(stage, FinetuneStage)),
    ]
    sizes = [(probe, probe.plan, probe.plan.batch_size) for probe in probes]
    steps = [probe.memory(batch, plan.parts(batch)) for probe, plan, batch in sizes]
    return _PROGRAM_BYTES + images.nbytes + max(steps, default=0)


def _corrupted(run: Run, projector: Projector) -> Iterator[PhaseEstimate]:
    missing = run.corruptions.missing(run.target) if run.corruptions and not run.finished else []
    if missing:
        yield projector.corrupted_images(run.target.test.images, missing)


def _pretraining(run: Run, projector: Projector) -> Iterator[PhaseEstimate]:
    if run.encoder:
        return
    images, encoder = run.dataset.pretraining_images, run.recipe.encoder
    for stage in run.method(run.recipe.config).stages(run.context):
        yield projector.training(stage, images, encoder, f"stage {stage.name}", run.folder.stage(stage).path)


def _protocols(run: Run, projector: Projector) -> Iterator[PhaseEstimate]:
    encoder, recipe = plain_encoder(run.recipe).to(run.device), run.recipe.downstream
    train, test, digest = run.target.train, run.target.test, _encoder_digest(run)
    for protocol in run.protocols:
        folder, threat = run.protocol_folder(protocol), Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)
        if protocol == RELEASED:
            seconds = projector.attacks(released_classifier(encoder), test, threat, recipe.evaluate.attack_precision)
        else:
            stage = build_protocol(protocol, recipe, encoder, train.labels, run.seed)
            seconds = projector.attacks(stage.classifier(), test, threat, recipe.evaluate.attack_precision)
            trained = digest is not None and trained_elsewhere(run, protocol, digest, folder.path)
            if isinstance(stage, FinetuneStage):
                training = projector.training(stage, train.images, recipe.encoder, f"protocol {protocol}", folder.path)
                training = replace(training, left=0.0) if trained else training
                yield training
                for each in seconds.selection(stage, len(train.labels)):
                    yield replace(each, left=training.left, place=folder.path)
            else:
                features = seconds.features(protocol, len(train.labels), folder.path)
                yield replace(features, left=0.0) if trained else features
        for each in seconds.evaluation(recipe, folder.path):
            yield replace(each, left=0.0) if folder.record.exists() else each


def _encoder_digest(run: Run) -> str | None:
    """Return the digest of the encoder's weights; None: it is not trained yet, or damaged and trained again."""
    if run.encoder:
        return run.encoder.sha256
    try:
        return load_encoder(run.folder.encoder).sha256
    except BenchError:
        return None
