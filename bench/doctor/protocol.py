"""Checks of the protocol: the encoder, the data and the classifier that was trained."""

import torch
from torch import Tensor

from bench.doctor.check import Check, Finding, check
from bench.doctor.patient import Patient
from bench.evaluation import constant, sample_features
from bench.recipe import AFFSettings, LinearSettings
from bench.record import Outcome, Verdict, wilson_interval
from bench.zoo import digest

_FEATURES = 128
"""Training images whose features are compared: of a collapsed encoder, all are the same."""


@check(
    "encoder unchanged",
    question="A protocol with a frozen encoder has left it as it was, to the last bit.",
    meaning="SLF and ALF measure the encoder that pre-training made. This one was changed by the protocol, so the row "
    "is that of another encoder.",
    remedy="Freeze parameters and running statistics of the encoder during the protocol, and run it again.",
)
def _encoder_unchanged(patient: Patient) -> Finding | None:
    settings = None if patient.released else patient.recipe.protocol(patient.protocol)
    if settings is None or isinstance(settings, AFFSettings):
        return None  # nothing is trained, or all is
    same = digest(patient.classifier.encoder.state_dict()) == patient.encoder_sha256
    numbers = {"changed": float(not same)}
    if same:
        return Finding("sound", f"the encoder has the digest {patient.encoder_sha256[:12]} from before", numbers)
    if isinstance(settings, LinearSettings) and settings.encoder_bn == "train":
        said = "the encoder has another digest than before, as its batch-norm statistics move with encoder_bn=train"
        return Finding("note", said, numbers)
    return Finding("fail", f"the encoder no longer has the digest {patient.encoder_sha256[:12]} from before", numbers)


@check(
    "features vary",
    question="The encoder gives different images different features.",
    meaning="Pre-training collapsed: no protocol can tell classes apart by constant features.",
    remedy="Lower the learning rate of its last stage, or train it for more epochs.",
)
def _features_vary(patient: Patient) -> Finding | None:
    if patient.released:
        return None  # its encoder gives logits
    images = (patient.train or patient.test).images
    few = images[:: -(-len(images) // _FEATURES)]
    features = sample_features(patient.classifier.encoder, few, batch_size=_FEATURES, device=patient.device)
    share = float((features - features.mean(0)).norm() / features.norm().clamp_min(torch.finfo(torch.float64).tiny))
    said = f"features of {len(features)} images are {share:.2g} of their length away from their mean"
    return Finding("doubt" if constant(features) else "sound", said, {"distance from the mean": share})


@check(
    "better than guessing",
    question="The classifier is right more often than one that always gives the same answer.",
    meaning="The classifier has learnt nothing that an attack could take from it, so RA and AA say nothing. If no "
    "attack changes its answer, they are as high as SA.",
    remedy="Look at the training curves: the rate may be too high, or the features carry no information. If all test "
    "images are of one class, split the data again.",
)
def _better_than_guessing(patient: Patient) -> Finding | None:
    if patient.sa is None:
        return None
    labels = patient.test.labels
    counts = labels.bincount()
    chance, low = counts.max().item() / len(labels), patient.sa.interval[0]
    numbers = {"accuracy": patient.sa.accuracy, "lower end of its interval": low, "always the same answer": chance}
    if len(counts.nonzero()) == 1:
        return Finding("doubt", f"all {len(labels)} test images are of class {int(counts.argmax())}", numbers)
    answer = _always(patient.sa, labels)
    if answer is not None:
        return Finding(
            "doubt",
            f"the clean images of class {answer} are right and all others wrong, as with one answer to all",
            numbers,
        )
    said = (
        f"SA is {100 * patient.sa.accuracy:.1f} %, at least {100 * low:.1f} % with its interval, and always giving the "
        f"same answer would be right on {100 * chance:.1f} %"
    )
    return Finding("sound" if low > chance else "doubt", said, numbers)


def _always(sa: Outcome, labels: Tensor) -> int | None:
    """Return the class whose images are right while all others are wrong, if there is one."""
    right = labels[torch.tensor(sa.unpack())].unique()
    one = int(right[0]) if len(right) == 1 else None
    return one if one is not None and sa.correct == int((labels == one).sum()) else None


@check(
    "training and test apart",
    question="No test image is among the training images.",
    meaning="A classifier may know test images by heart, so accuracies are too high by up to the share of such images.",
    remedy="Remove exact duplicates from the training images and train again, or name the number beside the result.",
)
def _apart(patient: Patient) -> Finding | None:
    if patient.inventory is None or not patient.inventory.duplicates:
        return None  # not counted when the data were read
    count, n = patient.inventory.duplicates.get("test in train", 0), len(patient.test)
    said = f"{count} of {n} test images are also training images, pixel by pixel"
    low, high = patient.sa.interval if patient.sa else wilson_interval(n / 2, n)
    # Fewer than half the interval's width change SA by less than chance does; with more than half of all images known,
    # the number is no accuracy on new images.
    share = count / n
    few, most = share <= (high - low) / 2, patient.inventory.knows_most(n)
    verdict: Verdict = "sound" if not count else "note" if few else "fail" if most else "doubt"
    return Finding(verdict, said, {"duplicates": float(count), "share": share})


@check(
    "weights unchanged",
    question="Weights and buffers are the same after the evaluation as before.",
    meaning="The model learns or collects statistics while it is evaluated, so the images were judged by different "
    "models, and nobody can repeat the numbers.",
    remedy="Keep running statistics and optimisers still in eval mode, and evaluate again.",
)
def _weights_unchanged(patient: Patient) -> Finding:
    same = digest(patient.classifier.state_dict()) == patient.classifier_sha256
    if same:
        return Finding("sound", "all weights and buffers have the same digest as before", {"changed": 0.0})
    return Finding("fail", "weights or buffers have another digest than before", {"changed": 1.0})


PROTOCOL: tuple[Check, ...] = (
    _encoder_unchanged,
    _features_vary,
    _better_than_guessing,
    _apart,
    _weights_unchanged,  # the last of all: after every pass of the other checks
)
