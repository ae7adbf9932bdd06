"""Optimisers as the papers' repositories used them, over named parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW, Optimizer

from bench.errors import BenchError
from bench.monitor import plural
from bench.recipe import TrainPlan

_GROUP, _NUMBER = "group", ":number"
_SHARE = "lr_share"
"""Of a parameter group: its rate as a multiple of the plan's. Like the rate it follows from the code, unsaved."""


class LARS(SGD):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888), then SGD with momentum.

    For a tensor p with gradient g: r = eta |p| / (|g| + wd |p| + 1e-8), clipped to min(r / lr, 1) where
    ``lars_clip`` asks for it (LARC), and g <- r (g + wd p). A tensor whose p or g is zero keeps r = 1 and, as in
    solo-learn, its undecayed gradient. ``lars_exclude_vectors``: one-dimensional tensors are neither scaled nor
    decayed.

    The trust ratios stay on the device: a step never waits for it.
    """

    def __init__(self, params: Iterable[Tensor], plan: TrainPlan) -> None:
        super().__init__(params, **_sgd_settings(plan))
        self._plan = plan

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scale the gradients in place, then take SGD's step."""
        self.scale_gradients()
        return super().step(closure)

    @torch.no_grad()
    def scale_gradients(self) -> None:
        """Replace each gradient g by r (g + wd p)."""
        for group in self.param_groups:
            scaled = [
                p
                for p in group["params"]
                if p.grad is not None and not (self._plan.lars_exclude_vectors and p.ndim == 1)
            ]
            if scaled:
                self._scale(scaled, float(group["lr"]))

    def _scale(self, params: list[Tensor], lr: float) -> None:
        grads, decay = [p.grad for p in params if p.grad is not None], self._plan.weight_decay
        weight_norm = torch.stack(torch._foreach_norm(params))
        grad_norm = torch.stack(torch._foreach_norm(grads))
        ratio = self._plan.lars_eta * weight_norm / (grad_norm + decay * weight_norm + 1e-8)
        if self._plan.lars_clip and lr > 0:
            ratio = (ratio / lr).clamp(max=1.0)
        live = (weight_norm > 0) & (grad_norm > 0)
        decays = live * torch.full_like(ratio, decay)  # a bare number would be rounded to float32
        torch._foreach_add_(grads, torch._foreach_mul(params, list(decays.unbind())))
        torch._foreach_mul_(grads, list(torch.where(live, ratio, torch.ones_like(ratio)).unbind()))


def build_optimizer(plan: TrainPlan, module: nn.Module) -> Optimizer:
    """Return the optimiser of ``plan`` over every parameter of ``module`` that requires a gradient."""
    params = trained(module)
    if plan.optimizer == "lars":
        return LARS(params, plan)
    if plan.optimizer == "adamw":
        betas = (plan.momentum, plan.beta2)
        return AdamW(params, lr=plan.effective_lr, betas=betas, weight_decay=plan.weight_decay)
    return SGD(params, **_sgd_settings(plan), weight_decay=plan.weight_decay)


def _sgd_settings(plan: TrainPlan) -> dict[str, Any]:
    return {"lr": plan.effective_lr, "momentum": plan.momentum, "nesterov": plan.nesterov}


def trained(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of ``module`` that require a gradient, in its order."""
    return [p for p in module.parameters() if p.requires_grad]


def optimizer_tensors(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``optimizer`` by name; numbers become tensors of one value.

    ``exp_avg.encoder.conv1.weight`` belongs to a parameter of ``module``, ``group.0.weight_decay`` to a group.

    Raises:
        BenchError: its state holds something that is neither a tensor nor a number.
    """
    names = _names(optimizer, module)
    state = optimizer.state_dict()
    found = {f"{what}.{names[i]}": value for i, values in state["state"].items() for what, value in values.items()}
    for i, group in enumerate(state["param_groups"]):
        found |= {f"{_GROUP}.{i}.{key}": value for key, value in _numbers(group)}
    return dict(_plain(name, value) for name, value in found.items() if value is not None)


def restore_optimizer(optimizer: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what :func:`optimizer_tensors` returned into ``optimizer``, new and of the same kind, in place."""
    names = _names(optimizer, module)
    fresh = optimizer.state_dict()
    for i, group in enumerate(fresh["param_groups"]):
        for key, value in _numbers(group):
            saved = tensors.get(f"{_GROUP}.{i}.{key}{_NUMBER}")
            group[key] = value if saved is None else saved.item()
    by_name = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = defaultdict(dict)
    for key, tensor in tensors.items():
        what, _, name = key.removesuffix(_NUMBER).partition(".")
        if name in by_name:
            state[by_name[name]][what] = tensor.item() if key.endswith(_NUMBER) else tensor
    optimizer.load_state_dict({**fresh, "state": dict(state)})
    for parameter, values in optimizer.state.items():
        for what, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # empty_like keeps the parameter's memory format, which the speed of the update depends on.
                values[what] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _names(optimizer: Optimizer, module: nn.Module) -> list[str]:
    """Return the names of the parameters of ``optimizer``, in its order."""
    of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _numbers(group: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    return [(key, value) for key, value in group.items() if type(value) in (int, float) and key not in ("lr", _SHARE)]


def _plain(name: str, value: object) -> tuple[str, Tensor]:
    if isinstance(value, Tensor):
        return name, value
    if isinstance(value, int | float):
        return name + _NUMBER, torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    raise BenchError(
        f"the optimiser's state holds {name}, a {type(value).__name__}, which cannot be saved. Keep only tensors and "
        "numbers in it."
    )


def keep_proportions(optimizer: Optimizer, peak: float) -> Optimizer:
    """Return the new ``optimizer``, whose groups keep their rates in proportion to ``peak``, the plan's.

    So a group with a tenth of the plan's rate has a tenth of it in every step.

    Raises:
        BenchError: it is no optimiser, or one that asks for the loss several times a step.
    """
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        raise BenchError(
            f"the optimizer() of a stage returned a {type(optimizer).__name__}. It must return a torch.optim.Optimizer "
            "whose step takes one gradient, such as SGD or AdamW."
        )
    for group in optimizer.param_groups:
        group[_SHARE] = group["lr"] / peak
    return optimizer


def refuse_strangers(optimizer: Optimizer, module: nn.Module) -> None:
    """Raise BenchError if ``optimizer`` trains what is no parameter of ``module`` and so would not be saved."""
    own = {id(parameter) for parameter in module.parameters()}
    strangers = sum(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"])
    if strangers:
        raise BenchError(
            f"{plural(strangers, 'parameter')} of the optimiser of {type(module).__name__} could not be saved, as no "
            "module of it holds them. Assign them to it as nn.Parameter, or their modules in an nn.ModuleList."
        )


def untrained(optimizer: Optimizer, module: nn.Module) -> list[str]:
    """Return the names of the parameters of ``module`` that require a gradient and are not in ``optimizer``."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in held]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group to ``lr``, or to the group's share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(_SHARE, 1.0)
