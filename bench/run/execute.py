"""Carrying out a run: stages, protocols, evaluation, records. Whatever is finished already is not done again."""

from collections.abc import Mapping
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
from bench.run.corrupted import corrupted_images
from bench.run.prepare import Run
from bench.stop import Stop
from bench.train import Cost, device_name, train
from bench.train.checkpoint import Progress
from bench.zoo import digest, save_tensors


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
            corrupted = corrupted_images(
                run.recipe, run.corruption_files, run.dataset, data_dir=run.data_dir, reporter=reporter, stop=stop
            )
            encoder, stages = _pretrain(run, reporter, stop)
            for protocol in run.protocols:
                if protocol not in finished:
                    finished[protocol] = _evaluate(run, protocol, encoder, stages, corrupted, reporter, stop)
        return [(finished[name], save_record(results_dir, finished[name])) for name in run.protocols]


def _finished_records(run: Run) -> dict[str, Record]:
    paths = {name: run.folder.protocol(name).record for name in run.protocols}
    return {name: load_record(path) for name, path in paths.items() if path.exists()}


def _pretrain(run: Run, reporter: Reporter, stop: Stop) -> tuple[Encoder, dict[str, Progress]]:
    """Train each stage, or load it, and return the encoder and what each stage took."""
    method = run.method(run.recipe.config)
    stages: dict[str, Progress] = {}
    for stage in method.stages(run.context):
        if stage.name in stages:
            raise BenchError(f"method {run.recipe.method!r} has two stages called {stage.name!r}; rename one.")
        stages[stage.name] = train(
            stage,
            run.dataset.pretraining_images,
            folder=run.folder.path,
            owner=run.folder.owner,
            seed=run.seed,
            device=run.device,
            reporter=reporter,
            stop=stop,
        )
    encoder = method.result().to(run.device).eval()
    if not run.folder.encoder.exists():
        metadata = {"owner": run.folder.owner, "seed": run.seed, "recipe": run.recipe.model_dump(mode="json")}
        save_tensors(run.folder.encoder, encoder.state_dict(), metadata)
    return encoder, stages


def _evaluate(
    run: Run,
    protocol: str,
    encoder: Encoder,
    stages: Mapping[str, Progress],
    corrupted: CorruptedImages | None,
    reporter: Reporter,
    stop: Stop,
) -> Record:
    """Carry out one protocol on ``encoder`` and return its record, written to the run's folder."""
    place = run.folder.protocol(protocol)
    # A copy: some protocols change the encoder, and each must start from the pre-trained one.
    stage = build_protocol(protocol, run.recipe, deepcopy(encoder), run.dataset.train.labels, run.seed)
    before = digest(encoder.state_dict())
    progress = train(
        stage,
        run.dataset.train.images,
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
        run.dataset.test,
        recipe=run.recipe,
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
        {**{f"stage:{name}": done for name, done in stages.items()}, f"protocol:{protocol}": progress},
        weights=(before, digest(classifier.state_dict())),
    )
    write_json(place.record, record.model_dump(mode="json"))
    return record


def _record(
    run: Run,
    protocol: str,
    evaluation: Evaluation,
    phases: Mapping[str, Progress],
    weights: tuple[str, str],
) -> Record:
    recipe = run.recipe
    started = datetime.fromtimestamp((run.folder.path / "run.json").stat().st_mtime, UTC)
    return Record(
        method=recipe.method,
        title=run.method.info.title,
        year=run.method.info.year,
        dataset=recipe.dataset.name,
        tier=recipe.tier,
        tier_sha256=recipe.tier_sha256,
        fidelity=recipe.fidelity,
        seed=run.seed,
        protocol=protocol,
        overrides=recipe.overrides,
        recipe=recipe.model_dump(mode="json"),
        pretraining_sha256=recipe.pretraining_digest(),
        protocol_sha256=recipe.protocol_digest(protocol),
        encoder_sha256=weights[0],
        classifier_sha256=weights[1],
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
