"""The official AutoAttack library, from whichever of its packages is installed, behind one small interface.

The attacks are the library's and run with its parameters; nothing is re-implemented.

Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (2020).
"""

import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.attack.frozen import needing_gradients
from bench.errors import BenchError
from bench.recipe import Norm, Threat

Version = Literal["standard", "plus", "rand"]

_PACKAGES = ("pyautoattack", "autoattack")
_WITHOUT = "leave it out with `--set evaluate.autoattack=false`"
_NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}


class Flags:
    """Stands in for the library's logger and keeps the first warning of each kind."""

    def __init__(self, raised: Iterable[str] = ()) -> None:
        self.raised = list(raised)

    def warning(self, message: str) -> None:
        """Keep a warning, unless one that differs only in its numbers was kept before."""
        if _kind(message) not in map(_kind, self.raised):
            self.raised.append(message)

    def log(self, message: str) -> None:
        """Take the original package's log lines, which mark warnings by a prefix."""
        if message.startswith("Warning: "):
            self.warning(message.removeprefix("Warning: "))

    def debug(self, message: str) -> None:
        """Drop progress lines: the caller reports progress."""

    info = debug


class OfficialAutoAttack:
    """One library object for one model, made to run one attack on one batch at a time.

    Args:
        model: [B, C, H, W] in [0, 1] -> logits [B, K].
        threat: norm and eps.
        targets: how many classes the targeted attacks try; the library's 9 need 10 classes.
        version: the library's name for a set of attacks with their parameters.
        device: where the images are.
        flags: receives the library's warnings.
        queries: how often Square may ask; None: the library's number.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        threat: Threat,
        targets: int,
        version: Version,
        device: torch.device,
        flags: Flags,
        queries: int | None = None,
    ) -> None:
        library = _library()
        self._model = model
        self.package = library.__name__
        self.package_version = metadata.version(self.package)
        original = self.package == "autoattack"
        self._batch_size_name = "bs" if original else "batch_size"
        self._checks: Any = import_module(f"{self.package}.checks")
        self._adversary: Any = library.AutoAttack(
            model,
            norm=_NORMS[threat.norm],
            eps=threat.eps,
            version=version,
            device=device,
            **({"verbose": False} if original else {}),
        )
        parts = self._adversary, self._adversary.apgd, self._adversary.apgd_targeted
        for part in parts:
            part.logger = flags
        self._adversary.apgd_targeted.n_target_classes = self._adversary.fab.n_target_classes = targets
        if queries is not None:
            self._adversary.square.n_queries = queries
        self.attacks: tuple[str, ...] = tuple(self._adversary.attacks_to_run)
        self._flags = flags

    def run(self, attack: str, images: Tensor, labels: Tensor, *, seed: int) -> Tensor:
        """Return ``images``, with those that ``attack`` broke replaced; reseeds the global generators.

        Args:
            attack: one of ``self.attacks``.
            images: float32 [B, C, H, W] in [0, 1], contiguous (the library flattens with ``view``).
            labels: int64 [B].
            seed: determines every draw.
        """
        self._adversary.attacks_to_run = [attack]
        self._adversary.seed = seed
        # To find defences that call autograd, the library counts in a module global and sets a trace
        # function: without these lines one flagged model flags the next, and debuggers and coverage stop working.
        self._checks.funcs.update(dict.fromkeys(self._checks.funcs, 0))
        trace = sys.gettrace()
        try:
            with needing_gradients(self._model, images, "AutoAttack", _WITHOUT):
                size = {self._batch_size_name: len(images)}
                outcome = self._adversary.run_standard_evaluation(images, labels, **size)
        finally:
            sys.settrace(trace)
        x_adv: Tensor = outcome[0] if isinstance(outcome, tuple) else outcome
        return x_adv

    def check_square(self, accuracy: Mapping[str, float]) -> None:
        """Raise the library's flag for a black-box attack that beats the white-box ones.

        Args:
            accuracy: the share of all images that survived "clean" and each attack.
        """
        self._checks.check_square_sr(dict(accuracy), logger=self._flags)


def installed_package() -> str:
    """Return the name of the package whose AutoAttack runs; raises BenchError where there is none."""
    return _library().__name__


def apgd(
    model: nn.Module,
    threat: Threat,
    *,
    steps: int,
    seed: int,
    loss: Literal["ce", "dlr", "dlr-targeted"],
) -> Any:
    """Return the library's APGD with one random start, which draws from the global generators.

    Args:
        model: [B, C, H, W] in [0, 1] -> logits [B, K].
        threat: norm and eps.
        steps: of the attack.
        seed: its ``perturb`` sets the global generators to it.
        loss: what is maximised.
    """
    base: Any = import_module(f"{installed_package()}.autopgd_base")
    targeted = loss == "dlr-targeted"
    make = base.APGDAttack_targeted if targeted else base.APGDAttack
    return make(
        model,
        n_iter=steps,
        norm=_NORMS[threat.norm],
        n_restarts=1,
        eps=threat.eps,
        seed=seed,
        logger=Flags(),
        **({} if targeted else {"loss": loss}),
    )


def _library() -> ModuleType:
    # The declared dependency comes first: a package that installs the other one must not change our numbers.
    for name in _PACKAGES:
        if find_spec(name):
            return import_module(name)
    raise BenchError(f"AutoAttack is not installed. Type `pip install pyautoattack`, or {_WITHOUT}.")


def _kind(message: str) -> str:
    return re.sub(r"\d[\d.]*", "#", message)
