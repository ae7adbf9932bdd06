"""Carrying out a run: stages, protocols, evaluation, records. Whatever is finished already is not done again."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.data.corruptions import CorruptedImages
from bench.errors import BenchError
from bench.evaluate import Evaluation, evaluate
from bench.files import make_writable, write_json
from bench.nn import Encoder
from bench.protocol import build_protocol
from bench.record import PhaseCost, Record, describe_environment, load_record, save_record
from bench.reporting import Reporter, Silent
from bench.run.encoder import EncoderFile, Origin, intact_encoder, load_encoder
from bench.run.prepare import Run
from bench.run.stages import StageFolder
from bench.stop import Stop
from bench.train import Cost, device_name, train
from bench.train.checkpoint import Progress
from bench.zoo import digest


def execute(
    run: Run, results_dir: Path, *, reporter: Reporter | None = None, stop: Stop | None = None
) -> list[tuple[Record, Path]]:
    """Take ``run`` to its end and return one record, and its file under ``results_dir``, a protocol.

    The run may have been interrupted any number of times before, at any point.

    Raises:
        BenchError: bad state on disk, a full disk, a training that diverged.
        InterruptedRunError: a stop was requested; the same call continues.
    """
    reporter, stop = reporter or Silent(), stop or Stop()
    make_writable(results_dir)
    with run.folder.claimed():
        finished = _finished_records(run)
        if len(finished) < len(run.protocols):
            corrupted = run.corruptions.images(run.target, reporter, stop) if run.corruptions else None
            encoder, stages = _pretrained(run, reporter, stop)
            for protocol in run.protocols:
                if protocol not in finished:
                    finished[protocol] = _evaluate(run, protocol, encoder, stages, corrupted, reporter, stop)
        return [(finished[name], save_record(results_dir, finished[name])) for name in run.protocols]


def _finished_records(run: Run) -> dict[str, Record]:
    paths = {name: run.place(name).record for name in run.protocols}
    return {name: load_record(path) for name, path in paths.items() if path.exists()}


def _pretrained(run: Run, reporter: Reporter, stop: Stop) -> tuple[Encoder, Sequence[Progress]]:
    """Return the encoder on the run's device, in eval mode, and what each stage took: loaded, or trained now."""
    kept = intact_encoder(run.folder.encoder, reporter)
    if run.checkpoint is not None:
        if kept is None:
            kept = load_encoder(run.checkpoint)
            kept.save(run.folder.encoder)
    elif kept is not None and kept.origin.owner != run.folder.owner:
        raise BenchError(f"{run.folder.encoder} belongs to another run. Move it away, or choose another --runs-dir.")
    elif kept is None or kept.origin.stages is None:
        kept = _pretrain(run, reporter, stop)
        kept.save(run.folder.encoder)
    return kept.encoder(run.recipe).to(run.device), kept.origin.stages or ()


def _pretrain(run: Run, reporter: Reporter, stop: Stop) -> EncoderFile:
    """Train each stage, or load it, and return the encoder and what each stage took."""
    method = run.method(run.recipe.config)
    stages: dict[str, Progress] = {}
    for stage in method.stages(run.context):
        if stage.name in stages:
            raise BenchError(f"method {run.recipe.method!r} has two stages called {stage.name!r}; rename one.")
        place = StageFolder.of(run, stage)
        with place.claimed(reporter, stop):
            stages[stage.name] = train(
                stage,
                run.dataset.pretraining_images,
                folder=place.path,
                owner=place.owner,
                seed=run.seed,
                device=run.device,
                reporter=reporter,
                stop=stop,
            )
    recipe = run.recipe.model_dump(mode="json")
    origin = Origin(owner=run.folder.owner, seed=run.seed, recipe=recipe, stages=tuple(stages.values()))
    return EncoderFile(method.result().state_dict(), origin)


def _evaluate(
    run: Run,
    protocol: str,
    encoder: Encoder,
    stages: Sequence[Progress],
    corrupted: CorruptedImages | None,
    reporter: Reporter,
    stop: Stop,
) -> Record:
    """Carry out one protocol on ``encoder`` and return its record, written to the run's folder."""
    place, data, recipe = run.place(protocol), run.target, run.recipe.downstream
    if run.recipe.pretrained_on:
        write_json(place.target, {"spec": data.spec})
    # A copy: some protocols change the encoder, and each must start from the pre-trained one.
    stage = build_protocol(protocol, recipe, deepcopy(encoder), data.train.labels, run.seed)
    before = digest(encoder.state_dict())
    progress = train(
        stage,
        data.train.images,
        folder=place.path,
        owner=place.owner,
        seed=run.seed,
        device=run.device,
        reporter=reporter,
        stop=stop,
    )
    classifier = stage.classifier()
    evaluation = evaluate(
        classifier,
        data.test,
        recipe=recipe,
        owner=place.owner,
        path=place.evaluation,
        seed=run.seed,
        device=run.device,
        reporter=reporter,
        stop=stop,
        corrupted=corrupted,
    )
    record = _record(
        run,
        protocol,
        evaluation,
        {**{f"stage:{done.stage}": done for done in stages}, f"protocol:{protocol}": progress},
        weights=(before, digest(classifier.state_dict())),
        selected_epoch=stage.selected_epoch,
    )
    write_json(place.record, record.model_dump(mode="json"))
    return record


def _record(
    run: Run,
    protocol: str,
    evaluation: Evaluation,
    phases: Mapping[str, Progress],
    weights: tuple[str, str],
    selected_epoch: int | None,
) -> Record:
    recipe = run.recipe
    started = datetime.fromtimestamp(run.folder.description.stat().st_mtime, UTC)
    return Record(
        method=recipe.method,
        title=run.method.info.title,
        year=run.method.info.year,
        dataset=recipe.downstream.dataset.name,
        pretrained_on=recipe.pretrained_on,
        tier=recipe.tier,
        tier_sha256=recipe.tier_sha256,
        fidelity=recipe.fidelity,
        seed=run.seed,
        encoder_seed=None if run.folder.seed == run.seed else run.folder.seed,
        protocol=protocol,
        overrides=recipe.overrides_of(protocol),
        recipe=recipe.model_dump(mode="json"),
        pretraining_sha256=recipe.pretraining_digest(),
        protocol_sha256=recipe.protocol_digest(protocol),
        encoder_sha256=weights[0],
        classifier_sha256=weights[1],
        selected_epoch=selected_epoch,
        sa=evaluation.sa,
        ra=evaluation.ra,
        aa=evaluation.aa,
        corruptions=evaluation.corruptions,
        cost={**{name: _cost(done.cost) for name, done in phases.items()}, **evaluation.cost},
        history={name: done.history for name, done in phases.items()},
        environment=describe_environment(device_name(run.device), torch.get_num_threads()),
        started=started.replace(microsecond=0),
        finished=datetime.now(UTC).replace(microsecond=0),
    ).sealed()


def _cost(cost: Cost) -> PhaseCost:
    return PhaseCost(images_per_second=cost.images_per_second, **cost.model_dump())
