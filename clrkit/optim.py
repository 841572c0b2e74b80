"""LARS, warmup with cosine decay, and which parameters are decayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim import Optimizer as TorchOptimizer

from clrkit import processes
from clrkit.config import Optimizer

Tensors = list[Tensor] | tuple[Tensor, ...]


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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self.update(parameters, group)
        return loss

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One step of a group: v = m v + lr * trust * g; w -= v. All parameters at once: few calls."""
        gradients: Tensors = [cast(Tensor, parameter.grad) for parameter in parameters]
        if group["adapt"]:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
            # Trust ratios are 1 where a norm is 0. They stay on the device: no step waits for it.
            weights, slopes = (torch.stack(torch._foreach_norm(each)) for each in (parameters, gradients))
            trust = group["trust_coefficient"] * weights / slopes
            trust = torch.where((weights > 0) & (slopes > 0), trust, 1.0)
            torch._foreach_mul_(gradients, (trust * group["lr"]).unbind())
        else:
            gradients = torch._foreach_mul(gradients, group["lr"])
        buffers = [self.buffer(parameter) for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        if group["nesterov"]:
            torch._foreach_add_(gradients, buffers, alpha=group["momentum"])
        torch._foreach_sub_(parameters, gradients if group["nesterov"] else buffers)

    def buffer(self, parameter: Tensor) -> Tensor:
        """The momentum of a parameter, 0 at first."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return cast(Tensor, state["momentum_buffer"])


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
    """Return the optimiser of a config over a model's parameters; its rate is set before every step."""
    kind: type[TorchOptimizer] = {"lars": LARS, "sgd": SGD, "adamw": AdamW}[config.optimizer]
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        settings |= {"betas": (config.momentum, 0.999), "fused": True}
    else:
        settings |= {"momentum": config.momentum}
    if config.optimizer == "sgd":
        settings |= {"nesterov": config.momentum > 0}
    return processes.current().make_optimizer(kind, parameter_groups(model), **settings)


def peak_rate(config: Optimizer, batch_size: int) -> float:
    """Learning rate after warmup: the base rate scaled with the global batch."""
    scale = {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}
    return config.learning_rate * scale[config.scaling]


def learning_rate(config: Optimizer, step: int, batch_size: int, images: int, total: int) -> float:
    """Linear warmup from 0, then cosine to 0 (official `WarmUpAndCosineDecay`).

    Warmup is rounded down to whole steps, as the official one. The official total is images * epochs //
    batch + 1. Here the last, incomplete batch of each epoch is dropped.

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
