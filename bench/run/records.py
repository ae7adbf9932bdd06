"""A run's records: new ones, and those in its folder, which are checked before use."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import torch

from bench.code import code_digest
from bench.device import device_name
from bench.errors import DamagedFileError
from bench.evaluation import Evaluation
from bench.files import set_aside
from bench.monitor import Monitor
from bench.protocol import ProtocolStage
from bench.record import Environment, Record, describe_environment, load_record
from bench.run.encoder import intact_encoder
from bench.run.examination import Examined
from bench.run.preparation import Run
from bench.train import Progress


def kept_records(run: Run, monitor: Monitor) -> dict[str, Record]:
    """Return the finished records of ``run`` by protocol.

    A record that is damaged or belongs to another run is renamed and reported to ``monitor``; its protocol is then
    continued from the other files in the folder.

    Raises:
        BenchError: a record that a later version of the bench wrote, or a folder that cannot be written.
    """
    found: dict[str, Record] = {}
    paths = {name: path for name in run.protocols if (path := run.protocol_folder(name).record).exists()}
    encoder = intact_encoder(run.folder.encoder, monitor) if paths else None
    for name, path in paths.items():
        try:
            record = load_record(path)
            faults = list(_faults(run, name, record, encoder.sha256 if encoder else None))
        except DamagedFileError as error:
            faults = [str(error)]
        if faults:
            aside = set_aside(path)
            monitor.note(
                f"{path} is damaged or belongs to another run ({'; '.join(faults)}). It was renamed to {aside.name}."
            )
        else:
            found[name] = record
    return found


def _faults(run: Run, protocol: str, record: Record, encoder_sha256: str | None) -> Iterator[str]:
    """Yield each difference between ``record`` and what ``run`` would have written under ``protocol``."""
    recipe = run.recipe
    wanted = {
        "method": recipe.method,
        "dataset": recipe.downstream.dataset.name,
        "tier_sha256": recipe.tier_sha256,
        "fidelity": recipe.fidelity,
        "protocol": protocol,
        "seed": run.seed,
        "encoder_seed": run.encoder_seed,
        "pretraining_sha256": recipe.pretraining_digest(),
        "protocol_sha256": recipe.protocol_digest(protocol),
        # Weights that were deleted to save space cannot be compared.
        **({} if encoder_sha256 is None else {"encoder_sha256": encoder_sha256}),
    }
    for key, value in wanted.items():
        if (held := getattr(record, key)) != value:
            yield f"{key} is {held}, not {value}"


def new_record(
    run: Run,
    protocol: str,
    evaluation: Evaluation,
    visit: Examined,
    phases: Mapping[str, Progress],
    weights: tuple[str, str],
    stage: ProtocolStage | None,
) -> Record:
    """Return the record of ``protocol`` of ``run``: its measurements and their conditions.

    Args:
        visit: the doctor's.
        phases: progress and cost of each stage and of the protocol, by phase.
        weights: digests of the encoder before the protocol, and of the classifier.
        stage: of the protocol; None: nothing was trained.
    """
    recipe = run.recipe
    trained = {name: done.environments for name, done in phases.items()}
    environments = {**trained, **evaluation.environments, **visit.environments}
    return Record(
        **run.record_name(protocol)._asdict(),
        title=run.method.info.title,
        year=run.method.info.year,
        tier_sha256=recipe.tier_sha256,
        overrides=recipe.overrides_of(protocol),
        recipe=recipe.model_dump(mode="json"),
        data=run.target.inventory,
        pretraining_data=run.dataset.inventory if run.finetune else None,
        pretraining_sha256=recipe.pretraining_digest(),
        encoder_sha256=weights[0],
        classifier_sha256=weights[1],
        selected_epoch=stage and stage.selected_epoch,
        labelled=stage and stage.labelled,
        sa=evaluation.sa,
        ra=evaluation.ra,
        aa=evaluation.aa,
        attacks=evaluation.attacks,
        corruptions=evaluation.corruptions,
        doctor=visit.diagnoses,
        cost={**{name: done.cost for name, done in phases.items()}, **evaluation.cost, **visit.cost},
        history={name: done.history for name, done in phases.items()},
        environment=describe_environment(device_name(run.device), torch.get_num_threads()),
        environments=environments,
        code={name: digest for name, ran in environments.items() if (digest := _present_code(ran))},
        started=run.folder.started,
        finished=datetime.now(UTC),
    ).sealed()


def _present_code(ran: Sequence[Environment | None]) -> str | None:
    """Return the digest of a phase's modules in the present code; None if the modules are not known."""
    modules = [one.modules for one in ran if one]
    return code_digest(*modules[-1]) if modules else None
