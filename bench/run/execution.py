"""Executes a run: stages, protocols, evaluation, records. Finished parts are not repeated."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.data.corruptions import CorruptedImages
from bench.errors import BenchError
from bench.evaluation import constant, evaluate, sample_features
from bench.files import is_lost, make_writable, remove_unfinished, set_aside, write_json
from bench.job import Job
from bench.method import Stage
from bench.monitor import Monitor
from bench.nn import Classifier, Encoder
from bench.parallel import first_then_others, held_by_first, on_first
from bench.protocol import ProtocolStage, build_protocol, released_classifier
from bench.recipe import RELEASED
from bench.record import Phase, Record, save_record
from bench.run.encoder import EncoderFile, Origin, intact_encoder
from bench.run.examination import examined, new_patient
from bench.run.handover import unchanged
from bench.run.preparation import Run
from bench.run.records import kept_records, new_record
from bench.run.reuse import reuse_classifier
from bench.train import Progress, finished_path, train
from bench.zoo import digest


def execute(run: Run, results_dir: Path, monitor: Monitor | None = None) -> list[tuple[Record, Path]]:
    """Complete ``run`` and return, for each protocol, its record and the record's file under ``results_dir``.

    The run may have been interrupted before, any number of times and at any point.

    Raises:
        BenchError: bad state on disk, a full disk, or diverged training.
        InterruptedRunError: a stop was requested; the same call continues.
    """
    monitor = monitor or Monitor()

    def saved(record: Record) -> tuple[Record, Path]:
        return record, save_record(results_dir, record, monitor)

    on_first(lambda: make_writable(results_dir))
    on_first(lambda: remove_unfinished(results_dir))
    with held_by_first(lambda: run.folder.claimed(monitor)):
        if on_first(lambda: _intact_encoder(run, monitor) is None and is_lost(run.folder.encoder)):
            # Its message says so, even where no protocol needs it.
            on_first(lambda: kept_encoder(run, monitor)) or _pretrain(run, monitor)
        finished = on_first(lambda: {record.protocol: saved(record) for record in kept_records(run, monitor).values()})
        on_first(lambda: _keep_sources(run, finished))
        if len(finished) < len(run.protocols):
            corrupted = first_then_others(lambda: _corrupted(run, monitor))
            on_first(lambda: _say_what_data_cannot_tell(run, monitor))
            file = on_first(lambda: kept_encoder(run, monitor)) or _pretrain(run, monitor)
            # Its preparation has built one already.
            encoder, stages = file.built(run.recipe).to(run.device), file.origin.stages or ()
            on_first(lambda: _say_collapse(run, encoder, stages, monitor))
            for protocol in run.protocols:
                if protocol not in finished:
                    record = _evaluate(run, protocol, encoder, stages, corrupted, monitor)
                    # At once: whatever becomes of the next protocol, this record counts.
                    finished[protocol] = on_first(partial(saved, record))
        return [finished[name] for name in run.protocols]


def _keep_sources(run: Run, protocols: Iterable[str]) -> None:
    """Save where the data of ``protocols`` are now, if they are not those of pre-training."""
    for protocol in protocols if run.recipe.pretrained_on else ():
        run.protocol_folder(protocol).keep_source(run.target.source)


def _corrupted(run: Run, monitor: Monitor) -> CorruptedImages | None:
    return run.corruptions.images(run.target, monitor) if run.corruptions else None


def shared_stages(runs: Sequence[Run]) -> list[Path | None]:
    """Return for each of ``runs``, which differ in their seed alone, the file of its first stage once it is trained.

    None: no other run can share that stage. The stage is built once, which takes longer than all the rest.
    """
    first = runs[0]
    stage = None if first.encoder else next(iter(first.method(first.recipe.config).stages(first.context)), None)
    folders = [stage and run.folder.stage(stage) for run in runs]
    return [
        finished_path(folder.path, stage.name) if stage and folder and folder.identity is not None else None
        for folder in folders
    ]


def train_shared(run: Run, monitor: Monitor | None = None) -> Path:
    """Train the first stage of ``run``, which other runs share, and return its file.

    Raises:
        BenchError: no other run can share it, or as in :func:`execute`.
        InterruptedRunError: a stop was requested; the same call continues.
    """
    (path,) = shared_stages([run])
    if path is None:
        raise BenchError(f"the first stage of {run.recipe.method} belongs to one run alone. Leave out --shared-only")
    _train_stage(run, next(iter(run.method(run.recipe.config).stages(run.context))), monitor or Monitor())
    return path


def _say_what_data_cannot_tell(run: Run, monitor: Monitor) -> None:
    """Report what the doctor will find in the data, before training spends time on them."""
    if run.target.inventory and run.target.inventory.knows_most(len(run.target.test)):
        monitor.note(
            f"more than half of the test images of {run.target.name} are also training images, pixel by pixel: no "
            "accuracy on them can be believed, and no board will show it. Take them out of the training images."
        )
    classes = run.target.test.labels.unique().tolist()
    if len(classes) == 1:
        monitor.note(
            f"all test images are of class {classes[0]}: a classifier that always answers {classes[0]} is right on all "
            "of them. The record notes this, and the board marks it. Split the data so that each class is tested."
        )


def _say_collapse(run: Run, encoder: Encoder, stages: Sequence[Progress], monitor: Monitor) -> None:
    """Report an encoder with constant features, before protocols spend time on it.

    An encoder that nothing has trained is not checked, nor is a released classifier, which has no features to train on.

    Raises:
        BenchError: the features are not finite.
    """
    if not (stages or run.encoder) or RELEASED in run.protocols:
        return
    images, size = run.target.train.images, run.recipe.evaluate.batch_size
    features = sample_features(encoder, images, batch_size=size, device=run.device)
    outside = run.encoder is not None and run.encoder.origin.imported is not None
    if outside and not bool(features.isfinite().all()):
        raise BenchError(
            f"the network gives features that are not finite for training images of {run.target.name}, although its "
            "weights are finite. Look in its code for a division by zero, a logarithm, or numbers that grow too large, "
            "and whether its normalisation is the one that it was trained with."
        )
    if not bool(features.isfinite().all()):
        plans = list(run.recipe.config.plans().items())
        key, lr = (f"{plans[-1][0]}.lr", plans[-1][1].lr) if plans else ("lr", 1.0)
        raise BenchError(
            f"the encoder's features are not finite, although its weights are: these grew too large in its last "
            f"stage. Train it again with a lower learning rate, for example --set {key}={min(lr / 10, 1):g}"
        )
    if constant(features):
        cause, advice = (
            ("", "Look in its code, and whether its weights and its normalisation are the right ones.")
            if outside
            else (
                "pre-training collapsed, and ",
                "Lower the learning rate of its last stage, or train it for more epochs.",
            )
        )
        monitor.note(
            f"the encoder gives all training images the same features: {cause}no protocol can separate classes on it. "
            f"The record notes this, and the board marks it. {advice}"
        )


def kept_encoder(run: Run, monitor: Monitor) -> EncoderFile | None:
    """Return the encoder if it is trained already, and make sure it is in the run's folder; None: not trained yet."""
    kept = _intact_encoder(run, monitor)
    if run.encoder is not None:
        if kept is None:
            run.encoder.save(run.folder.encoder)
        return run.encoder if kept is None else kept
    if kept is None:
        return None
    if kept.origin.fingerprint != run.folder.fingerprint:
        raise BenchError(f"{run.folder.encoder} belongs to another run. Move it away, or choose another --runs-dir.")
    if kept.origin.stages is None:
        return None  # an older file without the stages' costs: the states of the stages hold them
    if changed := [one.stage for one in kept.origin.stages if one.by_other_code]:
        monitor.note(
            f"the encoder is reused; it was trained with code that differs from the present code, or is not known "
            f"(stage {', '.join(changed)}). The record names both, and the board marks it. To train it again, remove "
            f"{run.folder.path}, or choose another --runs-dir."
        )
    return kept


def _intact_encoder(run: Run, monitor: Monitor) -> EncoderFile | None:
    """Return the encoder in the run's folder; None: it is missing, or was set aside, damaged or not the one named."""
    path, named = run.folder.encoder, run.encoder
    kept = intact_encoder(path, monitor)
    if kept is None or named is None or kept.sha256 == named.sha256:
        return kept
    aside = set_aside(path)
    monitor.note(
        f"{path} is not the encoder that was named. It was renamed to {aside.name}, and the named one is saved."
    )
    return None


def _pretrain(run: Run, monitor: Monitor) -> EncoderFile:
    """Train or load each stage, and save the encoder with the progress and cost of each stage."""
    method = run.method(run.recipe.config)
    stages: dict[str, Progress] = {}
    before = None
    with unchanged(run.context.images, run.recipe.method):
        for stage in method.stages(run.context):
            stages[stage.name] = _train_stage(run, stage, monitor, before)
            before = digest(stage.state_dict())
    recipe = run.recipe.model_dump(mode="json")
    origin = Origin(fingerprint=run.folder.fingerprint, seed=run.seed, recipe=recipe, stages=tuple(stages.values()))
    made = EncoderFile(method.result().state_dict(), origin)
    on_first(lambda: made.save(run.folder.encoder))
    return made


def _train_stage(run: Run, stage: Stage, monitor: Monitor, before: str | None = None) -> Progress:
    """Train or load ``stage``; ``before``: digest of the one before it, on which a shared stage does not depend."""
    folder = run.folder.stage(stage)
    start = before if folder.identity is None else None
    with held_by_first(lambda: folder.claimed(monitor)):
        job = Job(folder.path, folder.fingerprint, run.seed, run.device, monitor, start)
        section = run.recipe.config.section_of(stage.plan)
        return train(stage, run.dataset.pretraining_images, job, section=section)


class Trained(NamedTuple):
    """A classifier in eval mode, and its training."""

    classifier: Classifier
    progress: Progress | None
    """None: nothing was trained here."""
    stage: ProtocolStage | None
    """What trained it."""


def trained_classifier(run: Run, protocol: str, encoder: Encoder, job: Job) -> Trained:
    """Train the classifier of ``protocol`` on a copy of ``encoder``, or load it if that is finished."""
    if protocol == RELEASED:
        return Trained(released_classifier(encoder), None, None)
    data = run.target.train
    # A copy: some protocols change the encoder, and each must start from the pre-trained one.
    stage = build_protocol(protocol, run.recipe.downstream, deepcopy(encoder), data.labels, run.seed)
    progress = train(stage, data.images, job)
    return Trained(stage.classifier(), progress, stage)


def _evaluate(
    run: Run,
    protocol: str,
    encoder: Encoder,
    stages: Sequence[Progress],
    corrupted: CorruptedImages | None,
    monitor: Monitor,
) -> Record:
    """Run one protocol on ``encoder`` and return its record, which is written to the run's folder."""
    folder, data, recipe = run.protocol_folder(protocol), run.target, run.recipe.downstream
    on_first(lambda: _keep_sources(run, [protocol]))
    before = digest(encoder.state_dict())
    job = Job(folder.path, folder.fingerprint, run.seed, run.device, monitor, before)
    phases = {str(Phase("stage", done.stage)): done for done in stages}
    if protocol != RELEASED:
        on_first(lambda: reuse_classifier(run, protocol, before, job))
    classifier, progress, stage = trained_classifier(run, protocol, encoder, job)
    if progress:
        phases[str(Phase("protocol", protocol))] = progress
    weights = before, digest(classifier.state_dict())
    with monitor.under(protocol) if len(run.protocols) > 1 else nullcontext():
        evaluation = evaluate(classifier, data.test, job, recipe=recipe, corrupted=corrupted)

    def concluded() -> Record:
        """Let the doctor see the classifier, and write the record."""
        patient = new_patient(
            classifier,
            data,
            recipe,
            protocol=protocol,
            seed=run.seed,
            device=run.device,
            weights=weights,
            measured=evaluation,
        )
        visit = examined(patient, job)
        record = new_record(run, protocol, evaluation, visit, phases, weights, stage)
        write_json(folder.record, record.model_dump(mode="json"))
        return record

    return on_first(concluded)
