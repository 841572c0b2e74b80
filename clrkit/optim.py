"""LARS, warmup with cosine decay, and which parameters are decayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim import Optimizer as TorchOptimizer

from clrkit.config import Optimizer


class LARS(TorchOptimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017) as the official `tf2/lars_optimizer.py`.

    The learning rate and the trust ratio go into the momentum buffer, and a layer is adapted whether or not
    it is decayed. Groups with `adapt=False` (batch norm, biases, classifier) are plain momentum SGD.

    Args:
        params: parameters or groups; a group may set `adapt` and `weight_decay`.
        lr: learning rate.
        momentum: of the buffer.
        weight_decay: added to the gradient before the trust ratio, in adapted groups.
        trust_coefficient: eta of the paper.
        nesterov: look one momentum step ahead.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapt": True}
        defaults |= {"trust_coefficient": trust_coefficient, "nesterov": nesterov}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)
        return loss

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step of one parameter: v = m v + lr * trust * g; w -= v."""
        if group["adapt"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
            gradient = gradient * trust_ratio(parameter, gradient, group["trust_coefficient"])
        gradient = gradient * group["lr"]
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        parameter.sub_(buffer.mul(group["momentum"]).add_(gradient) if group["nesterov"] else buffer)


def trust_ratio(parameter: Tensor, gradient: Tensor, coefficient: float) -> Tensor:
    """Ratio coefficient * |w| / |g|, and 1 where either norm is 0; stays on the device."""
    weight_norm, gradient_norm = parameter.norm(), gradient.norm()
    ratio = coefficient * weight_norm / gradient_norm
    return torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights that are decayed and adapted, and those that are not: batch norm, biases, classifier.

    A lone linear layer is a probe, a classifier too: LARS neither adapts nor decays it (official
    `head_supervised`); SGD and AdamW decay its weight as their recipes say.
    """
    weights: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        excluded = parameter.ndim == 1 or name.startswith("classifier")
        (rest if excluded else weights).append(parameter)
    adapt = not isinstance(model, nn.Linear)
    groups = [{"params": weights, "adapt": adapt}, {"params": rest, "adapt": False, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(config: Optimizer, model: nn.Module) -> TorchOptimizer:
    """The optimiser of a config over a model's trainable parameters; its rate is set before every step."""
    groups, lr = parameter_groups(model), config.learning_rate
    if config.optimizer == "lars":
        return LARS(groups, lr, config.momentum, config.weight_decay)
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return SGD(groups, lr, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov)
    return AdamW(groups, lr, (config.momentum, 0.999), weight_decay=config.weight_decay, fused=True)


def peak_rate(config: Optimizer, batch_size: int) -> float:
    """Learning rate after warmup: the base rate scaled with the global batch."""
    scale = {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}
    return config.learning_rate * scale[config.scaling]


def learning_rate(config: Optimizer, step: int, batch_size: int, images: int, total: int) -> float:
    """Linear warmup from 0, then cosine to 0 (official `WarmUpAndCosineDecay`).

    Warmup is rounded down to whole steps, as the official one. The official total is images * epochs //
    batch + 1, the remainders of all epochs counted together and one step more; a run here has whole batches
    of each epoch alone.

    Args:
        config: base rate, scaling and warmup.
        step: counted from 0; with warmup the first step has rate 0.
        batch_size: global batch, images.
        images: images in an epoch.
        total: steps in the run.
    """
    peak = peak_rate(config, batch_size)
    warmup = int(config.warmup_epochs * images // batch_size)
    if step < warmup:
        return peak * step / warmup
    done = min(step - warmup, total - warmup) / max(total - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
