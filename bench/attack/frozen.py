"""Models under attack: the gradient reaches the pixels, or one message says so, and the model does not change."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.errors import BenchError


@contextmanager
def attacking(*modules: nn.Module, train_mode: bool = False) -> Iterator[None]:
    """Freeze the parameters of ``modules`` and put them in eval mode; restore both on leaving.

    Inference mode, in which no gradient would reach the pixels, is left meanwhile.

    Args:
        modules: the networks the attack differentiates through.
        train_mode: leave every training flag as it is, for methods that attack with batch statistics (AdvCL);
            running statistics then move, as they do in those methods.

    Raises:
        BenchError: a module was made in inference mode.
    """
    _refuse_inference(modules)
    # One flag per submodule: an encoder frozen inside a classifier in training must stay frozen afterwards.
    modes = [(part, part.training) for module in modules for part in module.modules()]
    learnt = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for parameter, _ in learnt:
            parameter.requires_grad_(False)
        if not train_mode:
            for part, _ in modes:
                part.training = False  # not part.eval(), which the module of an exported program refuses
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(recording):
            yield
    finally:
        for parameter, requires_grad in learnt:
            parameter.requires_grad_(requires_grad)
        for part, training in modes:
            part.training = training


def _refuse_inference(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if any(tensor.is_inference() for tensor in (*module.parameters(), *module.buffers())):
            raise BenchError(
                "the model was made under torch.inference_mode(), and no gradient passes through its tensors. Make it "
                "outside of that, or pass copy.deepcopy(model), made outside of it."
            )


@contextmanager
def needing_gradients(model: nn.Module, images: Tensor, culprit: str, instead: str) -> Iterator[None]:
    """Raise BenchError for PyTorch's error where no gradient of ``model`` reaches the pixels of ``images``.

    Args:
        model: [B, C, H, W] -> logits [B, K].
        images: [B, C, H, W].
        culprit: the attack that needs gradients.
        instead: what to do without it.
    """
    try:
        yield
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        with torch.enable_grad():
            reached: bool = model(images[:1].detach().requires_grad_()).requires_grad
        if reached:  # then it is the attack's own mistake
            raise
        raise no_path(culprit, f", or {instead}") from None


def no_path(culprit: str, instead: str = "") -> BenchError:
    """Return the error of an attack, ``culprit``, whose gradients do not reach the pixels."""
    return BenchError(
        f"the logits depend on the pixels by no path that has gradients, so {culprit} cannot run. Look for "
        f"detach, no_grad and NumPy in the model{instead}."
    )
