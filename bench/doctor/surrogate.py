"""A small network that is trained on the spot, for attacks that are made on one network and tried on another."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from bench import rng
from bench.data import unit_pixels
from bench.doctor.patient import Patient

_IMAGES, _EPOCHS, _BATCH = 2000, 10, 64


def trained_surrogate(patient: Patient) -> nn.Module | None:
    """Return a plain classifier of the patient's training images, in eval mode; it takes seconds.

    It has learnt without attacks, as a plain SimCLR encoder has, and needs no other run: a deep visit always finds it.

    Returns:
        None where the training images are not at hand, or where the network learnt too little from them: it must be
        right on twice as many of the sample as a guess or, of two classes, on three quarters.
    """
    if patient.train is None:
        return None
    classes, device = patient.recipe.dataset.num_classes, patient.device
    order = torch.randperm(len(patient.train), generator=rng.generator(0, "surrogate"))[:_IMAGES]
    images, labels = (part[order].to(device) for part in (patient.train.images, patient.train.labels))
    with rng.scoped(0, "surrogate", "weights", device=device):
        model = _network(images.shape[1], classes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(_EPOCHS):
        for batch in torch.randperm(len(labels), generator=rng.generator(0, "surrogate", epoch)).split(_BATCH):
            if len(batch) == 1:
                continue  # batch-norm cannot normalise it
            optimizer.zero_grad()
            with torch.enable_grad():
                F.cross_entropy(model(unit_pixels(images[batch])), labels[batch]).backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    right = model(patient.sample.images).argmax(1) == patient.sample.labels
    return model if right.double().mean() >= (2 / classes if classes > 2 else 0.75) else None


def _network(channels: int, classes: int) -> nn.Sequential:
    sizes = (channels, 32, 64)
    blocks = [
        (nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(sizes)
    ]
    layers = [layer for block in blocks for layer in block]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * sizes[-1], classes))
