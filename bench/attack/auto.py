"""AutoAttack over a whole test set, attack by attack and batch by batch, able to stop after any of them.

Each (attack, batch) has its own seed and gets only the images that survived the earlier attacks. A run that was
killed and continued from its last `AutoAttackState` therefore ends exactly as an uninterrupted one.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench import rng
from bench.attack.ball import refuse_outside
from bench.attack.frozen import attacking
from bench.attack.official import Flags, OfficialAutoAttack, Version
from bench.attack.verdict import correct
from bench.errors import BenchError
from bench.parallel import in_turn
from bench.recipe import Norm, Settings, Threat

_TARGETS = 9  # in the standard version; fewer when there are fewer classes


class AutoAttackState(Settings):
    """What is finished, as plain JSON: all that a killed run needs to continue."""

    survivors: dict[str, tuple[bool, ...]]
    """An image's outcome, still correct or not, under "clean" and after each attack begun."""
    done: dict[str, int]
    """How many images the attack has tried so far."""
    warnings: tuple[str, ...] = ()


class _Batch(NamedTuple):
    """One attack on one batch, on the CPU."""

    positions: Tensor
    """int64 [B], among the images."""
    correct: Tensor
    """bool [B]: still correct."""
    x_adv: Tensor
    """float32 [B, C, H, W]."""
    warnings: list[str]


class AutoAttackResult(NamedTuple):
    """Outcomes of N images, in their order."""

    clean: Tensor
    """bool [N]: correct before any attack."""
    robust: Tensor
    """bool [N]: correct after all of them."""
    survivors: dict[str, Tensor]
    """bool [N] after each attack, in the order they ran."""
    x_adv: Tensor
    """float32 [N, C, H, W]: images broken in this call, clean ones elsewhere; a state holds no pixels."""
    warnings: tuple[str, ...]
    """The library's flags, one of each kind: signs that the number cannot be trusted."""
    targets: int
    """Classes the targeted attacks tried: 9, or all wrong ones when there are fewer."""
    package: str
    package_version: str


def auto_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: Threat,
    num_classes: int,
    seed: int,
    batch_size: int,
    version: Version = "standard",
    state: AutoAttackState | None = None,
    on_state: Callable[[AutoAttackState], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> AutoAttackResult:
    """Attack every image with the official AutoAttack and return which ones stay correctly classified.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes]; attacked frozen and in eval mode.
        images: float32 [N, C, H, W] in [0, 1].
        labels: int64 [N], on the images' device.
        threat: norm and eps.
        num_classes: at least 4.
        seed: of the run; each (attack, batch) derives its own.
        batch_size: images attacked at a time.
        version: the library's set of attacks; papers report "standard".
        state: continue from here.
        on_state: called after each (attack, batch) with all that is finished; keep it to be able to resume.
        on_progress: called when an attack begins and after each batch, with the attack, the number
            of images tried, and the number to try.

    Raises:
        BenchError: see :func:`check_autoattack`; logits under attack that are not finite; a state of other images; an
            image that the library moved outside the threat model.
    """
    check_autoattack(num_classes, images.shape[1:], threat.norm)
    _refuse_other(len(images), state)
    images = images.detach().contiguous()
    x_adv = images.clone()
    targets = min(_TARGETS, num_classes - 1)
    flags = Flags(state.warnings if state else ())
    done = dict(state.done) if state else {}
    with attacking(model), torch.no_grad():
        watched = _Watched(model)
        official = OfficialAutoAttack(
            watched, threat=threat, targets=targets, version=version, device=images.device, flags=flags
        )
        survivors = (
            _restored(state, images.device) if state else {"clean": _all_correct(model, images, labels, batch_size)}
        )
        for before, attack in pairwise(("clean", *official.attacks)):
            to_try = survivors[before].nonzero()[:, 0]
            robust = survivors.setdefault(attack, survivors[before].clone())
            if on_progress:
                on_progress(attack, done.get(attack, 0), len(to_try))

            def attacked(first: int, attack: str = attack, to_try: Tensor = to_try) -> _Batch:
                batch = to_try[first : first + batch_size]
                x, y = images[batch], labels[batch]
                stream = (seed, "autoattack", attack, first)
                with rng.scoped(*stream, device=images.device):
                    found = official.run(attack, x, y, seed=rng.derive(*stream) % 2**31)
                watched.refuse_not_finite(attack)
                refuse_outside(found, x, threat, f"AutoAttack ({attack} of {official.package})")
                # The library's verdict is not used: the model's answer on the returned image counts.
                return _Batch(batch.cpu(), _correct(model, found, y).cpu(), found.cpu(), list(flags.raised))

            for batch, correct, found, raised in in_turn(range(done.get(attack, 0), len(to_try), batch_size), attacked):
                batch, correct, found = (tensor.to(images.device) for tensor in (batch, correct, found))
                for warning in raised:
                    flags.warning(warning)
                robust[batch] = correct
                x_adv[batch] = torch.where(correct[:, None, None, None], images[batch], found)
                done[attack] = done.get(attack, 0) + len(batch)
                if on_state:
                    on_state(_state(survivors, done, flags))
                if on_progress:
                    on_progress(attack, done[attack], len(to_try))
    official.check_square({name: outcome.double().mean().item() for name, outcome in survivors.items()})
    return AutoAttackResult(
        clean=survivors["clean"],
        robust=survivors[official.attacks[-1]],
        survivors={attack: survivors[attack] for attack in official.attacks},
        x_adv=x_adv,
        warnings=tuple(flags.raised),
        targets=targets,
        package=official.package,
        package_version=official.package_version,
    )


def square(model: nn.Module, images: Tensor, labels: Tensor, *, threat: Threat, seed: int, queries: int) -> Tensor:
    """Return ``images`` with those replaced that the library's Square attack breaks; it needs no gradient.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, classes]; attacked frozen and in eval mode.
        images: float32 [B, C, H, W] in [0, 1].
        labels: int64 [B].
        threat: norm and eps.
        seed: determines every draw.
        queries: passes of each image at most; the standard version of AutoAttack makes 5,000.

    The images have to be such as :func:`square_fits` allows.
    """
    images, device = images.detach().contiguous(), images.device
    with attacking(model), torch.no_grad(), rng.scoped(seed, "square", device=device):
        official = OfficialAutoAttack(
            model, threat=threat, targets=1, version="standard", device=device, flags=Flags(), queries=queries
        )
        found = official.run("square", images, labels, seed=rng.derive(seed, "square") % 2**31)
    refuse_outside(found, images, threat, f"AutoAttack (square of {official.package})")
    return found


def check_autoattack(num_classes: int, shape: Sequence[int], norm: Norm, *, data: str = "this dataset") -> None:
    """Raise BenchError if AutoAttack cannot attack images of ``shape`` (C, H, W) in ``num_classes`` under ``norm``.

    Args:
        num_classes: its targeted loss compares four logits.
        shape: see :func:`square_fits`.
        norm: of the threat model.
        data: their name in the message.
    """
    instead = "Leave it out with --set evaluate.autoattack=false"
    if num_classes < 4:
        raise BenchError(f"AutoAttack's targeted losses need at least 4 classes; {data} has {num_classes}. {instead}")
    if not square_fits(shape, norm):
        height, width = shape[1:]
        raise BenchError(
            "AutoAttack's Square needs square images of at least 5 x 5 pixels under threat.norm=l2; those of "
            f"{data} are {height} x {width}. {instead}, or attack under --set threat.norm=linf"
        )


def square_fits(shape: Sequence[int], norm: Norm) -> bool:
    """Return whether the library's Square can attack images of ``shape`` (C, H, W) under ``norm``.

    Under ``l2`` it cuts images into five rows and as many columns, and draws both corners within the height.
    """
    height, width = shape[1:]
    return norm != "l2" or height == width >= 5


class _Watched(nn.Module):
    """A model that notes logits that are not finite: the library takes them for an answer, class 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.found = model, torch.tensor(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        self.found = self.found.to(logits.device) | ~logits.detach().isfinite().all()  # read later: a GPU need not wait
        return logits

    def refuse_not_finite(self, attack: str) -> None:
        """Raise BenchError if any logits were not finite until now, the end of ``attack``."""
        if self.found:
            raise BenchError(
                f"the classifier's logits are not all finite under AutoAttack's {attack}, which takes those for an "
                "answer, class 0. So AA cannot be measured. Look for a division by zero or a number that grows too "
                "large in the network, or leave AutoAttack out with --set evaluate.autoattack=false"
            )


def _refuse_other(images: int, state: AutoAttackState | None) -> None:
    saved = len(state.survivors["clean"]) if state else images
    if saved != images:
        raise BenchError(
            f"the saved AutoAttack state covers {saved} images, but this run has {images}. "
            "Delete the saved state to start again, or run with the settings it was made with."
        )


def _all_correct(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    batches = [slice(first, first + batch_size) for first in range(0, len(images), batch_size)]
    return torch.cat([_correct(model, images[batch], labels[batch]) for batch in batches])


def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return correct(model(images), labels)


def _state(survivors: dict[str, Tensor], done: dict[str, int], flags: Flags) -> AutoAttackState:
    outcomes = {name: tuple(outcome.tolist()) for name, outcome in survivors.items()}
    return AutoAttackState(survivors=outcomes, done=dict(done), warnings=tuple(flags.raised))


def _restored(state: AutoAttackState, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.tensor(outcome, device=device) for name, outcome in state.survivors.items()}
