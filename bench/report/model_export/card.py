"""The model card: what a network is, how robust it was measured to be, and how it is loaded without the bench."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from bench.monitor import plural
from bench.recipe import SEVERITIES, protocol_title
from bench.record import CorruptionEvaluation, Outcome, Record
from bench.report.facts import attacks, flags
from bench.report.reproduce import reproduction
from bench.report.templating import templates
from bench.zoo import Loading, Model

_ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Data of ours that the Hub has under a name."""


class Accuracy(NamedTuple):
    """One kind of accuracy of a record."""

    name: str
    """AA, Attacks, RA, SA or mCA."""
    what: str
    """The attack and its radius, or the corruptions."""
    outcome: Outcome | CorruptionEvaluation


def card(model: Model, loading: Loading, records: Sequence[Record]) -> str:
    """Return the content of the card, a README.md with the metadata header of the Hugging Face Hub.

    Args:
        model: the network.
        loading: how it is loaded.
        records: of the protocols whose results it shows, with the evaluation of this network, or of this encoder.
    """
    name = f"{model.title} {model.year}"
    found = templates("bench.report.model_export").get_template("README.md")
    return found.render(
        header=_header(model, loading, records, name).to_yaml(),
        name=name,
        model=model,
        loading=loading,
        results=_measured(records),
        limits=[(record, [*_resized(record), *flags(record)]) for record in records],
        commands=[(record, reproduction(record)) for record in records],
    )


def _header(model: Model, loading: Loading, records: Sequence[Record], name: str) -> ModelCardData:
    data = {model.trained_on, *(record.dataset for record in records)}
    return ModelCardData(
        model_name=name,
        library_name=loading.library,
        pipeline_tag="image-feature-extraction" if model.classes is None else "image-classification",
        tags=["adversarial-robustness", "self-supervised-learning", "ssl-robustness-bench"],
        datasets=sorted(_ON_THE_HUB[each] for each in data if each in _ON_THE_HUB) or None,
        metrics=["accuracy"],
        eval_results=[_result(record, one) for record, found in _measured(records) for one in found] or None,
    )


def _resized(record: Record) -> Iterator[str]:
    """Yield what was done to images of another size than those of pre-training."""
    target = record.read_recipe().finetune
    if target and target.resized_from:
        (_, *size), before = target.dataset.image_shape, target.resized_from
        yield (
            f"its images of {before[0]} x {before[1]} were resized to {size[0]} x {size[1]}, by bilinear interpolation "
            "with antialiasing"
        )


def _believed(records: Sequence[Record]) -> list[Record]:
    """Return those whose evaluation failed no check; the limits name the others."""
    return [record for record in records if not record.diagnosed("fail")]


def _measured(records: Sequence[Record]) -> list[tuple[Record, list[Accuracy]]]:
    """Return what each record says that none before it says: SA is the same at every radius."""
    found: list[tuple[Record, list[Accuracy]]] = []
    said: list[tuple[str, str, Accuracy]] = []
    for record in _believed(records):
        new = [one for one in _accuracies(record) if (record.protocol, record.dataset, one) not in said]
        said += [(record.protocol, record.dataset, one) for one in new]
        found.append((record, new))
    return found


def _accuracies(record: Record) -> Iterator[Accuracy]:
    for attack in attacks(record):
        yield Accuracy(*attack)
    if record.corruptions:
        corruptions = plural(len(record.corruptions.correct), "common corruption")
        yield Accuracy("mCA", f"{corruptions} in {len(SEVERITIES)} severities", record.corruptions)


def _result(record: Record, one: Accuracy) -> EvalResult:
    # The Hub merges results of one task and data set, so the protocol and the attack are in the metric's name.
    return EvalResult(
        task_type="image-classification",
        dataset_type=_ON_THE_HUB.get(record.dataset, record.dataset),
        dataset_name=record.dataset,
        dataset_split="test",
        metric_type="accuracy",
        metric_name=f"{one.name} under {protocol_title(record.protocol)} ({one.what})",
        metric_value=round(100 * one.outcome.accuracy, 2),
    )
