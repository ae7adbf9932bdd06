"""Models under attack: the gradient reaches the pixels, and the model does not change."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def attacking(*modules: nn.Module, train_mode: bool = False) -> Iterator[None]:
    """Freeze the parameters of ``modules`` and put them in eval mode; restore both on leaving.

    Args:
        modules: the networks the attack differentiates through.
        train_mode: leave every training flag as it is, for methods that attack with batch statistics (AdvCL);
            running statistics then move, as they do in those methods.
    """
    # One flag per submodule: an encoder frozen inside a classifier in training must stay frozen afterwards.
    modes = [(part, part.training) for module in modules for part in module.modules()]
    learnt = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for parameter, _ in learnt:
            parameter.requires_grad_(False)
        if not train_mode:
            for module in modules:
                module.eval()
        yield
    finally:
        for parameter, requires_grad in learnt:
            parameter.requires_grad_(requires_grad)
        for part, training in modes:
            part.training = training
