"""The verbs of a notebook that need torch: load an encoder, and evaluate it."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.monitor import Monitor
from bench.nn import Encoder
from bench.record import LOCAL, Record
from bench.run import EvaluationRequest, encoder_path, execute, prepare_evaluation
from bench.run import load_encoder as load_file
from bench.zoo import digest


def load_encoder(source: str | Path, *, runs_dir: str | Path = "runs") -> Encoder:
    """Return a trained encoder, on the CPU and in eval mode: images [B, C, H, W] in [0, 1] -> features [B, D].

    Args:
        source: what ``bench evaluate`` takes: an encoder file, a checkpoint in a known layout, a run's folder or name.
        runs_dir: where runs are kept, for a name.

    Raises:
        BenchError: there is no such encoder, its file is damaged, or its method is not installed.
    """
    path = encoder_path(Path(source), Path(runs_dir))
    encoder = load_file(path).plain()
    encoder.source = path
    return encoder


def evaluate(
    encoder: Encoder | str | Path,
    dataset: str | None = None,
    *,
    protocols: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    runs_dir: str | Path = "runs",
    results_dir: str | Path = Path("results", LOCAL),
    data_dir: str | Path = "data",
) -> list[Record]:
    """Evaluate an encoder as ``bench evaluate`` does, and return its records, one a protocol; finished ones are read.

    Args:
        encoder: what :func:`load_encoder` returned, or what it takes.
        dataset: the data to evaluate on; None: those that it was trained on.
        protocols: of slf, alf and aff; None: all that apply.
        settings: as in ``--set``: dotted keys to values, such as ``{"evaluate.autoattack": False}``.
        seed: of protocols and attacks; None: that of pre-training.
        device: cpu, cuda, cuda:1; None: the best there is.
        runs_dir: where weights and state are kept.
        results_dir: where records are written.
        data_dir: where datasets are downloaded to.

    Raises:
        BenchError: an encoder that does not come from a file or was changed since, and all that ``bench evaluate``
            refuses.
    """
    path = _unchanged(encoder) if isinstance(encoder, Encoder) else encoder_path(Path(encoder), Path(runs_dir))
    request = EvaluationRequest(
        encoder=path,
        finetune_dataset=dataset,
        protocols=protocols,
        seed=seed,
        overrides=settings or {},
        runs_dir=Path(runs_dir),
        data_dir=Path(data_dir),
        device=device,
    )
    return [record for record, _ in execute(prepare_evaluation(request), Path(results_dir), _Warning())]


def _unchanged(encoder: Encoder) -> Path:
    if encoder.source is None:
        raise BenchError("this encoder does not come from a file. Load one with bench.load_encoder(...).")
    if digest(encoder.state_dict()) != load_file(encoder.source).sha256:
        raise BenchError(
            f"the weights of this encoder are no longer those of {encoder.source}, so a record could not say where "
            "they come from. Load it again with bench.load_encoder(...)."
        )
    return encoder.source


class _Warning(Monitor):
    """Shows no progress; what must be known is a warning."""

    def note(self, message: str) -> None:
        warnings.warn(message, stacklevel=2)
