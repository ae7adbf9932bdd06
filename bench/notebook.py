"""The verbs of a notebook that need torch: load an encoder, and evaluate it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from bench.errors import BenchError, NotLoadedError, warn
from bench.method import METHODS
from bench.monitor import Monitor
from bench.nn import ENCODERS, Encoder
from bench.recipe import with_checked_arguments
from bench.recipe.fields import Whole
from bench.record import LOCAL, Record
from bench.results import corrections_by_record
from bench.run import EvaluationRequest, WeightChoices, encoder_path, execute, prepare_evaluation
from bench.zoo import digest


@with_checked_arguments
def load_encoder(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    normalisation: str | None = None,
    network: str | None = None,
    options: Mapping[str, JsonValue] | None = None,
    encoder: str | None = None,
    method: str | None = None,
    runs_dir: str | Path = "runs",
    data_dir: str | Path = "data",
) -> Encoder:
    """Return a trained encoder, on the CPU and in eval mode: images [B, C, H, W] in [0, 1] -> features [B, D].

    Args:
        source: what ``bench evaluate`` takes: an encoder file, a checkpoint in a known layout, a run's folder, its
            name or how that alone begins; a network, ``timm:NAME``, ``torchvision:NAME`` or ``FILE.py:NAME``; or a
            classifier, ``robustbench:NAME``, whose features are its logits.
        weights: the file of the weights of a network, or of a classifier that is not to be downloaded.
        normalisation: as in ``--normalisation``: of the input of a network; None: its library's, none for FILE.py.
        network: as in ``--network``: which of several networks in the file of the weights.
        options: ``encoder.options`` of a network, such as ``{"img_size": 32}``.
        encoder: ``FILE.py:NAME`` of the network that a run was made with, as in ``bench --encoder``.
        method: ``FILE.py:NAME`` of its method, as in ``bench --method``.
        runs_dir: where runs are kept, for a name.
        data_dir: where weights of RobustBench are downloaded to.

    Raises:
        BenchError: there is no such encoder, its file is damaged or does not fit, or its method is not installed.
    """
    for registry, own in ((ENCODERS, encoder), (METHODS, method)):
        if own is not None:
            registry.get(own)
    request = EvaluationRequest(
        encoder=encoder_path(source, Path(runs_dir)),
        overrides={"encoder.options": dict(options)} if options else {},
        data_dir=Path(data_dir),
        weights=WeightChoices(None if weights is None else Path(weights), normalisation, network),
    )
    with _in_python():
        loaded = request.open().plain()
    loaded.source = request
    return loaded


@with_checked_arguments
def evaluate(
    encoder: nn.Module | str | Path,
    dataset: str | None = None,
    *,
    protocols: str | Sequence[str] | None = None,
    settings: Mapping[str, JsonValue] | None = None,
    seed: Whole | None = None,
    device: str | None = None,
    runs_dir: str | Path = "runs",
    results_dir: str | Path = Path("results", LOCAL),
    data_dir: str | Path | None = None,
) -> list[Record]:
    """Evaluate an encoder as ``bench evaluate`` does, and return its records, one a protocol; finished ones are read.

    Args:
        encoder: what :func:`load_encoder` returned, or what it takes without further arguments.
        dataset: the data to evaluate on; None: those that it was trained on.
        protocols: as of `bench evaluate`, one or several; None: slf, alf and aff, where they apply.
        settings: as in ``--set``: dotted keys to values, such as ``{"evaluate.autoattack": False}``.
        seed: of protocols and attacks; None: that of pre-training.
        device: cpu, cuda, cuda:1; None: the best there is.
        runs_dir: where weights and state are kept.
        results_dir: where records are written.
        data_dir: where datasets are downloaded to; None: where :func:`load_encoder` looked, or "data".

    Raises:
        BenchError: an encoder that was not loaded with :func:`load_encoder` or was changed since, and all that
            ``bench evaluate`` refuses.
    """
    if isinstance(encoder, nn.Module):
        loaded = _unchanged(encoder)
    else:
        loaded = EvaluationRequest(encoder_path(encoder, Path(runs_dir)))
    request = replace(
        loaded,
        finetune_dataset=dataset,
        protocols=protocols,
        seed=seed,
        overrides={**loaded.overrides, **(settings or {})},
        runs_dir=Path(runs_dir),
        data_dir=loaded.data_dir if data_dir is None else Path(data_dir),
        device=device,
    )
    with _in_python():
        records = [record for record, _ in execute(prepare_evaluation(request), Path(results_dir), _Warning())]
    withdrawn = corrections_by_record(Path(results_dir))
    for record in records:
        if why := withdrawn.get(record.sha256):
            warn(f"the record of {record.protocol} was {why.said}")
    return records


@contextmanager
def _in_python() -> Iterator[None]:
    """Leave inference mode, and say what to call where a message of the command line says what to type."""
    try:
        with torch.inference_mode(False):
            yield
    except NotLoadedError as error:
        call = {
            "encoder": f'bench.load_encoder(SOURCE, encoder="{error.typed}")',
            "method": f'bench.load_encoder(SOURCE, method="{error.typed}")',
            "attack": f'bench.attack.ATTACKS.name_of("{error.typed}")',
        }[error.kind]
        raise BenchError(
            f"{error.what} First call {call} with the path of the file for FILE.py; its code must be what it was."
        ) from error


def _unchanged(encoder: nn.Module) -> EvaluationRequest:
    source = encoder.source if isinstance(encoder, Encoder) else None
    if not isinstance(source, EvaluationRequest):
        raise BenchError(
            "this encoder does not come from a file, so a record could not say what it is. Load it with "
            "bench.load_encoder(...): a network of your own as './net.py:NAME' with weights='net.pt'."
        )
    file, state = source.open(), encoder.state_dict()
    if any(tensor.is_meta for tensor in state.values()) or digest(state) != file.sha256:
        raise BenchError(
            f"the weights of this encoder are no longer those of {source.encoder}, so a record could not say where "
            "they come from. Load it again with bench.load_encoder(...)."
        )
    if _form(encoder) != _form(file.plain()):
        raise BenchError(
            f"modules, forward hooks or forward() of this encoder are no longer those of {source.encoder}, which is "
            "what would be evaluated. Load it again with bench.load_encoder(...); a network with changes of your own "
            "is one as './net.py:NAME' with weights='net.pt'."
        )
    return source


def _form(encoder: nn.Module) -> tuple[str, list[int]]:
    """Return what an encoder computes with besides its weights: its modules, and of each its forward hooks.

    A ``forward`` that was set on a module itself, not its class, counts as a hook.
    """
    parts = encoder.modules()
    return str(encoder), [
        len(part._forward_hooks) + len(part._forward_pre_hooks) + ("forward" in vars(part)) for part in parts
    ]


class _Warning(Monitor):
    """Shows no progress; what must be known is a warning."""

    def note(self, message: str) -> None:
        warn(message)
