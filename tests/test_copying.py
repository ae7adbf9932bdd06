"""The copy that is attacked: it equals a deep copy, and shares nothing with the original."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import mutation_guard
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from bench import rng
from bench.nn import copying, frozen_copy, trainable_copy

TAGGED = {"___has_generation_tag_patch", "___needs_generation_tag_patch"}
"""What torch leaves on ``nn.Module`` when it has put its own functions there, for good."""


class Tied(nn.Module):
    """Two layers with one weight, references outside of ``_modules``, a hook, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.order = [self.second, self.first, self]
        self.shift = torch.ones(3)
        self.first.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.order[0](self.order[1](x))) + self.shift
        return out


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with rng.scoped(0, "copies"):
        return make()


def tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def check(module: nn.Module) -> nn.Module:
    """Check the copy of ``module`` against a deep copy, and return it."""
    x = torch.rand(4, 3, generator=rng.generator(0, "images"))
    copy, deep = frozen_copy(module), deepcopy(module).eval()
    torch.testing.assert_close(copy(x), deep(x), rtol=0, atol=0)
    assert copy.state_dict().keys() == module.state_dict().keys()
    assert not {one.data_ptr() for one in tensors(module)} & {one.data_ptr() for one in tensors(copy)}
    assert not any(
        parameter.requires_grad or part.training for part in copy.modules() for parameter in part.parameters()
    )
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(part.training for part in module.modules())
    return copy


def test_references_stay_within_the_copy() -> None:
    copy = check(built(Tied))
    assert isinstance(copy, Tied)
    assert copy.order == [copy.second, copy.first, copy]
    assert copy.first.weight is copy.second.weight


def test_hooks_and_tensors_of_the_copy_are_its_own() -> None:
    module = built(Tied)
    copy = check(module)
    assert isinstance(module, Tied)
    assert isinstance(copy, Tied)
    module.shift += 1
    module.first._forward_hooks.clear()
    assert copy.shift.sum() == 3
    assert len(copy.first._forward_hooks) == 1


def test_a_module_that_is_more_than_its_attributes_is_copied_as_it_says() -> None:
    check(built(lambda: nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3))))


def test_modules_are_copied_as_fast_after_a_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__", "__setstate__"):
        monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))  # put back after the test
    for name in TAGGED:
        monkeypatch.delattr(nn.Module, name, raising=False)
    mutation_guard.install_generation_tagging_init()
    for name in TAGGED & {*vars(nn.Module)}:
        delattr(nn.Module, name)
    module = built(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    with monkeypatch.context() as patch:
        patch.delattr(copying, "deepcopy")  # what is slow, and refuses weights that a step has computed
        frozen_copy(module)
    check(module)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_a_step_has_computed_is_copied_without_that_step() -> None:
    module = built(lambda: nn.Sequential(old_weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3)))
    x = torch.rand(4, 3, generator=rng.generator(0, "images"))
    module(x).square().sum().backward()
    frozen, learning = frozen_copy(module), trainable_copy(module)
    with pytest.raises(RuntimeError, match="support the deepcopy protocol"):
        deepcopy(module)
    assert torch.equal(frozen(x), module.eval()(x))
    learning(x).square().sum().backward()
    grads = [parameter.grad for parameter in learning.parameters()]
    assert all(grad is not None and bool(grad.ne(0).any()) for grad in grads[1:3]), "its own weight is what it learns"
