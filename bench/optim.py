"""Optimisers as the papers' repositories used them, over named parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

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
        BenchError: its state holds what belongs to no parameter, or is neither a tensor nor a number.
    """
    names = _names(optimizer, module)
    _refuse_odd_state(optimizer)
    state = optimizer.state_dict()
    found = {f"{what}.{names[i]}": value for i, values in state["state"].items() for what, value in values.items()}
    for i, group in enumerate(state["param_groups"]):
        found |= {f"{_GROUP}.{i}.{key}": value for key, value in _numbers(group)}
    return dict(_plain(name, value) for name, value in found.items() if value is not None)


def unsaved_settings(optimizer: Optimizer) -> dict[str, Any]:
    """Return what the groups of ``optimizer`` hold beside their rates and what :func:`optimizer_tensors` returns."""
    return {
        f"{_GROUP} {i} {key}": value
        for i, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if key not in {"params", "lr", *dict(_numbers(group))}
    }


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
    for name, parameter in zip(names, _parameters(optimizer), strict=True):
        for what, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and (saved := tensors.get(f"{what}.{name}")) is not None:
                # empty_like keeps the parameter's memory format, which the speed of the update depends on; torch has
                # converted the values to its type.
                like = parameter if value.shape == parameter.shape else value
                exact = torch.empty_like(like, dtype=saved.dtype, device=value.device).copy_(saved)
                optimizer.state[parameter][what] = exact


def _names(optimizer: Optimizer, module: nn.Module) -> list[str]:
    """Return the names of the parameters of ``optimizer``, in its order."""
    of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [of[id(parameter)] for parameter in _parameters(optimizer)]


def _refuse_odd_state(optimizer: Optimizer) -> None:
    held = {id(parameter) for parameter in _parameters(optimizer)}
    for key, values in optimizer.state.items():
        if id(key) not in held or not isinstance(values, dict):
            what = "the state of a tensor that no group holds" if isinstance(key, Tensor) else repr(key)
            raise BenchError(
                f"the optimiser's state holds {what}, which cannot be saved. Keep in it, for each parameter of the "
                "groups, tensors and numbers by name; other numbers belong in a group."
            )


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
        BenchError: it is no optimiser, or one that asks for the loss several times a step or cannot be saved.
    """
    if (fault := _fault(optimizer)) is not None:
        raise BenchError(
            f"the optimizer() of a stage returned a {type(optimizer).__name__}{fault}. It must return one "
            "torch.optim.Optimizer whose step takes one gradient, such as SGD or AdamW, and whose state_dict() holds "
            "all that its steps depend on. Parameters with a rate of their own are a group of it: docs/methods.md"
        )
    for group in optimizer.param_groups:
        group[_SHARE] = group["lr"] / peak
    return optimizer


def _fault(optimizer: object) -> str | None:
    """Return why ``optimizer`` can train no stage, in words that follow its type; None: it can."""
    if not isinstance(optimizer, Optimizer):
        return ""
    try:
        signature(optimizer.step).bind()
    except TypeError:
        return ", whose step cannot be taken without a closure"
    for value in vars(optimizer).values():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if any(isinstance(part, Optimizer) for part in parts):
            return ", which holds other optimisers"
    state: object = optimizer.state_dict()
    if not isinstance(state, dict) or state.keys() != {"state", "param_groups"}:
        return ", whose state_dict() has another form than torch's, state and param_groups"
    return None


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
